"""Small networks with quantizers in them, each as one training tool exports it.

Weights are random, scales are chosen from them, and every activation that the network quantizes is an output, so that
layers can be compared one by one. `reference` computes the same in operators that the runtime has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from measure import Feed

SAMPLES = 4
QONNX = "qonnx.custom_op.general"
CHANNELS, SIZE = 32, 16


@dataclass
class Net:
    """A network as it grows."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    nodes: list = field(default_factory=list)
    constants: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    functions: list = field(default_factory=list)
    domains: list = field(default_factory=list)
    count: int = 0

    def const(self, array, name: str | None = None) -> str:
        """Adds an initializer."""
        self.count += 1
        name = name or f"c{self.count}"
        self.constants[name] = np.asarray(array)
        return name

    def op(self, kind: str, *operands: str, result: str | None = None, domain: str = "", **attributes) -> str:
        """Adds a node of one result."""
        self.count += 1
        result = result or f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(operands), [result], f"n{self.count}", domain=domain, **attributes))
        return result

    def weight(self, *dims: int) -> np.ndarray:
        """Random weights that keep the size of data."""
        return (self.random.standard_normal(dims) / np.sqrt(np.prod(dims[1:]))).astype(np.float32)

    def model(self, dims: list[int], opset: int = 17) -> onnx.ModelProto:
        """The network on an input `x`, with all that was named as output."""
        graph = helper.make_graph(
            self.nodes,
            "trained",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in self.outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in self.domains)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=self.functions)
        return model


