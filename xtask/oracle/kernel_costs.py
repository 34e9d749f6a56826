"""Times the kernels of ONNX Runtime in integers and in float, and fits the cost table of target `cpu-vnni`.

usage: kernel_costs.py [--runs N] [--samples FILE]

Prints the Rust constants of `targets/src/cpu_vnni/costs.rs`, each with the error of its fit (median and 90th
percentile of the relative error over the grid). One thread; times come from the runtime's own profile, node by node.
Other work on the machine only ever makes a kernel slower, so each sample is the mean of the faster half of the runs;
float and integer form alternate. `--samples` also writes every sample, as JSON lines.
"""

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from scipy.optimize import nnls

from kernel_grid import subjects
from kernel_models import Chain

TESTED = re.compile(r"t\d+(_|/|$)")
BORDERS = {
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Transpose": "TO_NHWC",
    "ReorderInput": "BLOCK", "ReorderOutput": "UNBLOCK",
}
TRUNCATED_NS = 500
"""The profile counts whole microseconds, rounded down."""

RESOLUTION_NS = 500
"""Times are not known better than this: errors are relative to the time and this much more."""

SMALL_MODEL_NS = 60_000
"""Below this wall time a model tells something of the overhead of profiling."""

Sample = tuple[list[float], float]
"""Units of work with a leading one, and nanoseconds."""


@dataclass
class Profile:
    """One model's times.

    nodes  nanoseconds of each node of the optimized graph by name and operator, and how many values it is connected to
    wall   nanoseconds of a whole run without profiling
    """

    nodes: dict[tuple[str, str], tuple[float, int]]
    wall: float


@dataclass(frozen=True)
class Overhead:
    """What the profile adds: describing the shapes of a node's values is counted as time of the node.

    node, value  nanoseconds for each node, and each value it is connected to
    run          nanoseconds of a run outside of all nodes
    """

    node: float
    value: float
    run: float

    @classmethod
    def of(cls, profiles: list[Profile]) -> "Overhead":
        """Compares profiles with wall times, on models so small that little else is in them."""
        rows, gaps = [], []
        for profile in profiles:
            values = [values for _, values in profile.nodes.values()]
            if profile.wall < SMALL_MODEL_NS:
                rows.append([len(values), sum(values), -1])
                gaps.append(sum(spent for spent, _ in profile.nodes.values()) - profile.wall)
        return cls(*nnls(np.array(rows, np.float64), np.array(gaps))[0])

    def without(self, spent: float, values: int) -> float:
        """Time of a node connected to so many values when nobody profiles."""
        return max(spent - self.node - self.value * values, 100)


def main() -> None:
    """Measures, fits and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    profiles: list[tuple[str, list[float], Profile]] = []
    for subject in subjects():
        for work, quantized in ((subject.integer, True), (subject.floating, False)):
            if work is not None:
                chain = Chain(list(subject.shape), quantized)
                subject.build(chain)
                profiles.append((*work, profile(chain.model(), subject.shape, arguments.runs)))
    overhead = Overhead.of([profile for _, _, profile in profiles])
    print(f"profile adds {overhead.node:.0f} ns a node and {overhead.value:.0f} ns a value", file=sys.stderr)
    samples: dict[str, list[Sample]] = defaultdict(list)
    for row, units, measured in profiles:
        for part, spent in times(row, measured, overhead):
            samples[part].append(([1, *units], spent))
    if arguments.samples:
        lines = [json.dumps([row, *sample]) for row, all_of_it in samples.items() for sample in all_of_it]
        arguments.samples.write_text("\n".join(lines) + "\n")
    print(f"// Measured on {processor()} with onnxruntime {onnxruntime.__version__}, one thread.")
    for row in sorted(samples):
        print(rust(row, samples[row]))


def times(row: str, measured: Profile, overhead: Overhead) -> Iterator[tuple[str, float]]:
    """Rows and nanoseconds of a profile: the operator under test, or on a border each of the conversions."""
    if row == "BORDER":
        for op_type, part in BORDERS.items():
            found = [overhead.without(*node) for (_, kind), node in measured.nodes.items() if kind == op_type]
            if found:
                yield part, float(np.mean(found))
        return
    found = [overhead.without(*node) for (name, _), node in measured.nodes.items() if TESTED.match(name)]
    if found:
        yield row, float(np.median(found))


def profile(model: onnx.ModelProto, shape: list[int], runs: int) -> Profile:
    """Runs a model with and without profiling, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        plain, profiled = (_session(model, prefix) for prefix in (None, str(Path(folder, "profile"))))
        feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        wall = []
        for _ in range(runs):
            profiled.run(None, feed)
            for _ in range(2):
                start = time.perf_counter_ns()
                plain.run(None, feed)
                wall.append(time.perf_counter_ns() - start)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    values: dict[tuple[str, str], int] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            described = event["args"]
            node = event["name"].removesuffix("_kernel_time"), described["op_name"]
            durations[node].append(event["dur"])
            values[node] = len(described["input_type_shape"]) + len(described["output_type_shape"])
    nodes = {node: (faster_half(spent) * 1000 + TRUNCATED_NS, values[node]) for node, spent in durations.items()}
    return Profile(nodes, faster_half(wall))


def _session(model: onnx.ModelProto, prefix: str | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = prefix
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def faster_half(times: list[int]) -> float:
    """Mean of the faster half."""
    return float(np.mean(sorted(times)[: max(1, len(times) // 2)]))


def fit(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of least relative error, none negative, and the relative errors of the samples."""
    units = np.array([units for units, _ in samples], np.float64)
    times = np.array([time for _, time in samples])
    scale = times + RESOLUTION_NS
    # Reweighting turns least squares into least absolute deviations: odd samples do not pull the line.
    weight = np.ones(len(times))
    for _ in range(30):
        coefficients, _ = nnls(units * (weight / scale)[:, None], times * weight / scale)
        errors = (units @ coefficients - times) / scale
        weight = 1 / np.sqrt(np.maximum(np.abs(errors), 0.02))
    return coefficients, np.abs(errors)


def rust(row: str, samples: list[Sample]) -> str:
    """The row as a Rust constant."""
    (call, mac, fetch, element), errors = fit(samples)
    median, high = np.percentile(errors, [50, 90])
    fields = f"call: {call:.0f}.0, mac: {mac:.5f}, fetch: {fetch:.4f}, element: {element:.4f}"
    return (f"// {len(samples)} samples, error {median:.0%}, at most {high:.0%} for nine in ten\n"
            f"pub(super) const {row}: Kernel = Kernel {{ {fields} }};")


def processor() -> str:
    """Model of the processor, as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{named.get('model name', '?')} (family {named.get('cpu family', '?')}, model {named.get('model', '?')})"


if __name__ == "__main__":
    main()
