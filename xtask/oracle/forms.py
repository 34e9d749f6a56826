"""Every operator on integers that `squint convert --format qdq` raises: one small model each, with random integers.

The raised model, optimized, must give what the runtime makes of the operator itself.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from measure import Feed

MICROSOFT = "com.microsoft"
_RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Form:
    """A model of operators on integers, and what it is run on."""

    name: str
    model: onnx.ModelProto
    feed: Feed


def _unsigned(*dims: int) -> np.ndarray:
    return _RANDOM.integers(0, 256, dims).astype(np.uint8)


def _signed(*dims: int) -> np.ndarray:
    """Weights of 7 bits: sums of two products stay within 16, whatever the processor."""
    return _RANDOM.integers(-63, 64, dims).astype(np.int8)


def _scales(*dims: int) -> np.ndarray:
    return (_RANDOM.random(dims) * 0.01 + 0.001).astype(np.float32)


_GRIDS = {
    "xs": np.float32(0.02), "xz": np.uint8(120), "ys": np.float32(0.05), "yz": np.uint8(10),
    "ss": np.float32(0.03), "sz": np.uint8(3), "unit": np.float32(1 / 256), "zero": np.uint8(0),
}
_X, _Y, _S = ["x", "xs", "xz"], ["ys", "yz"], ["ss", "sz"]
_CONV = {
    "w": _signed(6, 4, 3, 3), "ws": _scales(6), "wz": np.zeros(6, np.int8),
    "b": _RANDOM.integers(-20000, 20000, 6).astype(np.int32),
}
_MATRIX = {
    "w": _signed(5, 7), "v": _signed(7, 5), "ws": _scales(7), "wz": np.zeros(7, np.int8),
    "c": _RANDOM.integers(-20000, 20000, 7).astype(np.int32), "f": _RANDOM.random(7).astype(np.float32),
}


def _form(name, nodes, feed, constants, result=TensorProto.UINT8, results=("y",)) -> Form:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()
    ]
    outputs = [helper.make_tensor_value_info(n, result, None) for n in results]
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in {**_GRIDS, **constants}.items()]
    graph = helper.make_graph(nodes, "form", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return Form(name, helper.make_model(graph, opset_imports=imports, ir_version=8), feed)


def _one(name, op_type, operands, x, constants=None, domain=MICROSOFT, result=TensorProto.UINT8, **attributes) -> Form:
    """A single operator on the integers `x`."""
    node = helper.make_node(op_type, operands, ["y"], domain=domain, **attributes)
    return _form(name, [node], {"x": x}, constants or {}, result)


def _dynamic(name, op_type, x, w, w_scale) -> Form:
    """What tools write for dynamic quantization."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node(op_type, ["q", "w", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["scales"]),
        helper.make_node("Mul", ["real", "scales"], ["y"]),
    ]
    return _form(name, nodes, {"x": x.astype(np.float32)}, {"w": w, "ws": w_scale}, TensorProto.FLOAT)


def _moves() -> Form:
    nodes = [
        helper.make_node("QuantizeLinear", _X, ["a"]),
        helper.make_node("Pad", ["a", "pads", "value"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["c"], ["d"]),
        helper.make_node("Split", ["d"], ["e", "f"], axis=3),
        helper.make_node("DequantizeLinear", ["e", "xs", "xz"], ["y"]),
        helper.make_node("DequantizeLinear", ["f", "xs", "xz"], ["z"]),
    ]
    constants = {"value": np.uint8(7), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    feed = {"x": _RANDOM.standard_normal((2, 2, 4, 4)).astype(np.float32)}
    return _form("moves", nodes, feed, constants, TensorProto.FLOAT, ("y", "z"))


_PICTURE, _LAST, _ROWS = _unsigned(1, 4, 9, 9), _unsigned(1, 9, 9, 4), _unsigned(3, 5)
_WC, _WM, _WT = ["w", "ws", "wz"], ["w", "ws", "wz"], ["v", "ws", "wz"]
_FLOAT, _INT32 = TensorProto.FLOAT, TensorProto.INT32
_SAME = {"pads": [1, 1, 1, 1]}
_WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2]}