@dataclass(frozen=True)
class Trained:
    """One export.

    name       as it is reported
    build      makes the model
    reference  makes one that the runtime can run, if it cannot run the first
    targets    where it is converted to
    dims       of the input
    integer    contractions that must run in integers on the CPU
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    reference: Callable[[], onnx.ModelProto] | None = None
    dims: tuple[int, ...] = (1, CHANNELS, SIZE, SIZE)
    integer: int = 2

    def feeds(self) -> list[Feed]:
        """Inputs that saturate now and then."""
        random = np.random.default_rng(5)
        return [{"x": random.standard_normal(self.dims).astype(np.float32)} for _ in range(SAMPLES)]


def pair(net: Net, x: str, scale, zero, axis: int | None = None, result: str | None = None, limits=None) -> str:
    """QuantizeLinear, perhaps Clip, DequantizeLinear."""
    attributes = {} if axis is None else {"axis": axis}
    s, z = net.const(np.asarray(scale, np.float32)), net.const(np.asarray(zero))
    q = net.op("QuantizeLinear", x, s, z, **attributes)
    if limits is not None:
        kind = np.asarray(zero).dtype
        q = net.op("Clip", q, net.const(np.asarray(limits[0], kind)), net.const(np.asarray(limits[1], kind)))
    return net.op("DequantizeLinear", q, s, z, result=result, **attributes)


def scales(w: np.ndarray, axis: int, levels: int) -> np.ndarray:
    """A scale for each index of an axis."""
    rest = tuple(i for i in range(w.ndim) if i != axis)
    return (np.abs(w).max(rest) / levels).astype(np.float32)


def _bias(net: Net, n: int = CHANNELS) -> str:
    return net.const((net.random.standard_normal(n) * 0.1).astype(np.float32))


def pt2e() -> onnx.ModelProto:
    """PyTorch 2 export: integer weights behind a DequantizeLinear, asymmetric int8 activations, linear layers transposed."""
    net = Net()
    x = pair(net, "x", 0.02, np.int8(3))
    for layer, (scale, zero) in enumerate([(0.012, -128), (0.011, -128)]):
        w = net.weight(CHANNELS, CHANNELS, 3, 3)
        s = scales(w, 0, 127)
        q = net.const(np.clip(np.round(w / s[:, None, None, None]), -127, 127).astype(np.int8))
        zeros = net.const(np.zeros(CHANNELS, np.int8))
        w = net.op("DequantizeLinear", q, net.const(s), zeros, axis=0)
        x = net.op("Relu", net.op("Conv", x, w, _bias(net), pads=[1, 1, 1, 1]))
        x = pair(net, x, scale, np.int8(zero), result=f"y{layer}")
        net.outputs[x] = 4
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = pair(net, x, 0.006, np.int8(-128))
    w = net.weight(10, CHANNELS)
    w = pair(net, net.const(w), scales(w, 0, 127), np.zeros(10, np.int8), 0)
    x = net.op("Gemm", x, net.op("Transpose", w, perm=[1, 0]), _bias(net, 10))
    net.outputs[pair(net, x, 0.01, np.int8(5), result="y2")] = 2
    return net.model([1, CHANNELS, SIZE, SIZE])


def pytorch_quantization() -> onnx.ModelProto:
    """Symmetric int8 at the inputs of weighted operators, float weights, BatchNormalization kept, a skip connection."""
    net = Net()
    x = "x"
    for layer, scale in enumerate([0.022, 0.02]):
        x = pair(net, x, scale, np.int8(0), result=f"y{layer}")
        net.outputs[x] = 4
        w = net.weight(CHANNELS, CHANNELS, 3, 3)
        w = pair(net, net.const(w), scales(w, 0, 127), np.zeros(CHANNELS, np.int8), 0)
        c = net.op("Conv", x, w, pads=[1, 1, 1, 1])
        x = net.op("Relu", _batch_normalization(net, c))
    net.outputs[pair(net, x, 0.02, np.int8(0), result="y2")] = 4
    return net.model([1, CHANNELS, SIZE, SIZE])


def _batch_normalization(net: Net, x: str) -> str:
    gamma = net.random.uniform(0.5, 1.5, CHANNELS) * np.where(np.arange(CHANNELS) % 5 == 1, -1, 1)
    parts = [gamma, net.random.standard_normal(CHANNELS) * 0.2, net.random.standard_normal(CHANNELS) * 0.1,
             net.random.uniform(0.3, 1.0, CHANNELS)]
    return net.op("BatchNormalization", x, *(net.const(p.astype(np.float32)) for p in parts))


def tf2onnx() -> onnx.ModelProto:
    """TensorFlow through tf2onnx: channels last between layers, narrow weights in HWIO, transposed behind their quantizer."""
    net = Net()
    x = pair(net, "x", 0.03, np.uint8(110))
    for layer, scale in enumerate([0.012, 0.012]):
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
        w = net.weight(CHANNELS, CHANNELS, 3, 3).transpose(2, 3, 1, 0).copy()
        w = pair(net, net.const(w), scales(w, 3, 127), np.zeros(CHANNELS, np.int8), 3)
        w = net.op("Transpose", w, perm=[3, 2, 0, 1])
        x = net.op("Relu", net.op("Conv", x, w, _bias(net), pads=[1, 1, 1, 1]))
        x = pair(net, net.op("Transpose", x, perm=[0, 2, 3, 1]), scale, np.uint8(0), result=f"y{layer}")
        net.outputs[x] = 4
    return net.model([1, SIZE, SIZE, CHANNELS], opset=13)


def brevitas_qcdq() -> onnx.ModelProto:
    """Brevitas as QCDQ: 4-bit weights and 6-bit activations on 8-bit grids, a bias of 32 bits."""
    net = Net()
    x = pair(net, "x", 0.02, np.int8(0))
    scale_in = np.float32(0.02)
    for layer in range(2):
        w = net.weight(CHANNELS, CHANNELS, 3, 3)
        s = scales(w, 0, 7)
        if layer:
            q = net.const(np.clip(np.round(w / s[:, None, None, None]), -8, 7).astype(np.int8))
            q = net.op("Clip", q, net.const(np.int8(-8)), net.const(np.int8(7)))
            w = net.op("DequantizeLinear", q, net.const(s), net.const(np.zeros(CHANNELS, np.int8)), axis=0)
        else:
            w = pair(net, net.const(w), s, np.zeros(CHANNELS, np.int8), 0, limits=(-7, 7))
        bias = net.const(net.random.integers(-3000, 3000, CHANNELS).astype(np.int32))
        bias = net.op("DequantizeLinear", bias, net.const(s * scale_in), axis=0)
        x = net.op("Relu", net.op("Conv", x, w, bias, pads=[1, 1, 1, 1]))
        scale_in = np.float32(0.05)
        x = pair(net, x, scale_in, np.uint8(0), result=f"y{layer}", limits=(0, 63))
        net.outputs[x] = 4
    return net.model([1, CHANNELS, SIZE, SIZE])


def _quant_net(quant: Callable[..., str], domains: list[str]) -> onnx.ModelProto:
    """Convolutions between quantizers of 8, 4 and 8 bits. `quant(net, x, scale, bits, signed, narrow, axis, result)`."""
    net = Net(domains=domains)
    x = quant(net, "x", np.float32(0.02), 8, True, False, None, None)
    for layer, (bits, scale) in enumerate([(8, 0.012), (5, 0.1)]):
        w = net.weight(CHANNELS, CHANNELS, 3, 3)
        w = quant(net, net.const(w), scales(w, 0, 7), 4, True, True, 0, None)
        c = net.op("Conv", x, w, pads=[1, 1, 1, 1])
        x = net.op("Relu", _batch_normalization(net, c))
        x = quant(net, x, np.float32(scale), bits, False, False, None, f"y{layer}")
        net.outputs[x] = 4
    return net.model([1, CHANNELS, SIZE, SIZE])


def _limits(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def _quant_node(net, x, scale, bits, signed, narrow, axis, result):
    shape = [-1] + [1] * 3 if axis == 0 else []
    operands = [net.const(np.reshape(scale, shape)), net.const(np.float32(0)), net.const(np.float32(bits))]
    return net.op("Quant", x, *operands, result=result, domain=QONNX, signed=int(signed), narrow=int(narrow),
                  rounding_mode="ROUND")


def _quant_pair(net, x, scale, bits, signed, narrow, axis, result):
    kind = np.int8 if signed else np.uint8
    zero = np.zeros(np.shape(scale), kind)
    return pair(net, x, scale, zero, axis, result, _limits(bits, signed, narrow))


def _quant_chain(net, x, scale, bits, signed, narrow, axis, result):
    """Div, Round, Clip, Mul for weights; with a zero point that comes and goes for activations."""
    s = net.const(np.reshape(scale, [-1, 1, 1, 1] if axis == 0 else []).astype(np.float32))
    lowest, highest = _limits(bits, signed, narrow)
    level = net.op("Div", x, s)
    zero = np.float32(0 if axis == 0 else 3)
    if zero:
        level = net.op("Add", level, net.const(zero))
    level = net.op("Round", level)
    level = net.op("Clip", level, net.const(np.float32(lowest) + zero), net.const(np.float32(highest) + zero))
    if zero:
        level = net.op("Sub", level, net.const(zero))
    return net.op("Mul", level, s, result=result)


def _quant_powers(net, x, scale, bits, signed, narrow, axis, result):
    """QKeras: Mul, Round, Clip, Mul by powers of two."""
    power = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
    shape = [-1, 1, 1, 1] if axis == 0 else []
    lowest, highest = _limits(bits, signed, narrow)
    level = net.op("Round", net.op("Mul", x, net.const(np.reshape(1 / power, shape).astype(np.float32))))
    level = net.op("Max", net.op("Min", level, net.const(np.float32(highest))), net.const(np.float32(lowest)))
    return net.op("Mul", level, net.const(np.reshape(power, shape)), result=result)


def functions() -> onnx.ModelProto:
    """Quantizers inside of a model function."""
    body = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    function = helper.make_function("trained", "FakeQuantize", ["x", "s", "z"], ["y"], body, [helper.make_opsetid("", 17)])
    net = Net(functions=[function], domains=["trained"])

    def quant(x, scale, zero, result=None):
        return net.op("FakeQuantize", x, net.const(np.float32(scale)), net.const(zero), domain="trained", result=result)

    x = quant("x", 0.02, np.int8(0))
    for layer in range(2):
        w = net.weight(CHANNELS, CHANNELS, 3, 3)
        w = quant(net.const(w), np.abs(w).max() / 127, np.int8(0))
        x = net.op("Relu", net.op("Conv", x, w, _bias(net), pads=[1, 1, 1, 1]))
        x = quant(x, 0.012, np.uint8(0), f"y{layer}")
        net.outputs[x] = 4
    return net.model([1, CHANNELS, SIZE, SIZE])


TRAINED = [
    Trained("pt2e", pt2e, integer=3),
    Trained("pytorch-quantization", pytorch_quantization),
    Trained("tf2onnx", tf2onnx, dims=(1, SIZE, SIZE, CHANNELS)),
    Trained("brevitas-qcdq", brevitas_qcdq),
    Trained("qonnx-quant", lambda: _quant_net(_quant_node, [QONNX]), lambda: _quant_net(_quant_pair, [])),
    Trained("arithmetic", lambda: _quant_net(_quant_chain, [])),
    Trained("powers-of-two", lambda: _quant_net(_quant_powers, [])),
    Trained("functions", functions),
]
