"""A model that `squint qat export` wrote, as a PyTorch module: load it, train it, write the result back by name.

    net = OnnxModule("digits.qat.onnx")
    logits = net(images)                  # differentiable, quantizers included
    net.save("digits.trained.onnx")       # the same file with trained initializers

The module runs the graph node by node. It knows the operators of convolutional networks and perceptrons (`OPERATORS`);
another one is an error that names it. Quantizers train with straight-through gradients, and their scales are learnt
(Esser et al., "Learned Step Size Quantization", ICLR 2020).

Needs torch, onnx and numpy.
"""

import json

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

LEVELS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}
SMALLEST_SCALE = 1e-8


class OnnxModule(torch.nn.Module):
    """The graph of an ONNX file. Float initializers are parameters, but for the scales that the file says are fixed
    and the statistics of BatchNormalization."""

    def __init__(self, path):
        super().__init__()
        self.model = onnx.load(path)
        graph = self.model.graph
        for node in graph.node:
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                raise ValueError(f"node `{node.name}`: {node.domain}::{node.op_type} is not known to this script")
        entries = {p.key: p.value for p in self.model.metadata_props}
        if "squint.quantizers" not in entries:
            raise ValueError(f"`{path}` lists no quantizers: is it from `squint qat export`?")
        self.quantizers = json.loads(entries["squint.quantizers"])
        self.arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        constants = self._constants()
        self.trained = torch.nn.ParameterList()
        self.place = {}
        self.constants = {}
        for name, array in self.arrays.items():
            tensor = torch.from_numpy(array.copy())
            if tensor.is_floating_point() and name not in constants:
                self.place[name] = len(self.trained)
                self.trained.append(torch.nn.Parameter(tensor))
            else:
                self.constants[name] = tensor
        given = {t.name for t in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in given]
        self.outputs = [o.name for o in graph.output]
        self.gradient_scale = {}

    def _constants(self):
        """Names of float initializers that are not trained by gradients."""
        fixed = {q["scale"] for q in self.quantizers if not q["trainable"]}
        statistics = [n.input[3:5] for n in self.model.graph.node if n.op_type == "BatchNormalization"]
        limits = [n.input[1:3] for n in self.model.graph.node if n.op_type == "Clip"]
        return fixed.union(*statistics, *limits)

    def scales(self):
        """The learnt scales: parameters that must stay positive, and take no weight decay."""
        names = {q["scale"] for q in self.quantizers if q["scale"] in self.place}
        return [self.trained[self.place[name]] for name in sorted(names)]

    def keep_scales_positive(self):
        """To be called after each step of the optimizer."""
        with torch.no_grad():
            for scale in self.scales():
                scale.clamp_(min=SMALLEST_SCALE)

    def value(self, name):
        """The tensor of an initializer."""
        place = self.place.get(name)
        return self.trained[place] if place is not None else self.constants[name]

    def forward(self, *inputs):
        """The outputs of the graph: one tensor, or a list of several."""
        values = dict(zip(self.inputs, inputs, strict=True))

        def read(name):
            if not name:
                return None
            return values[name] if name in values else self.value(name)

        for node in self.model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            run = OPERATORS[node.op_type]
            values[node.output[0]] = run(self, node, attributes, *[read(name) for name in node.input])
        outputs = [values[name] for name in self.outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def save(self, path):
        """Writes the file that was loaded, with what was trained in place of its initializers."""
        for tensor in self.model.graph.initializer:
            array = self.value(tensor.name).detach().numpy().astype(self.arrays[tensor.name].dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(self.model, path)


# ---------------------------------------------------------------- quantizers


def scaled(scale, factor):
    """The scale itself, whose gradient is multiplied by the factor."""
    return scale * factor + (scale * (1 - factor)).detach()


def along(parameter, x, attributes):
    """A parameter of one number for each channel, in a shape that broadcasts over `x`."""
    if parameter.ndim == 0:
        return parameter
    shape = [1] * x.ndim
    shape[attributes.get("axis", 1)] = -1
    return parameter.reshape(shape)


class Levels(torch.autograd.Function):
    """`clip(round(x / s), low, high)`, differentiated as if there were no rounding, and nothing where it clips."""

    @staticmethod
    def forward(ctx, x, scale, low, high):
        ratio = x / scale
        ctx.save_for_backward(ratio, scale, low, high)
        return torch.minimum(torch.maximum(ratio, low), high).round_()

    @staticmethod
    def backward(ctx, gradient):
        ratio, scale, low, high = ctx.saved_tensors
        to_x = torch.where((ratio >= low) & (ratio <= high), gradient / scale, 0.0)
        to_scale = -(to_x * ratio).sum_to_size(scale.shape)
        return to_x, to_scale, None, None


def quantize(net, node, attributes, x, scale, zero_point):
    """`clip(round(x / s) + z)`: straight through the rounding, nothing through what is clipped."""
    low, high = LEVELS[net.arrays[node.input[2]].dtype]
    # Section 2.2 of the paper: the gradient of a scale, times 1 / sqrt(N Qp), is about as large as those of weights.
    elements = x.numel() / scale.numel() / (1 if node.input[0] in net.place else x.shape[0])
    largest = next((q["levels"][1] for q in net.quantizers if q["scale"] == node.input[1]), high)
    net.gradient_scale[node.input[1]] = (elements * largest) ** -0.5
    scale = along(scaled(scale, net.gradient_scale[node.input[1]]), x, attributes)
    zero_point = along(zero_point.to(x.dtype), x, attributes)
    return Levels.apply(x, scale, low - zero_point, high - zero_point) + zero_point


def dequantize(net, node, attributes, level, scale, zero_point):
    """`(q - z) s`: with [`quantize`] before it, the gradient of the scale is `round(x / s) - x / s`, or the level that
    `x` is clipped to."""
    scale = scaled(scale, net.gradient_scale.get(node.input[1], 1.0))
    return (level - along(zero_point.to(level.dtype), level, attributes)) * along(scale, level, attributes)


# ---------------------------------------------------------------- float operators


def padded(attributes, spatial, x, fill=0.0):
    """Padding as ONNX has it, before or behind each axis, also where a PyTorch function takes one number for both."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError("`auto_pad` is not known to this script: `squint optimize` writes `pads`")
    pads = attributes.get("pads", [0] * (2 * spatial))
    both = [p for i in reversed(range(spatial)) for p in (pads[i], pads[i + spatial])]
    return F.pad(x, both, value=fill) if any(pads) else x


def conv(net, node, attributes, x, weight, bias=None):
    spatial = weight.ndim - 2
    x = padded(attributes, spatial, x)
    run = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    stride, dilation = attributes.get("strides", 1), attributes.get("dilations", 1)
    return run(x, weight, bias, stride=stride, dilation=dilation, groups=attributes.get("group", 1))


def gemm(net, node, attributes, a, b, c=None):
    a = a.t() if attributes.get("transA") else a
    b = b.t() if attributes.get("transB") else b
    y = attributes.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + attributes.get("beta", 1.0) * c


def clip(net, node, attributes, x, low=None, high=None):
    low = None if low is None else low.to(x.dtype)
    high = None if high is None else high.to(x.dtype)
    return x if low is None and high is None else torch.clamp(x, low, high)


def batch_normalization(net, node, attributes, x, weight, bias, mean, variance):
    momentum = 1 - attributes.get("momentum", 0.9)
    return F.batch_norm(x, mean, variance, weight, bias, net.training, momentum, attributes.get("epsilon", 1e-5))


def max_pool(net, node, attributes, x):
    kernel = attributes["kernel_shape"]
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    x = padded(attributes, len(kernel), x, fill=float("-inf"))
    options = {"stride": attributes.get("strides", 1), "dilation": attributes.get("dilations", 1)}
    return run(x, kernel, ceil_mode=bool(attributes.get("ceil_mode")), **options)


def average_pool(net, node, attributes, x):
    kernel = attributes["kernel_shape"]
    if any(attributes.get("pads", [])) and not attributes.get("count_include_pad"):
        raise ValueError(f"node `{node.name}`: an average without its padding is not known to this script")
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    x = padded(attributes, len(kernel), x)
    return run(x, kernel, stride=attributes.get("strides", 1), ceil_mode=bool(attributes.get("ceil_mode")))


def flatten(net, node, attributes, x):
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def reshape(net, node, attributes, x, shape):
    shape = [x.shape[i] if n == 0 and not attributes.get("allowzero") else n for i, n in enumerate(shape.tolist())]
    return x.reshape(shape)


def transpose(net, node, attributes, x):
    return x.permute(attributes.get("perm", list(reversed(range(x.ndim)))))


OPERATORS = {
    "Add": lambda net, node, attributes, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": lambda net, node, attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": conv,
    "DequantizeLinear": dequantize,
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": lambda net, node, attributes, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "Identity": lambda net, node, attributes, x: x,
    "MatMul": lambda net, node, attributes, a, b: a @ b,
    "MaxPool": max_pool,
    "Mul": lambda net, node, attributes, a, b: a * b,
    "QuantizeLinear": quantize,
    "Relu": lambda net, node, attributes, x: F.relu(x),
    "Reshape": reshape,
    "Sigmoid": lambda net, node, attributes, x: torch.sigmoid(x),
    "Softmax": lambda net, node, attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Transpose": transpose,
}
