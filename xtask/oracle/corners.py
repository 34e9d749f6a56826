"""Corner cases of quantization: small models with random weights, each made so that a known mistake shows.

Every case is quantized in both formats and run beside its float form. What must hold: the runtime loads it, as many
contractions run in integers as the row says, the outputs are close to float, and the two formats agree.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from measure import Feed
from processor import vnni

SAMPLES = 8
OLDEST_OPSET, NEWEST_OPSET = 7, 24


@dataclass(frozen=True)
class Corner:
    """One model.

    name      as it is reported
    build     makes the model; weights come from the generator
    integer   least number of contractions in integer kernels
    sqnr_db   least signal-to-noise ratio at the outputs
    low       smallest element of the inputs; the largest is 1
    """

    name: str
    build: Callable[[np.random.Generator], onnx.ModelProto]
    integer: int = 1
    sqnr_db: float = 30.0
    low: float = -1.0


def feeds(corner: Corner, model: onnx.ModelProto) -> list[Feed]:
    """Random samples for every input."""
    random = np.random.default_rng(1)
    kinds = {i.name: (helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type), _dims(i)) for i in model.graph.input}
    one = lambda dtype, dims: random.uniform(corner.low, 1.0, dims).astype(dtype)  # noqa: E731
    return [{name: one(*kind) for name, kind in kinds.items()} for _ in range(SAMPLES)]


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _model(nodes, inputs, outputs, constants, opset=17, dtype=TensorProto.FLOAT) -> onnx.ModelProto:
    """A model of these nodes; inputs by name with their dimensions, outputs by name with their rank."""
    graph = helper.make_graph(
        nodes,
        "corner",
        [helper.make_tensor_value_info(name, dtype, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, [None] * rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports))


def _normal(random: np.random.Generator, *dims: int, std: float | None = None) -> np.ndarray:
    """Weights with which a layer keeps the size of its data."""
    scale = std or 1 / np.sqrt(np.prod(dims[1:]))
    return (random.standard_normal(dims) * scale).astype(np.float32)


def _two_gemms(random, first: dict, second: dict, **shapes) -> onnx.ModelProto:
    """Gemm, Relu, Gemm, of attributes to test."""
    n = 512
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], **first),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], **second),
    ]
    constants = {
        "w": _normal(random, n, n), "v": _normal(random, n, n),
        "b": random.standard_normal(shapes.get("b", (n,))).astype(np.float32),
        "c": random.standard_normal(shapes.get("c", (n,))).astype(np.float32),
    }
    return _model(nodes, {"x": shapes.get("x", [128, n])}, {"y": 2}, constants)


def gemm_factors(random):
    return _two_gemms(random, {"alpha": 0.5, "beta": 2.0}, {"alpha": 2.0, "beta": 0.25})


def gemm_transposed_weight(random):
    return _two_gemms(random, {"transB": 1}, {"transB": 1, "alpha": 0.5})


def gemm_transposed_data(random):
    return _two_gemms(random, {"transA": 1}, {"transB": 1}, x=[512, 128])


def gemm_broadcast_biases(random):
    return _two_gemms(random, {}, {}, b=(1,), c=(1, 512))


def gemm_bias_of_rows(random):
    return _two_gemms(random, {}, {}, b=(), c=(128, 1))


def stacked_weights(random):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["n"]),
        # Not scores of classes, of which random weights have many that are nearly equal.
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = {"w": _normal(random, 4, 256, 256, std=0.06), "v": _normal(random, 4, 256, 256, std=0.06)}
    return _model(nodes, {"x": [4, 256, 256]}, {"y": 3}, constants)


def _convs(random, weights: dict, biases: dict, reads=("x", "r"), channels=32) -> onnx.ModelProto:
    """Two convolutions with a Relu between, and a third that keeps the second from being the last."""
    names = list(weights)
    use = lambda i: [names[i], *([list(biases)[i]] if len(biases) > i else [])]  # noqa: E731
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", [reads[0], *use(0)], ["h"], **same),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", [reads[1], *use(-1 if len(names) == 1 else 1)], ["y"], **same),
    ]
    return _model(nodes, {"x": [1, channels, 28, 28]}, {"y": 4}, {**weights, **biases})


def tied_weights(random):
    """The same weight and bias behind data of different scales."""
    w, b = _normal(random, 32, 32, 3, 3), _normal(random, 32, std=0.3)
    model = _convs(random, {"w": w}, {"b": b})
    del model.graph.node[2].input[2:]
    model.graph.node[2].input.append("b")
    return model


def overflowing_bias(random):
    """Channels of tiny weights beside a large bias: on the accumulator's grid it does not fit 32 bits."""
    w, b = _normal(random, 32, 32, 3, 3), _normal(random, 32, std=0.3)
    w[::4] *= 1e-9
    b[::4] = 5.0
    return _convs(random, {"w": w, "v": _normal(random, 32, 32, 3, 3)}, {"b": b, "c": _normal(random, 32, std=0.3)})


