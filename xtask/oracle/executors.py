"""The executors beside each other: every model of the zoo calibrated by tract and by ONNX Runtime.

usage: executors.py --squint BINARY --repository DIR --zoo DIR --work DIR [--report FILE] [--only NAME]

Both must see the same values: extremes within a tolerance of float arithmetic, and as many elements. A model that
tract cannot run must be refused with the operator's name, and run by ONNX Runtime. Also reads a calibration cache that
ONNX Runtime's own tool wrote. Nothing here measures time.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from measure import coverage
from report import Report
from subjects import QuickStart, ZooModel, zoo_names

SAMPLES = 8
TOLERANCE = 1e-3
"""Largest difference of an extreme, relative to the larger magnitude of the range."""
CODE = 1 / 255
"""The same behind quantizers: where a value lies between two codes, either may be right."""
DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8"}


def main() -> int:
    """Compares on each model; 0 if all went as it should."""
    arguments = _arguments()
    report, rows = Report(), []
    for name in ["quickstart", *zoo_names(arguments.zoo)]:
        if arguments.only in (None, name):
            with report.step(name):
                subject = _subject(name, arguments)
                rows.append(compare(name, subject.model, subject.data, arguments, report))
    if arguments.only in (None, "cache"):
        with report.step("cache"):
            check_cache(arguments, report)
    if arguments.report and arguments.only is None:
        arguments.report.write_text(_page(rows))
    return report.close()


def compare(name: str, model: Path, data: Path, arguments, report: Report) -> tuple[str, ...]:
    """Calibrates with both executors; a row of the table."""
    folder = arguments.work / "executors"
    folder.mkdir(parents=True, exist_ok=True)
    seen, cells = {}, []
    for executor in ("tract", "onnxruntime"):
        output = folder / f"{name}.{executor}.stats"
        output.unlink(missing_ok=True)
        done = _squint(
            arguments, "calibrate", str(model), "--data", str(data), "--samples", str(SAMPLES), "--runtime", executor,
            "-o", str(output),
        )
        if done.returncode == 0:
            seen[executor] = _statistics(output)
            cells.append(f"{sum(key.endswith('.range') for key in seen[executor])} values")
        else:
            error = done.stderr.strip().splitlines()[0].removeprefix("error: ")
            cells.append(error if len(error) < 120 else error[:117] + "...")
    report.check(f"{name}/runs", "onnxruntime" in seen, "; ".join(cells))
    if len(seen) < 2:
        helped = "tract" in seen or "--runtime onnxruntime" in done_help(arguments, model, data, folder)
        report.check(f"{name}/help", helped, "the other executor is named")
        return name, *cells, ""
    worst, where = _difference(seen["tract"], seen["onnxruntime"])
    tolerance = CODE if _quantized(model) else TOLERANCE
    report.check(f"{name}/same", worst <= tolerance, f"largest difference {worst:.1e} {where}")
    return name, *cells, f"{worst:.1e}"


def _quantized(model: Path) -> bool:
    """Whether a model computes between quantizers, in either form."""
    nodes = onnx.load(model, load_external_data=False).graph.node
    return any(node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear") for node in nodes)


def done_help(arguments, model: Path, data: Path, folder: Path) -> str:
    """What squint says to do when tract cannot run a model."""
    output = folder / "refused.stats"
    return _squint(arguments, "calibrate", str(model), "--data", str(data), "--samples", "1", "-o", str(output)).stderr


def check_cache(arguments, report: Report) -> None:
    """Ranges from a cache that ONNX Runtime wrote lead to a model with integers."""
    subject = QuickStart(arguments.repository / "examples" / "quickstart")
    folder = arguments.work / "executors"
    folder.mkdir(parents=True, exist_ok=True)
    optimized, cache, quantized = folder / "digits.float.onnx", folder / "digits.json", folder / "digits.cache.onnx"
    done = _squint(arguments, "optimize", str(subject.model), "-o", str(optimized))
    report.check("cache/optimize", done.returncode == 0, done.stderr)
    save_tensors_data(_ranges(optimized, subject.data), cache)
    done = _squint(arguments, "quantize", str(subject.model), "-o", str(quantized), "--cache", str(cache))
    report.check("cache/read", done.returncode == 0, done.stderr)
    seen = coverage(quantized)
    report.check("cache/integer", seen.integer >= 5, str(seen))


def _ranges(model: Path, data: Path) -> TensorsData:
    """Extremes of every float tensor, as the tool's own calibrator finds them."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self):
            name = onnxruntime.InferenceSession(model).get_inputs()[0].name
            with np.load(data) as arrays:
                self._feeds = iter([{name: image[None]} for image in arrays[name][:SAMPLES]])

        def get_next(self):
            return next(self._feeds, None)

    calibrator = create_calibrator(
        model, augmented_model_path=str(model) + ".augmented", calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def _difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference of extremes, relative to the range, and where; infinite where some elements are missing."""
    worst, where = 0.0, ""
    for key in a:
        if not key.endswith(".range"):
            continue
        name = key.removesuffix(".range")
        count = [x[f"{name}.counts"].sum() + x[f"{name}.tallies"][2:].sum() for x in (a, b)]
        # A value that only its shape is read of is not computed by an executor that knows the shape.
        if min(count) == 0:
            continue
        scale = max(float(np.abs(a[key]).max()), 1e-6)
        error = float(np.abs(a[key] - b[key]).max()) / scale if count[0] == count[1] else float("inf")
        if error > worst:
            worst, where = error, name
    return worst, where


def _statistics(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    return {
        key: np.frombuffer(body[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]])
        for key, entry in header.items()
        if key != "__metadata__"
    }


def _squint(arguments, *words: str) -> subprocess.CompletedProcess:
    """Runs squint with the environment's own ONNX Runtime."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    command = [arguments.squint, *words]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, env=environment
    )


def _page(rows: list[tuple[str, ...]]) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Executors on the zoo",
        "",
        "<!-- Written by `cargo xtask executors`. -->",
        "",
        f"Each model calibrated on {SAMPLES} samples by both executors, ONNX Runtime {onnxruntime.__version__}: values",
        "observed, or the error. The last column is the largest difference of an observed extreme, relative to the range",
        "it bounds; behind quantizers one code of 255 is no error. Models without values to observe have no operator that the",
        "processor's target would quantize: they are quantized already, or all in float.",
        "",
        "| model | tract | onnxruntime | difference |",
        "|---|---|---|---|",
        *(f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _subject(name: str, arguments):
    if name == "quickstart":
        return QuickStart(arguments.repository / "examples" / "quickstart")
    return ZooModel(arguments.zoo, name, arguments.work / "feeds")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("squint", "repository", "zoo", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
