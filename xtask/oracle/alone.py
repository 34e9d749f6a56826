"""Each operator on integers by itself: squint's interpreter beside the runtime's kernel, on the same integers.

A quantized model of the zoo is written with operators on integers, and run once by the runtime with every integer
inside exposed. Its operators are then put side by side into one model, none connected to another: what each reads is an
input, what it makes an output. squint runs that model, and so does the runtime; a difference of one operator cannot
grow in those behind it. At most one level may differ: where a sum lies on a rounding tie, the order of float operations
decides (`docs/measuring.md`).
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compiler import Squint
from measure import Feed, session
from report import Report

NAME = "alone"
"""Name of this part."""
KERNELS = frozenset({
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
})
"""Operators that read and make integers."""
LEVELS = 1
"""The most by which a result may differ."""


def check_alone(name: str, squint: Squint, quantized: Path, sample: Feed, folder: Path, report: Report) -> None:
    """Every operator on integers of a quantized model gives what the runtime's kernel gives."""
    folder.mkdir(parents=True, exist_ok=True)
    lowered = squint.convert(quantized, folder / "integers.onnx", "--format", "qoperator")
    graph = onnx.load(lowered).graph
    inside = _integers_inside(lowered, sample)
    model, feed = _apart(onnx.load(lowered), inside)
    if not model.graph.node:
        report.check(name, True, "no operator on integers")
        return
    apart, data = folder / "apart.onnx", folder / "data"
    onnx.save(model, apart)
    data.mkdir(exist_ok=True)
    np.savez(data / "0.npz", **feed)
    [written] = squint.interpret(apart, data, folder / "interpreted")
    found = np.load(written)
    # One graph of single operators: nothing is left to optimize but layouts, which are part of how kernels are called.
    wanted = dict(zip([o.name for o in model.graph.output], session(apart).run(None, feed), strict=True))
    types = {n.output[0]: n.op_type for n in graph.node}
    worst: Counter[str] = Counter()
    differ = elements = 0
    for output, expected in wanted.items():
        apart_by = np.abs(expected.astype(np.int64) - found[output].astype(np.int64))
        differ += int((apart_by > 0).sum())
        elements += apart_by.size
        worst[types[output]] = max(worst[types[output]], int(apart_by.max(initial=0)))
    detail = f"{len(wanted)} operators, {differ} of {elements} elements differ; at most " + ", ".join(
        f"{kind} {levels}" for kind, levels in sorted(worst.items())
    )
    report.check(name, max(worst.values()) <= LEVELS, detail)


def _integers_inside(model: Path, sample: Feed) -> dict[str, np.ndarray]:
    """All integers that operators of [`KERNELS`] read or make in a run."""
    exposed = onnx.load(model)
    graph = exposed.graph
    constants = {t.name for t in graph.initializer} | {o.name for o in graph.output}
    names = {v for n in graph.node if n.op_type in KERNELS for v in [*n.input, *n.output] if v}
    wanted = sorted(names - constants - {i.name for i in graph.input})
    graph.output.extend(helper.make_empty_tensor_value_info(v) for v in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runtime = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in graph.output]
    return dict(zip(names, runtime.run(None, sample), strict=True)) | sample


def _apart(model: onnx.ModelProto, inside: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, Feed]:
    """The operators of [`KERNELS`], each with inputs of its own, and what they read."""
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    nodes, feed, outputs = [], {}, []
    for index, node in enumerate(n for n in graph.node if n.op_type in KERNELS):
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        for slot, value in enumerate(node.input):
            if value and value not in constants:
                alone.input[slot] = f"{value}:{index}:{slot}"
                feed[alone.input[slot]] = inside[value]
        nodes.append(alone)
        outputs.append(node.output[0])
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in {**inside, **feed}.items()}
    inputs = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feed.items()]
    results = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.UINT8), None) for name in outputs]
    used = {v for n in nodes for v in n.input}
    graph.ClearField("node")
    graph.node.extend(nodes)
    for field, items in (("input", inputs), ("output", results)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    kept = [t for t in graph.initializer if t.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("value_info")
    return model, feed
