"""Checks of the two forms of quantized operators: corner cases, single operators, and whole models in both."""

from pathlib import Path

import numpy as np
import onnx

from compiler import Squint
from corners import CORNERS, Corner, feeds
from forms import FORMS, Form
from measure import Feed, coverage, session, sqnr
from predict import check_model
from report import Report

TARGET = "cpu-avx2"
"""Its models compute the same on processors with and without VNNI."""
SAME = 1e-5
"""Float outputs of equal integers may differ by so much of the largest element: they are summed in another order."""


def check_corners(squint: Squint, folder: Path, report: Report) -> None:
    """Each corner case in both formats."""
    for corner in CORNERS:
        with report.step(f"corner/{corner.name}"):
            check_corner(corner, squint, folder / corner.name, report)


def check_corner(corner: Corner, squint: Squint, folder: Path, report: Report) -> None:
    """A corner case is close to float, runs in integers, and is the same in both formats."""
    model = corner.build(np.random.default_rng(0))
    samples = feeds(corner, model)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "float.onnx")
    for index, sample in enumerate(samples):
        np.savez(data / f"{index}.npz", **sample)
    reference = _run(folder / "float.onnx", samples)
    outputs = {}
    for form in ("qdq", "qoperator"):
        name = f"corner/{corner.name}/{form}"
        options = ("--format", form, "--target", TARGET)
        quantized = squint.quantize(folder / "float.onnx", folder / f"{form}.onnx", data, *options)
        outputs[form] = _run(quantized, samples)
        seen, ratio = coverage(quantized), sqnr(reference, outputs[form])
        ok = seen.integer >= corner.integer and ratio >= corner.sqnr_db
        wanted = f"at least {corner.integer} and {corner.sqnr_db} dB"
        report.check(name, ok, f"{seen}, SQNR {ratio:.2f} dB ({wanted})")
        check_model(f"{name}/predicted", quantized, squint, report)
    check_same(f"corner/{corner.name}/same", folder / "qdq.onnx", *outputs.values(), report)


def check_forms(squint: Squint, folder: Path, report: Report) -> None:
    """Each operator on integers beside its raised form, and lowered again."""
    folder.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        with report.step(f"form/{form.name}"):
            check_form(form, squint, folder, report)


def check_form(form: Form, squint: Squint, folder: Path, report: Report) -> None:
    """The raised and the lowered form compute what the operator computes."""
    original = folder / f"{form.name}.onnx"
    onnx.save(form.model, original)
    wanted = _run(original, [form.feed])
    raised = squint.convert(original, folder / f"{form.name}.qdq.onnx", "--format", "qdq")
    check_same(f"form/{form.name}/raised", raised, wanted, _run(raised, [form.feed]), report)
    lowered = squint.convert(raised, folder / f"{form.name}.qoperator.onnx", "--format", "qoperator")
    check_same(f"form/{form.name}/lowered", raised, wanted, _run(lowered, [form.feed]), report)


def check_both(name: str, squint: Squint, quantized: Path, samples: list[Feed], report: Report) -> None:
    """A quantized model computes the same as operators on integers, and when those are raised again."""
    lowered = squint.convert(quantized, quantized.with_suffix(".qoperator.onnx"), "--format", "qoperator")
    raised = squint.convert(lowered, quantized.with_suffix(".qdq.onnx"), "--format", "qdq")
    wanted, before = _run(quantized, samples), coverage(quantized)
    for form, model in (("qoperator", lowered), ("raised", raised)):
        check_same(f"{name}/{form}", quantized, wanted, _run(model, samples), report)
        after = coverage(model)
        report.check(f"{name}/{form}-integer", after.integer >= before.integer, f"{before} -> {after}")


def check_same(name: str, model: Path, wanted: list, found: list, report: Report) -> None:
    """Outputs differ by no more than one level; float ones by no more than rounding. `model` tells levels from floats."""
    steps = _steps(model)
    worst = 0.0
    for row, other in zip(wanted, found, strict=True):
        for x, y, step in zip(row, other, steps, strict=True):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            step = step or max(SAME * float(np.abs(x).max(initial=0)), 1e-30)
            worst = max(worst, float(np.abs(x - y).max(initial=0)) / step)
    report.check(name, worst <= 1.01, f"differ by {worst:.3g} of what one level or rounding makes")


def _steps(path: Path) -> list[float | None]:
    """For each output the distance of two levels: 1 for integers, `None` for floats that are not dequantized."""
    graph = onnx.load(path).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    scales = {n.output[0]: constants.get(n.input[1]) for n in graph.node if n.op_type == "DequantizeLinear"}
    integers = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    step = lambda o: 1.0 if o.type.tensor_type.elem_type in integers else scales.get(o.name)  # noqa: E731
    return [None if step(o) is None else float(np.max(step(o))) for o in graph.output]


def _run(model: Path, samples: list[Feed]) -> list[list[np.ndarray]]:
    runtime = session(model)
    return [runtime.run(None, sample) for sample in samples]
