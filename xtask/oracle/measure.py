"""Measurements in the real runtime: loading, what runs in integers, how far outputs are from float.

Integer coverage is counted in the graph that ONNX Runtime itself writes after all its optimizations
(`SessionOptions.optimized_model_filepath`): the only witness of which kernels will run.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

Feed = dict[str, np.ndarray]
"""One run's inputs by name."""

INTEGER_KERNELS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "MatMulNBits", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})
FLOAT_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
FLOAT_KERNELS = FLOAT_CONVOLUTIONS | frozenset({
    "Attention", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GRU", "Gemm", "LSTM", "MatMul",
    "MultiHeadAttention", "RNN", "TransposeMatMul",
})


@dataclass(frozen=True)
class Coverage:
    """How many contractions the runtime executes in integer and in float kernels."""

    integer: int
    floating: int
    float_convs: int

    def __str__(self) -> str:
        return f"{self.integer}/{self.integer + self.floating} in integers, {self.float_convs} float convolutions"


def session(model: Path, optimized: Path | None = None, layout: bool = True) -> onnxruntime.InferenceSession:
    """Loads `model` on the CPU with all optimizations; writes the optimized graph to `optimized` if given.

    Without `layout`, the last level of optimizations, which chooses layouts, is left out.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: saving an optimized graph warns each time
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def plain_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Loads `model` without any optimization: it runs operator by operator, as the file says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def coverage(model: Path) -> Coverage:
    """Counts the contractions of the graph that the runtime makes of `model`, subgraphs included."""
    kernels = optimized_operators(model)
    families = (INTEGER_KERNELS, FLOAT_KERNELS, FLOAT_CONVOLUTIONS)
    return Coverage(*(sum(kernels[name] for name in family) for family in families))


def optimized_operators(model: Path) -> Counter[str]:
    """Histogram of operator types in the graph that the runtime makes of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        session(model, optimized)
        return operators(onnx.load(optimized, load_external_data=False).graph)


def operators(graph: onnx.GraphProto) -> Counter[str]:
    """Histogram of operator types over a graph and the graphs in its attributes."""
    counts: Counter[str] = Counter()
    for node in graph.node:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                counts += operators(inner)
    return counts


def float_arrays(outputs: Iterable[object]) -> list[np.ndarray]:
    """The floating-point tensors among a run's outputs."""
    return [x for x in outputs if isinstance(x, np.ndarray) and x.dtype.kind == "f"]


def all_finite(rows: Iterable[list[np.ndarray]]) -> bool:
    """Whether no output holds a NaN or an infinity."""
    return all(np.isfinite(x).all() for row in rows for x in row)


def sqnr(reference: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> float:
    """Signal-to-quantization-noise ratio in dB, 10 log10(sum r^2 / sum (r - o)^2), over all outputs of all runs.

    Outputs whose shapes differ (a count of detections, say) cannot be compared and are left out.
    Equal outputs give infinity; `ValueError` if nothing could be compared.
    """
    signal = noise = 0.0
    compared = 0
    for row, other_row in zip(reference, other, strict=True):
        for x, y in zip(row, other_row, strict=True):
            if x.shape == y.shape:
                compared += x.size
                signal += float(np.square(x, dtype=np.float64).sum())
                noise += float(np.square(np.subtract(x, y, dtype=np.float64)).sum())
    if compared == 0:
        raise ValueError("no output of the two models has the same shape")
    return 10 * math.log10(signal / noise) if signal and noise else (math.inf if noise == 0 else -math.inf)


def agreement(model: Path, outputs: list[Path], feeds: list[Feed]) -> float:
    """SQNR in dB of outputs in `.npz` files beside the runtime's own, with its graph optimizations disabled."""
    runtime = plain_session(model)
    names = [output.name for output in runtime.get_outputs()]
    theirs, ours = [], []
    for file, feed in zip(outputs, feeds, strict=True):
        theirs.append(float_arrays(runtime.run(None, feed)))
        with np.load(file) as arrays:
            ours.append(float_arrays([arrays[name] for name in names]))
    return sqnr(theirs, ours)


def npz_feeds(folder: Path, limit: int) -> Iterator[Feed]:
    """The first `limit` feeds of a folder that holds one `.npz` a sample."""
    for file in sorted(folder.glob("*.npz"))[:limit]:
        with np.load(file) as arrays:
            yield dict(arrays)
