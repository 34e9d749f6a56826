"""Writes a chain of N Conv+Relu pairs and one calibration sample, to time graph work alone.

usage: chain.py N FOLDER        writes FOLDER/chain-N.onnx and FOLDER/chain.npz

Tensors are tiny (4 channels, 4x4), so that what is timed is rewriting, not arithmetic. Every weight is
non-negative with rows summing to one: activations neither vanish nor grow over thousands of layers.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 4, 4
SHAPE = [1, CHANNELS, SIDE, SIDE]


def chain(pairs: int) -> onnx.ModelProto:
    """A model of `pairs` 1x1 convolutions, each with its own weight and bias and followed by a Relu."""
    random = np.random.default_rng(pairs)
    nodes, initializers = [], []
    value = "x"
    for index in range(pairs):
        weight = random.random((CHANNELS, CHANNELS, 1, 1), dtype=np.float32)
        weight /= weight.sum(axis=1, keepdims=True)
        bias = np.zeros(CHANNELS, np.float32)
        initializers += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        result = "y" if index == pairs - 1 else f"r{index}"
        nodes.append(helper.make_node("Conv", [value, f"w{index}", f"b{index}"], [f"c{index}"], name=f"conv{index}"))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [result], name=f"relu{index}"))
        value = result
    graph = helper.make_graph(
        nodes,
        f"chain-{pairs}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def main() -> None:
    """Writes the two files."""
    pairs, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(chain(pairs), folder / f"chain-{pairs}.onnx")
    sample = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    np.savez(folder / "chain.npz", x=sample)


if __name__ == "__main__":
    main()
