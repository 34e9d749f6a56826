"""Small graphs, one for each row of the table of what ONNX Runtime's CPU provider runs in integers.

A row is a claim of `targets/src/onnxruntime`: its prediction is compared with the graph that the runtime writes. A
release of the runtime that treats a pattern differently fails the row of that name.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Row = Callable[[], onnx.ModelProto]

F, U8, S8, U16, S16, S32 = (
    TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32,
)
NUMPY = {U8: np.uint8, S8: np.int8, U16: np.uint16, S16: np.int16, S32: np.int32}


class Net:
    """A graph under construction, with one float input `x`."""

    def __init__(self, shape: list[int | str], opset: int = 17, ir_version: int = 10):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", F, shape)]
        self.outputs: list[onnx.ValueInfoProto] = []
        self._opset, self._ir_version = opset, ir_version
        self._random = np.random.default_rng(0)

    def const(self, value, dtype=np.float32) -> str:
        """A constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def random(self, *shape: int) -> str:
        """A float constant of random numbers."""
        return self.const(self._random.standard_normal(shape))

    def op(self, op_type: str, *inputs: str, n: int = 1, domain: str = "", **attributes) -> str | list[str]:
        """An operator; the name of its result, or a list of names."""
        outputs = [f"{op_type.lower()}{len(self.nodes)}" + (f"_{i}" if n > 1 else "") for i in range(n)]
        name = f"{op_type}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=name, domain=domain, **attributes))
        return outputs[0] if n == 1 else outputs

    def params(self, scale, zero, dtype: int) -> list[str]:
        """Scale and zero point."""
        return [self.const(scale)] + ([] if zero is None else [self.const(zero, NUMPY[dtype])])

    def q(self, x: str, scale=0.02, zero=128, dtype: int = U8, domain: str = "") -> str:
        """A QuantizeLinear."""
        return self.op("QuantizeLinear", x, *self.params(scale, zero, dtype), domain=domain)

    def dq(self, q: str, scale=0.02, zero=128, dtype: int = U8, domain: str = "", **attributes) -> str:
        """A DequantizeLinear."""
        return self.op("DequantizeLinear", q, *self.params(scale, zero, dtype), domain=domain, **attributes)

    def qdq(self, x: str, scale=0.02, zero=128, dtype: int = U8, domain: str = "") -> str:
        """A QuantizeLinear and a DequantizeLinear of the same parameters."""
        return self.dq(self.q(x, scale, zero, dtype, domain), scale, zero, dtype, domain)

    def weight(self, *shape: int, dtype: int = S8, axis: int | None = None, zero=0, scale=0.01) -> str:
        """A dequantized weight, with one scale, or one for each element of `axis`."""
        codes = self.const(self._random.integers(-100, 100, shape) if dtype in (S8, S16) else
                           self._random.integers(0, 200, shape), NUMPY[dtype])
        if axis is None:
            return self.dq(codes, scale, zero, dtype)
        n = shape[axis]
        return self.dq(codes, np.linspace(scale, 2 * scale, n), np.full(n, zero), dtype, axis=axis)

    def bias(self, n: int, scale=0.02 * 0.01, zero=0, axis: int | None = None, dtype: int = S32) -> str:
        """A dequantized bias."""
        codes = self.const(self._random.integers(-100, 100, n), NUMPY[dtype])
        if axis is None:
            return self.dq(codes, scale, zero, dtype)
        return self.dq(codes, np.linspace(scale, 2 * scale, n), None if zero is None else np.full(n, zero), dtype, axis=axis)

    def out(self, *names: str, dtype: int = F) -> "Net":
        """Makes values outputs of the graph."""
        self.outputs += [helper.make_tensor_value_info(name, dtype, None) for name in names]
        return self

    def model(self) -> onnx.ModelProto:
        """The model."""
        graph = helper.make_graph(self.nodes, "pattern", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self._opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self._ir_version)


IMAGE = [1, 8, 10, 10]


