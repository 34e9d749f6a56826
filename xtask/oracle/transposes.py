"""Small graphs with transposes: what ONNX Runtime's CPU provider moves, joins and refuses.

Rows as those of `patterns.py`.
"""

import numpy as np
import onnx

from patterns import IMAGE, S8, U8, Net, Row


def transposed_gemm(*slots: int, perm=(1, 0), per_channel: bool = False, readers: int = 1) -> onnx.ModelProto:
    """A Gemm with a Transpose on some operands: its data is 0, its weight 1 and its result 2."""
    net = Net([16, 4] if 0 in slots else [4, 16])
    x = net.qdq("x")
    if 0 in slots:
        x = net.op("Transpose", x, perm=list(perm))
    w = net.weight(*((12, 16) if 1 in slots else (16, 12)), axis=(0 if 1 in slots else 1) if per_channel else None)
    if 1 in slots:
        w = net.op("Transpose", w, perm=list(perm))
    for _ in range(readers):
        y = net.op("Gemm", x, w, *([] if 2 in slots else [net.random(12)]))
        if 2 in slots:
            y = net.op("Transpose", y, perm=list(perm))
        net.out(net.qdq(y, 0.05))
    return net.model()


def transposed_weight(fake: bool) -> onnx.ModelProto:
    """NHWC around a Conv whose weight is transposed, quantized before or in the graph."""
    net = Net([1, 10, 10, 8])
    x = net.op("Transpose", net.qdq("x"), perm=[0, 3, 1, 2])
    w = net.qdq(net.random(3, 3, 8, 8), 0.03, 0, S8) if fake else net.weight(3, 3, 8, 8, axis=3)
    y = net.op("Conv", x, net.op("Transpose", w, perm=[3, 2, 0, 1]))
    return net.out(net.qdq(net.op("Transpose", y, perm=[0, 2, 3, 1]), 0.05)).model()


def channels_last(*between: str, skip: bool = False) -> onnx.ModelProto:
    """Two Conv in NCHW with operators in NHWC between them, quantized after each, as an exporter from TensorFlow
    writes them; with `skip`, the first of the results is added to the last."""
    net = Net([1, 10, 10, 8])

    def convolved(value: str) -> str:
        value = net.op("Transpose", value, perm=[0, 3, 1, 2])
        return net.op("Transpose", net.op("Conv", value, net.weight(8, 8, 3, 3), pads=[1] * 4), perm=[0, 2, 3, 1])

    y = first = net.qdq(convolved(net.qdq("x")), 0.05)
    for op_type in between:
        match op_type:
            case "Mul" | "Add" | "Sub":
                y = net.op(op_type, y, net.weight(8))
            case "Pad":
                y = net.op("Pad", y, net.const([0, 1, 1, 0, 0, 1, 1, 0], np.int64))
            case "ReduceMean":
                y = net.op("ReduceMean", y, axes=[1, 2], keepdims=1)
            case "Softmax" | "Concat":
                y = net.op(op_type, *[y] * (2 if op_type == "Concat" else 1), axis=2)
            case "Twice":
                y = net.op("Add", net.op("Neg", y), net.qdq(net.op("Sigmoid", y), 0.005, 0))
            case _:
                y = net.op(op_type, y)
        y = net.qdq(y, 0.04)
    y = net.qdq(convolved(y), 0.06)
    if skip:
        y = net.qdq(net.op("Add", y, first), 0.07)
    return net.out(y).model()


def transposed_vector(*perm: int) -> onnx.ModelProto:
    """A Transpose of a vector, by a permutation of more or fewer axes."""
    net = Net(IMAGE)
    vector = net.op("Neg", net.dq(net.const(np.zeros(8), np.uint8)))
    return net.out(net.op("Transpose", vector, perm=list(perm))).model()


