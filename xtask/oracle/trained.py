"""Checks of models that somebody else quantized: what `squint qat convert` and `squint retarget` make of them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from compiler import Squint, SquintError
from measure import coverage
from predict import check_model
from report import Report
from trained_models import QONNX, TRAINED, Net, Trained, _quant_node

NAME = "trained"
CPU, TENSORRT = "cpu-vnni", "tensorrt"
RARE = 0.02
"""Share of elements that may be a level apart: sums that lie between two levels are rounded either way, and a bias of
32 bits stands on a grid of its own."""


def check(squint: Squint, folder: Path, report: Report) -> None:
    """Every export, and what is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    for trained in TRAINED:
        with report.step(f"{NAME}/{trained.name}"):
            check_export(trained, squint, folder, report)
    with report.step(f"{NAME}/bipolar"):
        check_refused(squint, folder, report)
    with report.step(f"{NAME}/there-and-back"):
        check_there_and_back(squint, folder, report)


def check_export(trained: Trained, squint: Squint, folder: Path, report: Report) -> None:
    """The integer model runs in integers, and each of its layers is within a level of the trained one."""
    model = folder / f"{trained.name}.onnx"
    onnx.save(trained.build(), model)
    reference = model
    if trained.reference is not None:
        reference = folder / f"{trained.name}.reference.onnx"
        onnx.save(trained.reference(), reference)
    wanted = _run(_unoptimized(reference), trained)
    converted = folder / f"{trained.name}.{CPU}.onnx"
    said = json.loads(squint.run("qat", "convert", str(model), "-o", str(converted), "--target", CPU, "--summary", "json"))
    seen = coverage(converted)
    report.check(f"{NAME}/{trained.name}/integer", seen.integer >= trained.integer, f"{seen}, {said['kept']}")
    kept = said["kept"]
    all_kept = kept["weights"] == kept["of_weights"] and kept["values"] == kept["of_values"]
    report.check(f"{NAME}/{trained.name}/kept", all_kept, f"{kept} {said['differences']}")
    check_model(f"{NAME}/{trained.name}/predict", model, squint, report)
    check_model(f"{NAME}/{trained.name}/predict-converted", converted, squint, report)
    # The kernels for processors with VNNI are not exact elsewhere: integers are compared in float arithmetic.
    found = _run(_unoptimized(converted), trained)
    _compare(f"{NAME}/{trained.name}", trained, wanted, found, report)
    squint.run("check", str(converted), "--target", CPU)
    report.check(f"{NAME}/{trained.name}/check", True, "squint check finds nothing")
    tensorrt = folder / f"{trained.name}.{TENSORRT}.onnx"
    squint.run("qat", "convert", str(model), "-o", str(tensorrt), "--target", TENSORRT)
    squint.run("check", str(tensorrt), "--target", TENSORRT)
    _unoptimized(tensorrt)
    report.check(f"{NAME}/{trained.name}/tensorrt", True, "the linter finds nothing")


def _compare(name: str, trained: Trained, wanted: list, found: list, report: Report) -> None:
    """Outputs one by one, in levels: the smallest distance between two numbers of the trained output."""
    for layer, (a, b) in enumerate(zip(zip(*wanted), zip(*found))):
        a, b = np.concatenate([x.ravel() for x in a]), np.concatenate([x.ravel() for x in b])
        numbers = np.unique(a)
        level = np.diff(numbers).min()
        apart = np.abs(a - b) / level
        ok = apart.max() <= 1.001 and (apart > 0.5).mean() <= RARE
        detail = f"{apart.max():.3f} levels apart at most, {(apart > 0.5).mean():.1e} of elements not equal"
        report.check(f"{name}/layer-{layer}", ok, detail)


def check_refused(squint: Squint, folder: Path, report: Report) -> None:
    """What has no integer form is refused by name."""
    net = Net(domains=[QONNX])
    x = net.op("BipolarQuant", "x", net.const(np.float32(0.1)), domain=QONNX)
    net.outputs[net.op("Relu", x, result="y")] = 2
    model = folder / "bipolar.onnx"
    onnx.save(net.model([1, 8]), model)
    try:
        squint.run("qat", "convert", str(model), "-o", str(folder / "bipolar.out.onnx"))
    except SquintError as error:
        report.check(f"{NAME}/bipolar", "one bit" in str(error), str(error))
    else:
        report.check(f"{NAME}/bipolar", False, "converted")


def check_there_and_back(squint: Squint, folder: Path, report: Report) -> None:
    """From the CPU's placement to TensorRT's and back: weights have the same integers."""
    first = folder / f"brevitas-qcdq.{CPU}.onnx"
    there, back = folder / "there.onnx", folder / "back.onnx"
    squint.run("retarget", str(first), "-o", str(there), "--target", TENSORRT)
    squint.run("retarget", str(there), "-o", str(back), "--target", CPU)
    before, between, after = (_weights(model) for model in (first, there, back))
    # TensorRT has no grid for the last result, so that on the way back the last convolution stays in float.
    same = len(before) == len(between) == 2 and len(after) == 1 and all(map(np.array_equal, before, between))
    report.check(f"{NAME}/there-and-back", same and np.array_equal(before[0], after[0]), f"{len(before)} weights")


def _weights(model: Path) -> list[np.ndarray]:
    graph = onnx.load(model).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made = {n.output[0]: n for n in graph.node}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    return [constants[made[n.input[1]].input[0]] for n in convolutions if n.input[1] in made]


def _unoptimized(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _run(model: onnxruntime.InferenceSession, trained: Trained) -> list[list[np.ndarray]]:
    return [model.run(None, feed) for feed in trained.feeds()]