def conv(act: int = U8, weight: int = S8, out: int | None = None, axis: int | None = None, opset: int = 17,
         bias: Callable[[Net], str] | None = None, shape=None, kernel=(8, 8, 3, 3), after: Callable | None = None,
         domain: str = "", end: bool = True, act_zero=None, weight_zero=0, **attributes) -> onnx.ModelProto:
    """DQ → Conv (→ `after`) → Q → DQ."""
    net = Net(shape or IMAGE, opset)
    zero = act_zero if act_zero is not None else (128 if act in (U8, U16) else 0)
    x = net.qdq("x", zero=zero, dtype=act, domain=domain)
    w = net.weight(*kernel, dtype=weight, axis=axis, zero=weight_zero)
    y = net.op("Conv", x, w, *([bias(net)] if bias else []), **attributes)
    if after:
        y = after(net, y)
    if end:
        out = act if out is None else out
        y = net.qdq(y, 0.05, 128 if out in (U8, U16) else 0, out, domain)
    return net.out(y).model()


def clamped(op_type: str, scale: float, zero: int, dtype: int = U8, **limits) -> onnx.ModelProto:
    """DQ → Conv → Relu or Clip → Q → DQ."""
    net = Net(IMAGE)
    y = net.op("Conv", net.qdq("x"), net.weight(8, 8, 3, 3))
    bounds = [net.const(limits[name]) for name in ("lo", "hi") if name in limits]
    y = net.op(op_type, y, *bounds)
    return net.out(net.qdq(y, scale, zero, dtype)).model()


def unary(op_type: str, dtype: int = U8, shape=None, opset: int = 17, out=(0.03, 120), n_inputs: Callable | None = None,
          **attributes) -> onnx.ModelProto:
    """DQ → op → Q → DQ."""
    net = Net(shape or IMAGE, opset)
    more = n_inputs(net) if n_inputs else []
    zero = 128 if dtype in (U8, U16) else 0
    y = net.op(op_type, net.qdq("x", zero=zero, dtype=dtype), *more, **attributes)
    return net.out(net.qdq(y, *out, dtype)).model()


def moved(op_type: str, same: bool = True, dtype: int = U8, **arguments) -> onnx.ModelProto:
    """As `unary`, with the same parameters on both sides."""
    zero = 128 if dtype in (U8, U16) else 0
    return unary(op_type, dtype, out=(0.02 if same else 0.03, zero), **arguments)


def between(op_type: str, n_inputs: Callable | None = None, opset: int = 17, **attributes) -> onnx.ModelProto:
    """Q → DQ → op → Conv → Q: nothing between the op and the Conv."""
    net = Net(IMAGE, opset)
    more = n_inputs(net) if n_inputs else []
    y = net.op(op_type, net.qdq("x"), *more, **attributes)
    y = net.op("Conv", y, net.weight(4, 8, 1, 1))
    return net.out(net.qdq(y)).model()


def behind(op_type: str, n_inputs: Callable | None = None, opset: int = 17, **attributes) -> onnx.ModelProto:
    """DQ → Conv → op → Q: nothing between the Conv and the op."""
    net = Net(IMAGE, opset)
    more = n_inputs(net) if n_inputs else []
    y = net.op("Conv", net.qdq("x"), net.weight(8, 8, 1, 1))
    y = net.op(op_type, y, *more, **attributes)
    return net.out(net.qdq(y)).model()


def spread(*readers: str, slices: int = 1) -> onnx.ModelProto:
    """Dequantized data, cut and read in several ways."""
    net = Net(IMAGE)
    x = net.qdq("x")
    for begin in range(0, 2 * slices, 2):
        part = net.op("Slice", x, *(net.const([v], np.int64) for v in (begin, begin + 2, 2)))
        for reader in readers:
            result = {"float": lambda: net.op("Tanh", part), "quantized": lambda: net.qdq(part), "output": lambda: part}
            net.out(result[reader]())
    return net.model()


def binary(op_type: str, left: int = U8, right: int = U8, out: int = U8, constant: str | None = None) -> onnx.ModelProto:
    """Two operands, each dequantized."""
    net = Net(IMAGE)
    a = net.qdq("x", zero=128 if left == U8 else 0, dtype=left)
    if constant == "float":
        b = net.random(8, 1, 1)
    elif constant:
        b = net.weight(8, 1, 1, dtype=right, zero=128 if right == U8 else 0)
    else:
        b = net.qdq(net.op("Tanh", "x"), 0.03, 120 if right == U8 else 0, right)
    return net.out(net.qdq(net.op(op_type, a, b), 0.04, 110 if out == U8 else 0, out)).model()


