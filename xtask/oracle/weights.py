"""Writes a model that is nothing but weights, for measuring how fast files are read and written.

usage: weights.py GIGABYTES inline|external FILE
"""

import os
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

TENSOR_BYTES = 1 << 26


def main() -> int:
    """Writes FILE, and FILE.data beside it if the weights are external."""
    gigabytes, form, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    count = gigabytes * 10**9 // TENSOR_BYTES
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = []
    data = path.with_name(path.name + ".data")
    with data.open("wb") as out:
        for i in range(count):
            tensor = TensorProto(name=f"w{i}", dims=[TENSOR_BYTES // 4], data_type=TensorProto.FLOAT)
            raw = os.urandom(1 << 20) * (TENSOR_BYTES >> 20)
            if form == "inline":
                tensor.raw_data = raw
            else:
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", data.name), ("offset", i * TENSOR_BYTES), ("length", TENSOR_BYTES)):
                    tensor.external_data.add(key=key, value=str(value))
                out.write(raw)
            tensors.append(tensor)
    if form == "inline":
        data.unlink()
    names = [tensor.name for tensor in tensors]
    nodes = [helper.make_node("Sum", names, ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [TENSOR_BYTES // 4])
    graph = helper.make_graph(nodes, "weights", [], [output], initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