def dead_channels(random):
    """Channels without weights: their bias alone is what they say."""
    w, b = _normal(random, 32, 32, 3, 3), _normal(random, 32, std=0.3)
    w[::3] = 0
    w[1::3] *= 1e-30
    return _convs(random, {"w": w, "v": _normal(random, 32, 32, 3, 3)}, {"b": b, "c": _normal(random, 32, std=0.3)})


def one_channel(random):
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], **same),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v", "d"], ["y"], **same),
    ]
    constants = {
        "w": _normal(random, 64, 64, 3, 3), "b": _normal(random, 64, std=0.3),
        "v": _normal(random, 1, 64, 3, 3), "d": np.array([0.7], np.float32),
    }
    return _model(nodes, {"x": [1, 64, 28, 28]}, {"y": 4}, constants)


def plain_convs(random):
    weights = {"w": _normal(random, 32, 32, 3, 3), "v": _normal(random, 32, 32, 3, 3)}
    return _convs(random, weights, {"b": _normal(random, 32, std=0.3), "c": _normal(random, 32, std=0.3)})


def grouped_transposed_conv(random):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "v", "b"], ["t"], group=4, strides=[2, 2]),
        helper.make_node("Conv", ["t", "u"], ["y"]),
    ]
    constants = {
        "w": _normal(random, 32, 32, 3, 3), "v": _normal(random, 32, 8, 2, 2, std=0.2),
        "b": _normal(random, 32, std=0.3), "u": _normal(random, 32, 32, 3, 3),
    }
    return _model(nodes, {"x": [1, 32, 28, 28]}, {"y": 4}, constants)


def nameless_nodes(random):
    """Nodes without names, and values with names that quantization would give."""
    model = plain_convs(random)
    taken = {"r": "x_scale", "h": "x_QuantizeLinear_Output"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [taken.get(name, name) for name in names]
    return model


def half_precision(random):
    """float16 throughout, as exporters write it for other devices."""
    model = plain_convs(random)
    for initializer in model.graph.initializer:
        initializer.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initializer).astype(np.float16), initializer.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def quantized_island(random):
    """A convolution that is quantized already, in front of one that is not."""
    model = plain_convs(random)
    w = numpy_helper.to_array(model.graph.initializer[0])
    scale = np.float32(np.abs(w).max() / 127)
    island = {
        "xs": np.float32(2 / 255), "xz": np.uint8(127), "ws": scale, "wz": np.int8(0),
        "wq": np.clip(np.round(w / scale), -127, 127).astype(np.int8), "rs": np.float32(3 / 255), "rz": np.uint8(0),
    }
    pair = lambda x, s, z: [  # noqa: E731
        helper.make_node("QuantizeLinear", [x, s, z], [f"{x}_q"]),
        helper.make_node("DequantizeLinear", [f"{x}_q", s, z], [f"{x}_f"]),
    ]
    conv, relu, last = model.graph.node
    conv.input[:] = ["x_f", "w_f"]
    last.input[0] = "r_f"
    nodes = [*pair("x", "xs", "xz"), helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w_f"])]
    nodes += [conv, relu, *pair("r", "rs", "rz"), last]
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in ("v", "c")}
    return _model(nodes, {"x": [1, 32, 28, 28]}, {"y": 4}, {**constants, **island})


def integer_island(random):
    """The same, as an operator on integers."""
    model = quantized_island(random)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["x_q"]),
        helper.make_node("QLinearConv", ["x_q", "xs", "xz", "wq", "ws", "wz", "rs", "rz"], ["r_q"], pads=[1, 1, 1, 1]),
        helper.make_node("DequantizeLinear", ["r_q", "rs", "rz"], ["r_f"]),
        model.graph.node[-1],
    ]
    return _model(nodes, {"x": [1, 32, 28, 28]}, {"y": 4}, constants)


