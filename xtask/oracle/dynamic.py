"""What squint quantizes in every run is what ONNX Runtime fuses.

A model with each operator that can, in the surroundings that could keep the runtime from it (several readers of a value,
a bias on either side of its Add, weights stored by rows, a batch of unknown length), goes through `squint quantize
--scheme dynamic`; in the graph that the runtime writes after its optimizations each must be one integer kernel.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiler import Squint
from measure import optimized_operators, session, sqnr
from report import Report

NAME = "dynamic"
WIDTH = 64
HIDDEN = 32
EXPECTED = {"DynamicQuantizeMatMul": 3, "MatMulIntegerToFloat": 2, "DynamicQuantizeLSTM": 1}
LEAST_SQNR_DB = 25
RUNS = 4


def check(squint: Squint, folder: Path, report: Report) -> None:
    """Quantizes the model without data and counts kernels; outputs are near those of float, whatever the scale."""
    folder.mkdir(parents=True, exist_ok=True)
    original, quantized = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(_model(), original)
    with report.step(f"{NAME}/kernels"):
        squint.run("quantize", str(original), "-o", str(quantized), "--scheme", "dynamic")
        onnx.checker.check_model(quantized)
        seen = optimized_operators(quantized)
        found = {kernel: seen[kernel] for kernel in EXPECTED}
        left = sum(seen[kernel] for kernel in ("MatMul", "Gemm", "LSTM", "MatMulInteger", "Cast"))
        report.check(f"{NAME}/kernels", found == EXPECTED and left == 0, f"{found}, {left} operators not fused")
    with report.step(f"{NAME}/outputs"):
        random = np.random.default_rng(1)
        # Ranges differ from run to run a thousand times.
        feeds = [{"x": (10.0**(run - 2) * random.standard_normal([5, 2, WIDTH])).astype(np.float32)}
                 for run in range(RUNS)]
        before, after = (session(path) for path in (original, quantized))
        worst = min(sqnr([before.run(None, feed)], [after.run(None, feed)]) for feed in feeds)
        report.check(f"{NAME}/outputs", worst >= LEAST_SQNR_DB, f"{worst:.2f} dB at least (bound {LEAST_SQNR_DB})")


def _model() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    constants: list[onnx.TensorProto] = []

    def constant(shape: list[int]) -> str:
        # Weights so small that kernels without VNNI do not saturate either.
        values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        constants.append(numpy_helper.from_array(values, f"k{len(constants)}"))
        return constants[-1].name

    flat = numpy_helper.from_array(np.array([-1, WIDTH], np.int64), "flat")
    gates = 4 * HIDDEN
    node = helper.make_node
    nodes = [
        # Two readers of one value: each its own kernel.
        node("MatMul", ["x", constant([WIDTH, WIDTH])], ["p"], name="left"),
        node("MatMul", ["x", constant([WIDTH, WIDTH])], ["q"], name="right"),
        node("Tanh", ["p"], ["tp"]),
        node("Tanh", ["q"], ["tq"]),
        node("MatMul", ["tp", constant([WIDTH, WIDTH])], ["a"], name="bias_behind"),
        node("Add", ["a", constant([WIDTH])], ["ab"]),
        node("MatMul", ["tq", constant([WIDTH, WIDTH])], ["c"], name="bias_before"),
        node("Add", [constant([WIDTH]), "c"], ["cb"]),
        node("Tanh", ["ab"], ["tab"]),
        node("Reshape", ["tab", "flat"], ["rows"]),
        node("Gemm", ["rows", constant([WIDTH, WIDTH]), constant([WIDTH])], ["y"], name="by_rows", transB=1),
        node("Tanh", ["cb"], ["tcb"]),
        node("LSTM", ["tcb", constant([2, gates, WIDTH]), constant([2, gates, HIDDEN])], ["z"], name="lstm",
             hidden_size=HIDDEN, direction="bidirectional"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "dynamic", [info("x", TensorProto.FLOAT, ["steps", "batch", WIDTH])],
        [info("y", TensorProto.FLOAT, ["rows", WIDTH]), info("z", TensorProto.FLOAT, ["steps", 2, "batch", HIDDEN])],
        [*constants, flat],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