def matmul(shape, *weight: int, axis: int | None = None, end: bool = True, add: str | None = None, act: int = U8,
           w: int = S8) -> onnx.ModelProto:
    """DQ → MatMul (→ Add) (→ Q → DQ)."""
    net = Net(shape)
    x = net.qdq("x", zero=128 if act == U8 else 0, dtype=act)
    y = net.op("MatMul", x, net.weight(*weight, axis=axis, dtype=w, zero=0 if w == S8 else 128))
    if add == "float":
        y = net.op("Add", y, net.random(weight[-1]))
    elif add == "scalar":
        y = net.op("Add", y, net.const(0.5))
    elif add == "quantized":
        y = net.op("Add", net.qdq(y, 0.1), net.weight(weight[-1], dtype=U8, zero=128))
    if end:
        y = net.qdq(y, 0.1, 128 if act == U8 else 0, act)
    return net.out(y).model()


def product(left: int, right: int) -> onnx.ModelProto:
    """A product of two activations."""
    net = Net([1, 4, 6, 6])
    a = net.qdq("x", dtype=left, zero=128 if left == U8 else 0)
    b = net.qdq(net.op("Tanh", "x"), 0.01, 128 if right == U8 else 0, right)
    return net.out(net.qdq(net.op("MatMul", a, b), 0.05, 128 if left == U8 else 0, left)).model()


def gemm(end: bool = True, bias: str | None = "quantized", axis: int | None = None, scale=0.02 * 0.01,
         **attributes) -> onnx.ModelProto:
    """DQ → Gemm (→ Q → DQ)."""
    net = Net([16, 4] if attributes.get("transA") else [4, 16])
    weight = net.weight(*((12, 16) if attributes.get("transB") else (16, 12)), axis=axis)
    more = {"quantized": lambda: [net.bias(12, scale, axis=None if axis is None else 0)],
            "float": lambda: [net.random(12)], "matrix": lambda: [net.random(4, 12)],
            "row": lambda: [net.random(1, 12)], None: lambda: []}[bias]()
    y = net.op("Gemm", net.qdq("x"), weight, *more, **attributes)
    return net.out(net.qdq(y, 0.1) if end else y).model()


def concat(dtypes=(U8, U8), float_input: bool = False) -> onnx.ModelProto:
    """Two or three branches side by side."""
    net = Net(IMAGE)
    parts = [net.qdq("x", zero=128 if dtypes[0] == U8 else 0, dtype=dtypes[0])]
    other = net.op("Tanh", "x")
    parts.append(other if float_input else net.qdq(other, 0.01, 120 if dtypes[1] == U8 else 0, dtypes[1]))
    return net.out(net.qdq(net.op("Concat", *parts, axis=1), 0.04, 110)).model()


def where(constant: str | None = None, first: bool = False) -> onnx.ModelProto:
    """Where between two dequantized operands, or one and a constant."""
    net = Net(IMAGE)
    condition = net.op("Greater", "x", net.const(0.0))
    other = {None: lambda: net.qdq(net.op("Tanh", "x"), 0.01), "float": lambda: net.const(-1.0),
             "vector": lambda: net.random(10), "quantized": lambda: net.weight(1, dtype=U8, zero=3)}[constant]()
    data = [net.qdq("x"), other]
    return net.out(net.qdq(net.op("Where", condition, *(data[::-1] if first else data)), 0.04, 110)).model()


def split(equal: bool) -> onnx.ModelProto:
    """A Split into two halves."""
    net = Net(IMAGE)
    a, b = net.op("Split", net.qdq("x"), net.const([4, 4], np.int64), n=2, axis=1)
    return net.out(net.qdq(a), net.qdq(b, 0.02 if equal else 0.03)).model()


def branches(*kinds: str) -> onnx.ModelProto:
    """The result of a Conv, quantized and read in other ways too."""
    net = Net(IMAGE)
    y = net.op("Conv", net.qdq("x"), net.weight(8, 8, 3, 3))
    net.out(net.qdq(y))
    for kind in kinds:
        if kind == "other":
            net.out(net.qdq(y, 0.05))
        elif kind == "same":
            net.out(net.op("Tanh", net.qdq(y)))
        elif kind == "float":
            net.out(net.op("Tanh", y))
        else:
            net.out(y)
    return net.model()