def dynamic_island(random):
    """A product quantized as it runs, in front of one that is not quantized."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "wq", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["k"]),
        helper.make_node("Mul", ["f", "k"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["g"]),
        helper.make_node("Gemm", ["g", "v", "c"], ["y"]),
    ]
    constants = {
        "wq": random.integers(-63, 64, (256, 256)).astype(np.int8), "ws": np.float32(0.002),
        "v": _normal(random, 256, 256), "c": _normal(random, 256, std=0.3),
    }
    return _model(nodes, {"x": [64, 256]}, {"y": 2}, constants)


def _opset(version: int) -> Corner:
    """Two convolutions, a pool and a Softmax, as operator set `version` writes them."""

    def build(random):
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p", "v", "d"], ["e"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["e"], ["a"]),
            helper.make_node("Reshape", ["a", "flat"], ["f"]),
            helper.make_node("Softmax", ["f"], ["y"], axis=1),
        ]
        constants = {
            "w": _normal(random, 32, 32, 3, 3), "b": _normal(random, 32, std=0.3), "v": _normal(random, 32, 32, 3, 3),
            "d": _normal(random, 32, std=0.3), "flat": np.array([1, -1], np.int64),
        }
        return _model(nodes, {"x": [1, 32, 28, 28]}, {"y": 2}, constants, opset=version)

    return Corner(f"opset-{version}", build, integer=2)


def hard_gates(random):
    """A block of MobileNetV3: a HardSwish in either spelling, and a gate for each channel."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("HardSwish", ["a"], ["s"]),
        helper.make_node("Conv", ["s", "w1"], ["b"], group=480, pads=[1, 1, 1, 1]),
        helper.make_node("HardSigmoid", ["b"], ["g"], alpha=1 / 6),
        helper.make_node("Mul", ["b", "g"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["m"]),
        helper.make_node("Conv", ["m", "w2"], ["c"]),
        helper.make_node("HardSwish", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["e"]),
        helper.make_node("HardSigmoid", ["e"], ["f"], alpha=0.3, beta=0.6),
        helper.make_node("Mul", ["t", "f"], ["p"]),
        helper.make_node("Conv", ["p", "w4"], ["y"]),
    ]
    weights = {
        "w0": _normal(random, 480, 96, 1, 1, std=0.4), "w1": _normal(random, 480, 1, 3, 3, std=0.6),
        "w2": _normal(random, 480, 480, 1, 1, std=0.4), "w3": _normal(random, 480, 480, 1, 1, std=0.2),
        "w4": _normal(random, 96, 480, 1, 1),
    }
    return _model(nodes, {"x": [1, 96, 14, 14]}, {"y": 4}, weights)


def dilated_in_padding(random):
    """What DeepLab has behind a small picture: nine taps of which one meets it."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[12] * 4, dilations=[12, 12]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], pads=[1] * 4),
    ]
    weights = {"w0": _normal(random, 64, 64, 3, 3), "w1": _normal(random, 64, 64, 3, 3)}
    return _model(nodes, {"x": [1, 64, 10, 14]}, {"y": 4}, weights)


def transposed_along_one_axis(random):
    """Upsampling in a vocoder: pixels computed as channels, which are exchanged as integers."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[3, 3]),
        helper.make_node("LeakyRelu", ["a"], ["r"], alpha=0.1),
        helper.make_node("ConvTranspose", ["r", "w1", "b1"], ["t"], strides=[8], pads=[4, 4]),
        helper.make_node("LeakyRelu", ["t"], ["s"], alpha=0.1),
        helper.make_node("Conv", ["s", "w2"], ["y"], pads=[1, 1]),
    ]
    weights = {
        "w0": _normal(random, 128, 64, 7), "w1": _normal(random, 128, 64, 16, std=0.06), "b1": _normal(random, 64, std=0.1),
        "w2": _normal(random, 32, 64, 3),
    }
    return _model(nodes, {"x": [1, 64, 200]}, {"y": 3}, weights)


CORNERS = (
    Corner("gemm-factors", gemm_factors),
    Corner("gemm-transposed-weight", gemm_transposed_weight, integer=2),
    Corner("gemm-transposed-data", gemm_transposed_data, integer=2),
    Corner("gemm-broadcast-biases", gemm_broadcast_biases, integer=2),
    Corner("gemm-bias-of-rows", gemm_bias_of_rows, integer=0),
    # Without VNNI products so small are faster in float.
    Corner("stacked-weights", stacked_weights, integer=1 if vnni() else 0),
    Corner("tied-weights", tied_weights, integer=2),
    Corner("overflowing-bias", overflowing_bias, integer=2),
    Corner("dead-channels", dead_channels, integer=2),
    Corner("one-channel", one_channel, integer=1),
    Corner("grouped-transposed-conv", grouped_transposed_conv),
    Corner("negative-data", plain_convs, integer=2, low=-40.0),
    Corner("nameless-nodes", nameless_nodes, integer=2),
    Corner("half-precision", half_precision, integer=2),
    Corner("quantized-island", quantized_island, integer=2),
    Corner("integer-island", integer_island, integer=2),
    Corner("dynamic-island", dynamic_island, integer=2),
    # The two convolutions of one pixel stay in float.
    Corner("hard-gates", hard_gates, integer=3 if vnni() else 1, sqnr_db=27.0),
    Corner("dilated-in-padding", dilated_in_padding, integer=2),
    Corner("transposed-along-one-axis", transposed_along_one_axis, integer=3 if vnni() else 1),
    *(_opset(version) for version in range(OLDEST_OPSET, NEWEST_OPSET + 1)),
)
