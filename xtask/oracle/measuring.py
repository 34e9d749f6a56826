"""`squint compare` and `squint evaluate` with ONNX Runtime as their executor, beside the same with tract and beside the
runtime itself."""

import json
import math
import sys
from pathlib import Path

import numpy as np

from compiler import Squint, SquintError
from measure import float_arrays, plain_session, sqnr
from report import Report

NAME = "measuring"
"""Name of this part."""

LIBRARY = "onnxruntime/capi"
CLOSE = 0.2
"""Decibels: float arithmetic in another order moves a value across the edge of a level now and then."""
SAMPLES = 24


def check(squint: Squint, repository: Path, folder: Path, report: Report) -> None:
    """The quick-start model, quantized with both formats."""
    folder.mkdir(parents=True, exist_ok=True)
    example = repository / "examples" / "quickstart"
    library = next(Path(p) / LIBRARY for p in sys.path if (Path(p) / LIBRARY).is_dir())
    runtimes = {"tract": ["--runtime", "tract"], "onnxruntime": ["--runtime-library", str(library)]}
    for form in ("qdq", "qoperator"):
        with report.step(f"{NAME}/{form}"):
            model = squint.quantize(example / "digits.onnx", folder / f"{form}.onnx", example / "calibration.npz", "--format", form)
            compare(form, example, model, runtimes, squint, report)
            evaluate(form, example, model, runtimes, squint, report)
    with report.step(f"{NAME}/refused"):
        refused(example, folder / "qdq.onnx", folder, squint, report)


def compare(form: str, example: Path, model: Path, runtimes: dict, squint: Squint, report: Report) -> None:
    """All figures agree between the executors, and the signal to noise with what the runtime computes."""
    data, found = example / "test.npz", {}
    for name, flags in runtimes.items():
        said = squint.run(
            "compare", str(example / "digits.onnx"), str(model), "--data", str(data), "--samples", str(SAMPLES),
            "--format", "json", *flags,
        )
        found[name] = json.loads(said)
    a, b = (_outputs(found[name]) for name in runtimes)
    apart = max(abs(a[output] - b[output]) for output in a)
    report.check(f"{NAME}/{form}/compare", a.keys() == b.keys() and apart <= CLOSE, f"{a} dB, {apart:.3f} apart")
    values = [{v["name"]: v for v in f["values"]} for f in found.values()]
    report.check(f"{NAME}/{form}/values", values[0].keys() == values[1].keys() != set(), f"{len(values[0])} values")
    with np.load(data) as arrays:
        images = arrays["image"]
    rows = [images[i * len(images) // SAMPLES][None] for i in range(SAMPLES)]
    float_model, quantized = plain_session(example / "digits.onnx"), plain_session(model)
    wanted = sqnr(*([float_arrays(s.run(None, {"image": x})) for x in rows] for s in (float_model, quantized)))
    ours = next(iter(b.values()))
    report.check(f"{NAME}/{form}/runtime", abs(ours - wanted) <= 0.5, f"{ours:.2f} dB, the runtime itself {wanted:.2f} dB")


def _outputs(found: dict) -> dict[str, float]:
    return {o["name"]: o["error"]["sqnr_db"] for o in found["outputs"]}


def evaluate(form: str, example: Path, model: Path, runtimes: dict, squint: Squint, report: Report) -> None:
    """The same score with both executors, and with the runtime itself."""
    test, scores = example / "test.npz", {}
    for name, flags in runtimes.items():
        said = squint.run(
            "evaluate", str(model), "--data", str(test), "--labels", str(test), "--format", "json", *flags
        )
        scores[name] = json.loads(said)["top1"]
    runtime = plain_session(model)
    with np.load(test) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    right = [int(runtime.run(None, {"image": x[None]})[0].argmax()) == y for x, y in zip(images, labels, strict=True)]
    scores["runtime itself"] = float(np.mean(right))
    close = max(scores.values()) - min(scores.values()) <= 1.5 / len(labels)
    report.check(f"{NAME}/{form}/evaluate", close and math.isfinite(scores["tract"]), f"{scores}")


def refused(example: Path, model: Path, folder: Path, squint: Squint, report: Report) -> None:
    """A library that is not there, and one that is none, are errors that name it."""
    other = folder / "libnothing.so"
    other.write_text("no library")
    for library in (folder / "missing.so", other):
        try:
            squint.run(
                "compare", str(example / "digits.onnx"), str(model), "--data", str(example / "calibration.npz"),
                "--runtime-library", str(library),
            )
        except SquintError as error:
            report.check(f"{NAME}/refused/{library.name}", library.name in str(error), str(error)[:200])
        else:
            report.check(f"{NAME}/refused/{library.name}", False, "it ran")
