"""Small graphs whose weights and biases are float between quantized activations: what ONNX Runtime quantizes at load.

Rows as those of `patterns.py`.
"""

import onnx
from onnx import TensorProto, helper

from patterns import IMAGE, S8, Net, Row


def float_weight(end: bool = True, bias: bool = True, op_type: str = "Conv") -> onnx.ModelProto:
    """A float weight between quantized activations."""
    net = Net(IMAGE if op_type != "Gemm" else [4, 16])
    weight = net.random(8, 8, 3, 3) if op_type != "Gemm" else net.random(16, 8)
    y = net.op(op_type, net.qdq("x"), weight, *([net.random(8)] if bias else []))
    return net.out(net.qdq(y) if end else y).model()


def replaceable(weight: bool) -> onnx.ModelProto:
    """A float bias, and perhaps a float weight, that are initializers and inputs: callers may replace them."""
    net = Net(IMAGE)
    kernel = net.random(8, 8, 3, 3) if weight else net.weight(8, 8, 3, 3)
    bias = net.random(8)
    model = net.out(net.qdq(net.op("Conv", net.qdq("x"), kernel, bias))).model()
    for name, dims in ((bias, [8]), (kernel, [8, 8, 3, 3])):
        if any(i.name == name for i in model.graph.initializer):
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


def fake_quantized() -> onnx.ModelProto:
    """A weight that is quantized and dequantized in the graph, as training exports it."""
    net = Net(IMAGE)
    y = net.op("Conv", net.qdq("x"), net.qdq(net.random(8, 8, 3, 3), 0.03, 0, S8))
    return net.out(net.qdq(y)).model()


ROWS: dict[str, Row] = {
    "conv-float-weight": float_weight,
    "conv-float-weight-no-bias": lambda: float_weight(bias=False),
    "conv-float-weight-without-result": lambda: float_weight(end=False),
    "conv-fake-quantized-weight": fake_quantized,
    "conv-replaceable-bias": lambda: replaceable(False),
    "conv-replaceable-weight-and-bias": lambda: replaceable(True),
    "gemm-float-weight": lambda: float_weight(op_type="Gemm"),
}