FORMS = (
    _one("conv", "QLinearConv", [*_X, *_WC, *_Y, "b"], _PICTURE, _CONV, "", **_SAME),
    _one("conv-channels-last", "QLinearConv", [*_X, *_WC, *_Y, "b"], _LAST, _CONV, channels_last=1, **_SAME),
    _one("matmul", "QLinearMatMul", [*_X, *_WM, *_Y], _ROWS, _MATRIX, ""),
    _one("gemm", "QGemm", [*_X, *_WT, "c", *_Y], _ROWS, _MATRIX, transB=1),
    _one("gemm-alpha", "QGemm", [*_X, *_WT, "c", *_Y], _ROWS, _MATRIX, transB=1, alpha=0.5),
    _one("gemm-transposed", "QGemm", [*_X, *_WT, "c", *_Y], _ROWS.T.copy(), _MATRIX, transB=1, transA=1),
    _one("gemm-float", "QGemm", [*_X, *_WT, "c"], _ROWS, _MATRIX, result=_FLOAT, transB=1, alpha=0.5),
    _one("matmul-float", "MatMulIntegerToFloat", ["x", "w", "xs", "ws", "xz", "wz", "f"], _ROWS, _MATRIX, result=_FLOAT),
    _one("add", "QLinearAdd", [*_X, "k", *_S, *_Y], _ROWS, {"k": _unsigned(5)}),
    _one("mul", "QLinearMul", [*_X, "k", *_S, *_Y], _ROWS, {"k": _unsigned(5)}),
    _one("sigmoid", "QLinearSigmoid", [*_X, *_S], _ROWS),
    _one("leaky-relu", "QLinearLeakyRelu", [*_X, *_S], _ROWS, alpha=0.1),
    _one("softmax-11", "QLinearSoftmax", [*_X, "unit", "zero"], _unsigned(2, 3, 5), axis=1, opset=11),
    _one("softmax-13", "QLinearSoftmax", [*_X, "unit", "zero"], _unsigned(2, 3, 5), axis=1, opset=13),
    _one("average-pool", "QLinearAveragePool", [*_X, *_S], _PICTURE, **_WINDOW, **_SAME),
    _one("average-pool-channels-last", "QLinearAveragePool", [*_X, *_S], _LAST, channels_last=1, **_WINDOW),
    _one("global-average-pool", "QLinearGlobalAveragePool", [*_X, *_S], _PICTURE, channels_last=0),
    _one("global-average-pool-last", "QLinearGlobalAveragePool", [*_X, *_S], _LAST, channels_last=1),
    _one("concat", "QLinearConcat", [*_Y, *_X, "k", *_S], _ROWS, {"k": _unsigned(2, 5)}, axis=0),
    _one("where", "QLinearWhere", ["t", *_X, "k", *_S, *_Y], _ROWS, {"k": _unsigned(3, 5), "t": _ROWS > 99}),
    _one("matmul-integer", "MatMulInteger", ["x", "w", "xz"], _ROWS, _MATRIX, "", _INT32),
    _one("conv-integer", "ConvInteger", ["x", "w", "xz"], _PICTURE, _CONV, "", _INT32, **_SAME),
    _dynamic("dynamic-matmul", "MatMulInteger", _RANDOM.standard_normal((3, 5)), _MATRIX["w"], _MATRIX["ws"]),
    _dynamic("dynamic-conv", "ConvInteger", _RANDOM.standard_normal((1, 4, 9, 9)), _CONV["w"], _scales(6, 1, 1)),
    _form(
        "dynamic-matmul-fused",
        [helper.make_node("DynamicQuantizeMatMul", ["x", *_WM, "f"], ["y"], domain=MICROSOFT)],
        {"x": _RANDOM.standard_normal((3, 5)).astype(np.float32)}, _MATRIX, _FLOAT,
    ),
    _moves(),
)