def double(*params: tuple[float, int]) -> onnx.ModelProto:
    """Pairs in a row, and a Conv behind."""
    net = Net(IMAGE)
    y = "x"
    for scale, zero in params:
        y = net.qdq(y, scale, zero)
    return net.out(net.qdq(net.op("Conv", y, net.weight(8, 8, 3, 3)))).model()


def double_shared() -> onnx.ModelProto:
    """Two signed pairs in a row, the last one dequantized for two readers."""
    net = Net(IMAGE)
    q = net.q(net.qdq(net.op("Conv", net.qdq("x"), net.weight(8, 8, 3, 3)), 0.02, 0, S8), 0.03, 4, S8)
    for channels in (8, 4):
        y = net.op("Conv", net.dq(q, 0.03, 4, S8), net.weight(channels, 8, 1, 1))
        net.out(net.qdq(y, 0.05, 0, S8))
    return net.model()


def redundant(readers: int) -> onnx.ModelProto:
    """A pair that does nothing between integers, with one reader or two."""
    net = Net(IMAGE)
    cut = [net.const([v], np.int64) for v in (0, 5, 2)]
    q = net.q(net.dq(net.op("Slice", net.q("x"), *cut)))
    for axis in range(1, readers + 1):
        net.out(net.dq(net.op("Flatten", q, axis=axis)))
    return net.model()


def relu_alone(zero: int, behind_zero: int) -> onnx.ModelProto:
    """A Relu with nothing before it that could absorb it."""
    net = Net(IMAGE)
    return net.out(net.qdq(net.op("Relu", net.qdq("x", 0.02, zero)), 0.02, behind_zero)).model()


def shared(reader: str) -> onnx.ModelProto:
    """One DequantizeLinear for two readers."""
    net = Net(IMAGE)
    x = net.qdq("x")
    net.out(net.qdq(net.op("Conv", x, net.weight(8, 8, 3, 3))))
    other = net.op("Tanh", x) if reader == "float" else net.qdq(net.op("Conv", x, net.weight(4, 8, 1, 1)), 0.1)
    return (net.out(x) if reader == "output" else net.out(other)).model()


def signed(branch: bool, source: str = "float") -> onnx.ModelProto:
    """Signed activations between two convolutions."""
    net = Net(IMAGE)
    code = net.q("x", 0.02, 0, S8)
    if source == "constant":
        y = net.op("Add", net.dq(code, 0.02, 0, S8), net.weight(8, 1, 1))
    else:
        y = net.op("Conv", net.dq(code, 0.02, 0, S8), net.weight(8, 8, 3, 3))
    code = net.q(y, 0.05, 0, S8)
    y = net.op("Conv", net.dq(code, 0.05, 0, S8), net.weight(8, 8, 1, 1))
    net.out(net.qdq(y, 0.1, 0, S8))
    if branch:
        net.out(net.op("Tanh", net.dq(code, 0.05, 0, S8)))
    return net.model()


def dynamic(n: int = 1, bias: bool = False, equal: bool = False, per_channel: bool = True) -> onnx.ModelProto:
    """Dynamic quantization of `n` products that share their operand."""
    net = Net(["N", 16])
    code, scale, zero = net.op("DynamicQuantizeLinear", "x", n=3)
    for i in range(n):
        weight = net.const(np.random.default_rng(i).integers(-100, 100, (16, 12)), np.int8)
        y = net.op("MatMulInteger", code, weight, zero, net.const(0, np.int8))
        factor = 0.01 if equal else 0.01 * (i + 1)
        scales = net.const(np.full(12, factor) + np.arange(12) / 1e4 if per_channel else factor)
        y = net.op("Mul", net.op("Cast", y, to=F), net.op("Mul", scale, scales))
        net.out(net.op("Add", y, net.random(12)) if bias else y)
    return net.model()


