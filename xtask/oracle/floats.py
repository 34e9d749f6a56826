"""Random convolutional networks, rewritten for the runtime's float kernels, in the runtime.

What squint writes for these kernels (channels in whole blocks, neighbours as channels, gates) is made of shapes and of
who reads what; random networks have combinations that no one thinks of. Rewritten they compute what they computed.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compiler import Squint
from measure import session
from report import Report

NAME = "floats"
NETWORKS = 120
TOLERANCE = 2e-4
"""Of the largest output: sums in another order."""

CHANNELS = (4, 8, 12, 16, 20, 24, 32, 40)


class Network:
    """A network under construction: each step adds an operator to one of the values that there are."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        high, wide = self.start()
        self.values = [("x", 3, high, wide)]
        self.inputs = [("x", [1, 3, high, wide])]
        for _ in range(int(self.random.integers(6, 18))):
            self.step()

    def start(self) -> tuple[int, int]:
        """Rows and columns of the input."""
        side = int(self.random.integers(9, 40))
        return side, side

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype=np.float32)
        return name

    def add(self, op: str, operands: list[str], shape: tuple[int, int, int], **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, operands, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append((name, *shape))
        return name

    def step(self) -> None:
        """One more operator. Later values are likelier operands, so that networks are deep."""
        weights = np.arange(1, len(self.values) + 1) ** 2.0
        x, channels, high, wide = self.values[self.random.choice(len(self.values), p=weights / weights.sum())]
        kind = self.random.choice(
            ["conv", "conv", "conv", "depthwise", "pool", "relu", "clip", "hswish", "se", "add_to", "add_to", "concat", "scale", "resize", "silu", "softmax", "mean", "mish", "bend", "respond", "root"]
        )
        getattr(self, kind)(x, channels, high, wide)

    def conv(self, x, channels, high, wide):
        outputs = int(self.random.choice(CHANNELS + (1, 2)))
        kernel = (int(self.random.choice([1, 3, 5])), int(self.random.choice([1, 3, 9, 25])))
        stride = int(self.random.choice([1, 1, 2]))
        pads = [kernel[0] // 2, kernel[1] // 2] * 2
        weight = self.random.standard_normal((outputs, channels, *kernel)) / np.sqrt(channels * kernel[0] * kernel[1])
        bias = self.random.standard_normal(outputs)
        shape = (outputs, (high - 1) // stride + 1, (wide - 1) // stride + 1)
        operands = [x, self.constant(weight), self.constant(bias)]
        self.add("Conv", operands, shape, kernel_shape=kernel, pads=pads, strides=[stride] * 2)

    def depthwise(self, x, channels, high, wide):
        weight = self.constant(self.random.standard_normal((channels, 1, 3, 3)) / 3)
        self.add("Conv", [x, weight], (channels, high, wide), kernel_shape=[3, 3], pads=[1] * 4, group=channels)

    def pool(self, x, channels, high, wide):
        kind = str(self.random.choice(["MaxPool", "AveragePool"]))
        self.add(kind, [x], (channels, high, wide), kernel_shape=[3, 3], pads=[1] * 4)

    def relu(self, x, *shape):
        self.add(str(self.random.choice(["Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu"])), [x], shape)

    def clip(self, x, *shape):
        self.add("Clip", [x, self.constant(0), self.constant(6)], shape)

    def hswish(self, x, *shape):
        total = self.add("Add", [x, self.constant(3)], shape)
        gate = self.add("Clip", [total, self.constant(0), self.constant(6)], shape)
        product = self.add("Mul", [x, gate], shape)
        if self.random.random() < 0.7:
            product = self.add("Div", [product, self.constant(6)], shape)
        self.conv(product, *shape)

    def silu(self, x, *shape):
        self.add("Mul", [x, self.add("Sigmoid", [x], shape)], shape)

    def se(self, x, channels, high, wide):
        mean = self.add("GlobalAveragePool", [x], (channels, 1, 1))
        gate = self.add("Sigmoid", [mean], (channels, 1, 1))
        self.add("Mul", [x, gate], (channels, high, wide))

    def add_to(self, x, channels, high, wide):
        """With a value of the same shape, perhaps itself."""
        others = [v for v in self.values if v[1:] == (channels, high, wide)]
        y = others[self.random.integers(len(others))][0]
        self.add(str(self.random.choice(["Add", "Mul", "Max", "Sub"])), [x, y], (channels, high, wide))

    def scale(self, x, channels, high, wide):
        factor = self.constant(self.random.standard_normal((1, channels, 1, 1)))
        self.add(str(self.random.choice(["Add", "Mul"])), [x, factor], (channels, high, wide))

    def resize(self, x, channels, high, wide):
        if high > 40:
            return
        ways = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
        modes = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        if self.random.random() < 0.5:
            modes = dict(mode="nearest", coordinate_transformation_mode=str(self.random.choice(ways[:2])))
        if self.random.random() < 0.6:
            modes = dict(mode="linear", coordinate_transformation_mode=str(self.random.choice(ways)))
        self.add("Resize", [x, "", self.constant([1, 1, 2, 2])], (channels, high * 2, wide * 2), **modes)

    def mish(self, x, *shape):
        self.add("Mul", [x, self.add("Tanh", [self.add("Softplus", [x], shape)], shape)], shape)

    def bend(self, x, *shape):
        self.add(str(self.random.choice(["Softplus", "Elu"])), [x], shape)

    def respond(self, x, *shape):
        self.add("LRN", [x], shape, size=int(self.random.choice([3, 5, 7])), alpha=0.1, beta=float(self.random.choice([0.75, 0.5, 0.6])))

    def root(self, x, *shape):
        positive = self.add("Add", [self.add("Relu", [x], shape), self.constant(1)], shape)
        self.add("Pow", [positive, self.constant(self.random.choice([0.5, -1]))], shape)

    def softmax(self, x, *shape):
        self.add("Softmax", [x], shape, axis=1)

    def mean(self, x, channels, high, wide):
        self.add("GlobalAveragePool", [x], (channels, 1, 1))

    def concat(self, x, channels, high, wide):
        others = [v for v in self.values if v[2:] == (high, wide) and v[0] != x]
        if others:
            y, more, *_ = others[self.random.integers(len(others))]
            self.add("Concat", [x, y], (channels + more, high, wide), axis=1)

    def model(self) -> onnx.ModelProto:
        """What no one reads is an output."""
        read = {operand for node in self.nodes for operand in node.input}
        outputs = [v for v in self.values if v[0] not in read and v[0] != "x"]
        value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
        graph = helper.make_graph(
            self.nodes,
            "network",
            [value(name, shape) for name, shape in self.inputs],
            [value(name, [1, *shape]) for name, *shape in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Sequences(Network):
    """The same with one axis: pictures of one row whose row axis is left out when the model is written."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.inputs = [("x", [1, 3, self.length])]

    def start(self) -> tuple[int, int]:
        self.length = int(self.random.integers(64, 600))
        return 1, self.length

    def resize(self, *_):
        pass

    def respond(self, *_):
        pass

    def model(self) -> onnx.ModelProto:
        for node in self.nodes:
            for attribute in node.attribute:
                if attribute.name in ("kernel_shape", "strides"):
                    del attribute.ints[0]
                elif attribute.name == "pads":
                    attribute.ints[:] = [attribute.ints[1], attribute.ints[3]]
                elif attribute.name == "axis":
                    attribute.i = 1
        for name, array in self.constants.items():
            if array.ndim == 4:
                self.constants[name] = array[:, :, array.shape[2] // 2]
        self.values = [(name, channels, wide) for name, channels, _, wide in self.values]
        return super().model()


def check(squint: Squint, folder: Path, report: Report) -> None:
    """All networks, each one check; every fourth is one of sequences."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(NETWORKS):
        name = f"{NAME}/{seed}"
        with report.step(name):
            network = (Sequences if seed % 4 == 3 else Network)(seed)
            path, rewritten = folder / f"{seed}.onnx", folder / f"{seed}.rewritten.onnx"
            onnx.save(network.model(), path)
            squint.optimize(path, rewritten)
            onnx.checker.check_model(rewritten, full_check=True)
            feed = {n: np.random.default_rng(seed).standard_normal(s).astype(np.float32) for n, s in network.inputs}
            before, after = (session(model).run(None, feed) for model in (path, rewritten))
            worst = max(_distance(a, b) for a, b in zip(before, after, strict=True))
            sizes = [len(onnx.load(model).graph.node) for model in (path, rewritten)]
            report.check(name, worst <= TOLERANCE, f"{sizes[0]} -> {sizes[1]} operators, {worst:.1e} of the largest output")


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6))