def normalized(end: str, perm: tuple[int, ...] = (0, 2, 1), dtype: int = U8, steps: int = 10) -> onnx.ModelProto:
    """A layer normalization behind a Conv and a Transpose, up to `end`, and another Transpose behind.

    The values of the first Transpose have several readers, which is where the second one matters.
    """
    net = Net([1, steps, 8])
    zero = 0 if dtype == S8 else 128

    def pair(value: str, scale: float) -> str:
        return net.qdq(value, scale, zero, dtype)

    conv = pair(net.op("Conv", pair(net.op("Transpose", "x", perm=[0, 2, 1]), 0.02), net.weight(8, 8, 1)), 0.03)
    x = pair(net.op("Transpose", conv, perm=[0, 2, 1]), 0.03)
    mean = net.op("Transpose", net.op("ReduceMean", conv, axes=[1], keepdims=1), perm=[0, 2, 1])
    y = centered = pair(net.op("Sub", x, mean), 0.03)
    if end in ("square", "divided", "masked"):
        square = pair(net.op("Mul", centered, centered), 0.05)
        y = square
    if end in ("divided", "masked"):
        variance = pair(net.op("ReduceMean", square, axes=[-1], keepdims=1), 0.04)
        y = pair(net.op("Div", centered, net.op("Sqrt", variance)), 0.02)
        y = pair(net.op("Mul", y, net.weight(8)), 0.06)
    if end == "masked":
        y = pair(net.op("Mul", x, pair(net.op("Sigmoid", y), 0.004)), 0.02)
    return net.out(pair(net.op("Transpose", y, perm=list(perm)), 0.06)).model()


def branched(kind: str, perm: tuple[int, ...]) -> onnx.ModelProto:
    """A transposed value with one reader or two, and another Transpose behind."""
    net = Net([1, 10, 8])
    conv = net.qdq(net.op("Conv", net.qdq(net.op("Transpose", "x", perm=[0, 2, 1])), net.weight(8, 8, 1)), 0.03)
    x = net.qdq(net.op("Transpose", conv, perm=[0, 2, 1]), 0.03)
    y = net.qdq(net.op("Tanh", x), 0.01)
    if kind == "output":
        net.out(y)
        y = net.qdq(net.op("Exp", x), 0.02)
    if kind == "joined":
        y = net.qdq(net.op("Sub", x, y), 0.02)
    return net.out(net.qdq(net.op("Transpose", y, perm=list(perm)), 0.02)).model()


BETWEEN = [
    (), ("Mul",), ("Add",), ("Sub",), ("Sigmoid",), ("Tanh",), ("Pad",), ("ReduceMean",), ("Softmax",), ("Concat",),
    ("Twice",), ("Tanh", "Mul"),
]
OTHER = {"same": (0, 2, 1), "other": (1, 0, 2)}

ROWS: dict[str, Row] = {
    **{f"channels-last-{'-'.join(ops).lower() or 'alone'}": (lambda ops=ops: channels_last(*ops)) for ops in BETWEEN},
    "channels-last-skip": lambda: channels_last(skip=True),
    "channels-last-tanh-skip": lambda: channels_last("Tanh", skip=True),
    "channels-last-weight": lambda: transposed_weight(False),
    "channels-last-fake-quantized-weight": lambda: transposed_weight(True),
    **{f"branched-{kind}-{name}": (lambda kind=kind, perm=perm: branched(kind, perm))
       for kind in ("alone", "output", "joined") for name, perm in OTHER.items()},
    **{f"normalized-{end}-{name}{suffix}": (lambda end=end, perm=perm, kw=kw: normalized(end, perm, **kw))
       for end in ("centered", "square", "divided", "masked")
       for name, perm in OTHER.items()
       for suffix, kw in {"": {}, "-s8": dict(dtype=S8), "-one-step": dict(steps=1)}.items()},
    "gemm-transposed-data": lambda: transposed_gemm(0),
    "gemm-transposed-weight": lambda: transposed_gemm(1),
    "gemm-transposed-weight-per-channel": lambda: transposed_gemm(1, per_channel=True),
    "gemm-transposed-weight-shared": lambda: transposed_gemm(1, readers=2),
    "gemm-transposed-both": lambda: transposed_gemm(0, 1),
    "gemm-transposed-result": lambda: transposed_gemm(2),
    "transpose-of-vector": lambda: transposed_vector(0),
    "transpose-of-missing-axes": lambda: transposed_vector(0, 2, 3, 1),
    "transpose-of-negative-axis": lambda: transposed_vector(-1),
}