def few_bits(
    bits: int = 4, block: int = 32, op_type: str = "MatMul", axis: int = 0, opset: int = 21, behind: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """A weight of few bits and float data, with operators of one operand behind the product."""
    net = Net([2, 64], opset)
    dtype = {4: TensorProto.INT4, 8: TensorProto.INT8}[bits]
    values = np.random.default_rng(0).integers(-7, 7, (64, 16)).flatten().tolist()
    net.constants.append(helper.make_tensor("w", dtype, [64, 16], values))
    if block:
        scale = net.const(np.full((-(-64 // block), 16), 0.01))
        weight = net.op("DequantizeLinear", "w", scale, axis=axis, block_size=block)
    else:
        weight = net.op("DequantizeLinear", "w", net.const(np.full(16, 0.01)), axis=1)
    more = [net.random(16)] if op_type == "Gemm" else []
    y = net.op(op_type, "x", weight, *more)
    for following in behind:
        y = net.op(following, y)
    return net.out(y).model()


def ints(*values: int):
    """A further operand: a list of integers."""
    return lambda net: [net.const(list(values), np.int64)]


def resize(mode: str):
    """Further operands of a Resize by 2."""
    return dict(n_inputs=lambda net: ["", net.const([1, 1, 2, 2])], mode=mode)


def _batch_norm(net: Net, y: str) -> str:
    return net.op("BatchNormalization", y, *(net.const(np.ones(8)) for _ in range(4)))


def _transposed() -> onnx.ModelProto:
    net = Net(IMAGE)
    return net.out(net.qdq(net.op("ConvTranspose", net.qdq("x"), net.weight(8, 8, 3, 3)))).model()


def _arg_max() -> onnx.ModelProto:
    net = Net(IMAGE)
    return net.out(net.op("ArgMax", net.qdq("x"), axis=1), dtype=TensorProto.INT64).model()


ROWS: dict[str, Row] = {
    "conv-u8s8": conv,
    "conv-u8u8": lambda: conv(weight=U8, weight_zero=120),
    "conv-s8s8": lambda: conv(S8),
    "conv-s8u8": lambda: conv(S8, U8, weight_zero=120),
    "conv-u8s8-out-s8": lambda: conv(out=S8),
    "conv-per-channel": lambda: conv(axis=0),
    "conv-per-channel-zero-points": lambda: conv(axis=0, weight_zero=3),
    "conv-1d": lambda: conv(shape=[1, 8, 20], kernel=(8, 8, 3)),
    "conv-3d": lambda: conv(shape=[1, 8, 5, 5, 5], kernel=(8, 8, 3, 3, 3)),
    "conv-depthwise": lambda: conv(kernel=(8, 1, 3, 3), group=8),
    "conv-grouped": lambda: conv(kernel=(8, 4, 3, 3), group=2),
    "conv-u16": lambda: conv(U16, opset=21),
    "conv-weight-s16": lambda: conv(weight=S16, opset=21),
    "conv-opset-13": lambda: conv(opset=13),
    "conv-opset-21": lambda: conv(opset=21),
    "conv-opset-23": lambda: conv(opset=23),
    "conv-contrib-domain": lambda: conv(domain="com.microsoft"),
    "conv-without-result": lambda: conv(end=False),
    "conv-bias": lambda: conv(bias=lambda net: net.bias(8)),
    "conv-bias-per-channel": lambda: conv(axis=0, bias=lambda net: net.bias(8, axis=0)),
    "conv-bias-without-zero-point": lambda: conv(bias=lambda net: net.bias(8, zero=None)),
    "conv-bias-scale-half-percent-off": lambda: conv(bias=lambda net: net.bias(8, 0.02 * 0.01 * 1.005)),
    "conv-bias-scale-two-percent-off": lambda: conv(bias=lambda net: net.bias(8, 0.02 * 0.01 * 1.02)),
    "conv-bias-scale-double": lambda: conv(bias=lambda net: net.bias(8, 0.02 * 0.01 * 2)),
    "conv-bias-zero-point": lambda: conv(bias=lambda net: net.bias(8, zero=5)),
    "conv-bias-8-bits": lambda: conv(bias=lambda net: net.bias(8, dtype=S8)),
    "conv-bias-one-scale-for-channels": lambda: conv(axis=0, bias=lambda net: net.bias(8)),
    "conv-bias-float": lambda: conv(bias=lambda net: net.random(8)),
    "conv-bias-float-per-channel": lambda: conv(axis=0, bias=lambda net: net.random(8)),
    "conv-relu": lambda: clamped("Relu", 0.05, 0),
    "conv-relu-zero-point-128": lambda: clamped("Relu", 0.05, 128),
    "conv-relu-s8": lambda: clamped("Relu", 0.05, -128, S8),
    "conv-relu-s8-zero-point-0": lambda: clamped("Relu", 0.05, 0, S8),
    "conv-clip": lambda: clamped("Clip", 6 / 255, 0, lo=0.0, hi=6.0),
    "conv-clip-wide": lambda: clamped("Clip", 0.05, 0, lo=0.0, hi=6.0),
    "conv-clip-narrow": lambda: clamped("Clip", 0.02, 0, lo=0.0, hi=6.0),
    "conv-sigmoid": lambda: conv(after=lambda net, y: net.op("Sigmoid", y)),
    "conv-leaky-relu": lambda: conv(after=lambda net, y: net.op("LeakyRelu", y)),
    "conv-silu": lambda: conv(after=lambda net, y: net.op("Mul", y, net.op("Sigmoid", y))),
    "conv-batch-norm": lambda: conv(after=_batch_norm),
    "conv-two-quantizers": lambda: branches("other"),
    "conv-same-quantizer-twice": lambda: branches("same"),
    "conv-float-reader": lambda: branches("float"),
    "conv-graph-output": lambda: branches("output"),
    "conv-shared-operand": lambda: shared("conv"),
    "conv-shared-with-float": lambda: shared("float"),
    "conv-shared-with-output": lambda: shared("output"),
    "conv-transpose": _transposed,
    "signed-chain": lambda: signed(False),
    "signed-chain-with-branch": lambda: signed(True),
    "signed-constant": lambda: signed(False, "constant"),
    "propagate-max-pool": lambda: between("MaxPool", kernel_shape=[2, 2]),
    "propagate-transpose": lambda: between("Transpose", perm=[0, 1, 3, 2]),
    "propagate-reshape": lambda: between("Reshape", ints(1, 8, 5, 20)),
    "propagate-slice": lambda: between("Slice", lambda net: [net.const([v], np.int64) for v in (0, 5, 2)]),
    "propagate-average-pool": lambda: between("AveragePool", kernel_shape=[2, 2]),
    "propagate-flatten": lambda: between("Gather", lambda net: [net.const([0, 1], np.int64)], axis=2),
    "propagate-tile": lambda: between("Tile", ints(1, 1, 2, 1)),
    "propagate-resize": lambda: between("Resize", **resize("nearest")),
    "propagate-up-max-pool": lambda: behind("MaxPool", kernel_shape=[2, 2]),
    "propagate-up-transpose": lambda: behind("Transpose", perm=[0, 2, 3, 1]),
    "propagate-up-reshape": lambda: behind("Reshape", ints(1, 8, 50, 2)),
    "propagate-up-average-pool": lambda: behind("AveragePool", kernel_shape=[2, 2]),
    "propagate-to-several-readers": lambda: spread("float", "float"),
    "propagate-beside-quantizer": lambda: spread("float", "quantized"),
    "propagate-from-shared": lambda: spread("float", slices=3),
    "propagate-to-output": lambda: spread("output"),
    "matmul": lambda: matmul([4, 16], 16, 12),
    "matmul-u8u8": lambda: matmul([4, 16], 16, 12, w=U8),
    "matmul-s8s8": lambda: matmul([4, 16], 16, 12, act=S8),
    "matmul-per-channel": lambda: matmul([4, 16], 16, 12, axis=1),
    "matmul-3d": lambda: matmul([2, 4, 16], 16, 12, axis=1),
    "matmul-without-result": lambda: matmul([4, 16], 16, 12, end=False),
    "matmul-without-result-per-channel": lambda: matmul([4, 16], 16, 12, axis=1, end=False),
    "matmul-add": lambda: matmul([4, 16], 16, 12, add="float"),
    "matmul-add-3d": lambda: matmul([2, 4, 16], 16, 12, add="float"),
    "matmul-add-per-channel": lambda: matmul([4, 16], 16, 12, axis=1, add="float"),
    "matmul-add-open-batch": lambda: matmul(["N", 4, 16], 16, 12, add="float"),
    "matmul-add-without-result": lambda: matmul([4, 16], 16, 12, add="float", end=False),
    "matmul-add-scalar": lambda: matmul([4, 16], 16, 12, add="scalar"),
    "matmul-add-quantized": lambda: matmul([4, 16], 16, 12, add="quantized"),
    "matmul-activations-u8u8": lambda: product(U8, U8),
    "matmul-activations-u8s8": lambda: product(U8, S8),
    "gemm": gemm,
    "gemm-without-result": lambda: gemm(end=False),
    "gemm-without-bias": lambda: gemm(bias=None),
    "gemm-without-bias-and-result": lambda: gemm(bias=None, end=False),
    "gemm-bias-scale-off": lambda: gemm(scale=0.02 * 0.01 * 2),
    "gemm-float-bias": lambda: gemm(bias="float"),
    "gemm-float-bias-without-result": lambda: gemm(bias="float", end=False),
    "gemm-bias-matrix": lambda: gemm(bias="matrix"),
    "gemm-bias-row": lambda: gemm(bias="row"),
    "gemm-trans-b": lambda: gemm(transB=1),
    "gemm-trans-b-per-channel": lambda: gemm(transB=1, axis=0),
    "gemm-per-channel": lambda: gemm(axis=1),
    "gemm-per-channel-float-bias": lambda: gemm(axis=1, bias="float"),
    "gemm-wrong-axis": lambda: gemm(axis=0, bias="float"),
    "gemm-alpha": lambda: gemm(alpha=0.5),
    "gemm-alpha-without-bias": lambda: gemm(alpha=0.5, bias=None),
    "gemm-trans-a": lambda: gemm(transA=1, bias=None),
    "gemm-trans-a-bias": lambda: gemm(transA=1),
    "gemm-trans-a-without-result": lambda: gemm(transA=1, end=False),
    "gemm-alpha-without-result": lambda: gemm(alpha=0.5, bias=None, end=False),
    "gemm-alpha-float-bias": lambda: gemm(alpha=0.5, bias="float"),
    "gemm-beta-without-bias": lambda: gemm(beta=0.5, bias=None),
    "gemm-beta": lambda: gemm(beta=0.5),
    "gemm-beta-float-bias": lambda: gemm(beta=0.5, bias="float"),
    **{f"{op.lower()}{suffix}": (lambda op=op, kw=kw: binary(op, **kw))
       for op in ("Add", "Mul")
       for suffix, kw in {"": {}, "-mixed": dict(right=S8), "-signed": dict(left=S8, right=S8, out=S8),
                          "-out-s8": dict(out=S8), "-constant": dict(constant="quantized"),
                          "-constant-s8": dict(constant="quantized", right=S8),
                          "-constant-float": dict(constant="float")}.items()},
    "sub": lambda: binary("Sub"),
    "div": lambda: binary("Div"),
    "max": lambda: binary("Max"),
    "average-pool": lambda: unary("AveragePool", kernel_shape=[2, 2]),
    "average-pool-dilated": lambda: unary("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[2, 2]),
    "average-pool-dilated-by-1": lambda: unary("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[1, 1]),
    "average-pool-opset-19": lambda: unary("AveragePool", opset=19, kernel_shape=[2, 2]),
    "average-pool-ceil": lambda: unary("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average-pool-1d": lambda: unary("AveragePool", shape=[1, 8, 20], kernel_shape=[2]),
    "average-pool-u16": lambda: unary("AveragePool", U16, opset=21, kernel_shape=[2, 2]),
    "global-average-pool": lambda: unary("GlobalAveragePool"),
    "leaky-relu": lambda: unary("LeakyRelu"),
    "sigmoid": lambda: unary("Sigmoid"),
    "sigmoid-s8": lambda: unary("Sigmoid", S8, out=(0.004, -128)),
    "softmax": lambda: unary("Softmax"),
    "softmax-opset-11": lambda: unary("Softmax", opset=12),
    "softmax-axis": lambda: unary("Softmax", axis=1),
    "tanh": lambda: unary("Tanh"),
    "relu": lambda: unary("Relu"),
    "relu-absorbed-alone": lambda: relu_alone(0, 0),
    "relu-alone-other-params": lambda: relu_alone(128, 0),
    "reduce-mean": lambda: unary("ReduceMean", axes=[2, 3]),
    "hard-swish": lambda: unary("HardSwish"),
    "exp": lambda: unary("Exp"),
    "instance-norm": lambda: unary("InstanceNormalization", n_inputs=lambda net: [net.const(np.ones(8))] * 2),
    "pad": lambda: moved("Pad", n_inputs=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "concat": concat,
    "concat-mixed": lambda: concat((U8, S8)),
    "concat-float-operand": lambda: concat(float_input=True),
    "where": where,
    "where-constant": lambda: where("quantized"),
    "where-float-constant": lambda: where("float"),
    "where-float-constant-first": lambda: where("float", first=True),
    "where-constant-vector": lambda: where("vector"),
    "split": lambda: split(True),
    "split-other-params": lambda: split(False),
    "max-pool": lambda: moved("MaxPool", kernel_shape=[2, 2]),
    "max-pool-other-params": lambda: moved("MaxPool", same=False, kernel_shape=[2, 2]),
    "max-pool-s8": lambda: moved("MaxPool", dtype=S8, kernel_shape=[2, 2]),
    "max-pool-opset-11": lambda: moved("MaxPool", opset=11, kernel_shape=[2, 2]),
    "global-max-pool": lambda: moved("GlobalMaxPool"),
    "reduce-max": lambda: moved("ReduceMax", axes=[2]),
    "reduce-min": lambda: moved("ReduceMin", axes=[2]),
    "resize-nearest": lambda: moved("Resize", **resize("nearest")),
    "resize-linear": lambda: moved("Resize", **resize("linear")),
    "resize-cubic": lambda: moved("Resize", **resize("cubic")),
    "reshape": lambda: moved("Reshape", n_inputs=ints(1, -1)),
    "reshape-other-params": lambda: moved("Reshape", same=False, n_inputs=ints(1, -1)),
    "reshape-u16": lambda: moved("Reshape", dtype=U16, opset=21, n_inputs=ints(1, -1)),
    "transpose": lambda: moved("Transpose", perm=[0, 2, 3, 1]),
    "squeeze": lambda: moved("Squeeze", n_inputs=ints(0)),
    "unsqueeze": lambda: moved("Unsqueeze", n_inputs=ints(0)),
    "slice": lambda: moved("Slice", n_inputs=lambda net: [net.const([v], np.int64) for v in (0, 5, 2)]),
    "gather": lambda: moved("Gather", n_inputs=ints(0, 2), axis=1),
    "gather-elements": lambda: moved("GatherElements", n_inputs=lambda net: [net.const(np.zeros(IMAGE), np.int64)]),
    "gather-nd": lambda: moved("GatherND", n_inputs=lambda net: [net.const([[0, 1]], np.int64)]),
    "expand": lambda: moved("Expand", n_inputs=ints(2, 8, 10, 10)),
    "tile": lambda: moved("Tile", n_inputs=ints(1, 1, 2, 1)),
    "flatten": lambda: moved("Flatten"),
    "depth-to-space": lambda: moved("DepthToSpace", blocksize=2),
    "space-to-depth": lambda: moved("SpaceToDepth", blocksize=2),
    "arg-max": _arg_max,
    "double-pairs": lambda: double((0.02, 128), (0.03, 100)),
    "double-equal-pairs": lambda: double((0.02, 128), (0.02, 128)),
    "three-pairs": lambda: double((0.02, 128), (0.03, 100), (0.01, 128)),
    "redundant-pair": lambda: redundant(1),
    "redundant-pair-two-readers": lambda: redundant(2),
    "double-pairs-two-readers": double_shared,
    "dynamic-matmul": dynamic,
    "dynamic-matmul-per-tensor": lambda: dynamic(per_channel=False),
    "dynamic-matmul-bias": lambda: dynamic(bias=True),
    "dynamic-matmul-shared": lambda: dynamic(2),
    "dynamic-matmul-shared-equal-scales": lambda: dynamic(2, equal=True, per_channel=False),
    "matmul-4-bits": few_bits,
    "matmul-4-bits-block-48": lambda: few_bits(block=48),
    "matmul-8-bits-per-channel": lambda: few_bits(8, 0),
    "gemm-4-bits": lambda: few_bits(op_type="Gemm"),
    "matmul-4-bits-relu": lambda: few_bits(behind=("Relu",)),
    "matmul-4-bits-relu-read": lambda: few_bits(behind=("Relu", "Sigmoid")),
    "matmul-4-bits-clip-read": lambda: few_bits(behind=("Clip", "Sigmoid")),
    "matmul-4-bits-sigmoid-relu": lambda: few_bits(behind=("Sigmoid", "Relu", "Sigmoid")),
    "gemm-4-bits-relu-read": lambda: few_bits(op_type="Gemm", behind=("Relu", "Sigmoid")),
}
