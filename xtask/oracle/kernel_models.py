"""Small models of one operator in its usual surroundings, in float and in QDQ form, for timing its kernels.

An operator is repeated in a chain, because its cost inside a chain is what counts: float convolutions keep their data
in blocks of channels (NCHWc) and integer ones in NHWC, and only chains show that state. Operators under test have
names `t0`, `t1`, ...; their neighbours `c0`, `c1`, ...
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


@dataclass
class Chain:
    """A graph under construction: a list of operators that each read the value made last."""

    shape: list[int]
    quantized: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    last: str = "x"
    count: int = 0

    def __post_init__(self):
        self._input = list(self.shape)
        self.random = np.random.default_rng(0)
        self.last = self._border("x") if self.quantized else "x"

    def model(self) -> onnx.ModelProto:
        """The finished model; its output is the value made last."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "chain", [info("x", TensorProto.FLOAT, self._input)],
            [info(self.last, TensorProto.FLOAT, None)], self.constants,
        )
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=8)

    def conv(self, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1, tested: bool = False) -> None:
        """A convolution with bias and `outputs` channels that keeps the size (but for the stride)."""
        inputs = self.shape[1] // group
        bound = 1.5 / np.sqrt(inputs * kernel * kernel)
        weight = self._weight([outputs, inputs, kernel, kernel], bound, axis=0)
        bias = self.constant(np.zeros(outputs, np.float32))
        pads = [(kernel - 1) // 2] * 4
        self.apply("Conv", [self.last, weight, bias], tested, kernel_shape=[kernel] * 2, pads=pads,
                   strides=[stride] * 2, group=group)
        side = (self.shape[2] - 1) // stride + 1
        self.shape = [1, outputs, side, side]

    def pad_channels(self, channels: int, tested: bool = False) -> None:
        """Appends channels of zeros to the quantized form of the value made last."""
        quantized, scale, zero = self.nodes[-1].input
        name = f"{'t' if tested else 'c'}{self.count}"
        self.count += 1
        pads = self.ints([0, 0, 0, 0, 0, channels, 0, 0])
        self.nodes.append(helper.make_node("Pad", [quantized, pads, zero], [name], name=name))
        self.last = f"{name}_dq"
        self.nodes.append(helper.make_node("DequantizeLinear", [name, scale, zero], [self.last], name=self.last))
        self.shape[1] += channels

    def gemm(self, outputs: int, tested: bool = False) -> None:
        """A Gemm with bias on a matrix."""
        inputs = self.shape[-1]
        weight = self._weight([inputs, outputs], 1.5 / np.sqrt(inputs), axis=1)
        self.apply("Gemm", [self.last, weight, self.constant(np.zeros(outputs, np.float32))], tested)
        self.shape = [*self.shape[:-1], outputs]

    def apply(self, op_type: str, inputs: list[str], tested: bool = False, keep: bool = False, **attributes) -> str:
        """Any operator of one result; with `keep` the result has the quantization parameters of its input."""
        name = f"{'t' if tested else 'c'}{self.count}"
        self.count += 1
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.last = self._border(name, keep) if self.quantized else name
        return self.last

    def border(self, integers: bool) -> None:
        """Goes over to integers, or back to float."""
        self.last = self._border(self.last) if integers else self.last
        self.quantized = integers

    def ints(self, values: list[int]) -> str:
        """A constant list of integers."""
        return self.constant(np.array(values, np.int64))

    def floats(self, values: list[float]) -> str:
        """A constant list of numbers, never quantized."""
        return self.constant(np.array(values, np.float32))

    def _border(self, value: str, keep: bool = False) -> str:
        """QuantizeLinear and DequantizeLinear. Scales differ, as they do in real models, unless `keep`."""
        if not keep:
            self._scale = np.float32(0.02 + 0.0001 * (len(self.nodes) % 17))
        scale, zero = self.constant(self._scale), self.constant(np.uint8(128))
        quantized = f"{value}_q"
        self.nodes.append(helper.make_node("QuantizeLinear", [value, scale, zero], [quantized], name=quantized))
        return self._dequantized(quantized, self._scale, np.uint8(128))

    def _weight(self, shape: list[int], bound: float, axis: int) -> str:
        values = self.random.uniform(-bound, bound, shape).astype(np.float32)
        if not self.quantized:
            return self.constant(values)
        levels = np.clip(np.rint(values * (127 / bound)), -127, 127).astype(np.int8)
        scales = np.full(shape[axis], bound / 127, np.float32)
        return self._dequantized(self.constant(levels), scales, np.zeros(shape[axis], np.int8), axis)

    def _dequantized(self, value: str, scale: np.ndarray, zero: np.ndarray, axis: int | None = None) -> str:
        result = f"{value}_dq"
        attributes = {} if axis is None else {"axis": axis}
        inputs = [value, self.constant(scale), self.constant(zero)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [result], name=result, **attributes))
        return result

    def constant(self, values: np.ndarray) -> str:
        """A constant of its own type."""
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name


Build = Callable[[Chain], None]
"""Appends a family's operators to a chain that has just begun."""


@dataclass(frozen=True)
class Subject:
    """What is timed: `kernel` names the row of the table in integers and float, `work` its units of work.

    shape    of the chain's input
    build    appends the operators
    integer  row and units of work of the integer kernel; `None` if only float is timed
    floating the same in float
    """

    shape: list[int]
    build: Build
    integer: tuple[str, list[float]] | None
    floating: tuple[str, list[float]] | None


def repeat(times: int, step: Build) -> Build:
    """A chain that repeats a step."""

    def build(chain: Chain) -> None:
        for _ in range(times):
            step(chain)

    return build
