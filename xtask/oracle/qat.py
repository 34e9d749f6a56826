"""Training with quantizers, end to end: export, train, convert, on the quick-start model with 4-bit weights.

`qat` is the name of this part. Training needs torch: the interpreter is given with `--torch`; without it the model is
exported and converted untrained, and the rest is left out.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.checker

from compiler import Squint
from measure import plain_session
from report import Report

NAME = "qat"
"""Name of the part."""

TARGETS = ("cpu-vnni", "cpu-avx2", "tensorrt")
TRAINED_TARGET = "cpu-avx2"
"""The one that is trained: it quantizes the first convolution, too, and its files compute the same on all processors."""
GAIN = 0.05
"""Least accuracy that training brings over rounding the weights to 4 bits, as a share of the pictures."""
CONVERTED_DROP = 0.002
"""Most accuracy that integers may lose against the trained model with its quantizers."""
TRAINING_SECONDS = 1500
PICTURES = 16


def check(squint: Squint, repository: Path, work: Path, torch: Path | None, report: Report) -> None:
    """All checks of this part."""
    work.mkdir(parents=True, exist_ok=True)
    quickstart = repository / "examples" / "quickstart"
    model, data = quickstart / "digits.onnx", quickstart / "calibration.npz"
    for target in TARGETS:
        with report.step(f"{NAME}/export-{target}"):
            check_export(squint, model, data, work, target, report)
    with report.step(f"{NAME}/untrained"):
        exported, untrained = work / f"{TRAINED_TARGET}.qat.onnx", work / "untrained.onnx"
        convert(squint, exported, untrained)
        rounded = accuracy(untrained, quickstart)
        check_converted("untrained", exported, untrained, quickstart, report)
        if torch is None:
            print(f"skipped {NAME}/trained: no torch; `cargo xtask oracle --with-torch` installs it", flush=True)
            return
        trained, converted = work / "trained.qat.onnx", work / "trained.onnx"
        script = repository / "examples" / "qat" / "train_digits.py"
        with report.step(f"{NAME}/trained"):
            command = [torch, script, exported, "-o", trained]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=TRAINING_SECONDS)
            onnx.checker.check_model(str(trained), full_check=True)
            convert(squint, trained, converted)
            check_converted("trained", trained, converted, quickstart, report)
            now, float_score = accuracy(converted, quickstart), accuracy(model, quickstart)
            detail = f"top1 {float_score:.4f} in float, with 4-bit weights {rounded:.4f} untrained, {now:.4f} trained"
            report.check(f"{NAME}/gain", now - rounded >= GAIN, f"{detail} (gain at least {GAIN})")


def check_export(squint: Squint, model: Path, data: Path, work: Path, target: str, report: Report) -> None:
    """The exported model is valid, lists its quantizers, and every parameter listed is an initializer."""
    path = work / f"{target}.qat.onnx"
    path.unlink(missing_ok=True)
    options = ["--data", str(data), "--target", target, "--weight-bits", "4"]
    squint.run("qat", "export", str(model), "-o", str(path), *options)
    onnx.checker.check_model(str(path), full_check=True)
    exported = onnx.load(path)
    names = {t.name for t in exported.graph.initializer}
    listed = quantizers(exported)
    weights = [q for q in listed if q["kind"] == "weight"]
    complete = all(q["scale"] in names and q["zero_point"] in names for q in listed)
    ok = complete and weights and all(q["levels"] == [-7, 7] and q["value"] in names for q in weights)
    report.check(f"{NAME}/export-{target}", bool(ok), f"{len(weights)} weights and {len(listed) - len(weights)} activations")


def quantizers(model: onnx.ModelProto) -> list[dict]:
    """The list in the metadata."""
    return json.loads(next(p.value for p in model.metadata_props if p.key == "squint.quantizers"))


def convert(squint: Squint, trained: Path, output: Path) -> None:
    """`squint qat convert`."""
    output.unlink(missing_ok=True)
    squint.run("qat", "convert", str(trained), "-o", str(output), "--target", TRAINED_TARGET)


def check_converted(name: str, trained: Path, converted: Path, quickstart: Path, report: Report) -> None:
    """Integers compute what the quantizers said: within a level for each layer, and in the score."""
    before, after = accuracy(trained, quickstart), accuracy(converted, quickstart)
    detail = f"top1 {before:.4f} with quantizers, {after:.4f} in integers (drop at most {CONVERTED_DROP})"
    report.check(f"{NAME}/{name}/score", before - after <= CONVERTED_DROP + 1e-9, detail)
    with report.step(f"{NAME}/{name}/layers"):
        pictures = np.load(quickstart / "test.npz")["image"][:PICTURES]
        worst, layers = levels_apart(trained, converted, pictures)
        report.check(f"{NAME}/{name}/layers", layers > 0 and worst <= 1, f"{worst} levels apart at most, over {layers} layers")


def levels_apart(trained: Path, converted: Path, pictures: np.ndarray) -> tuple[int, int]:
    """How many levels a layer in integers is off at most, if it reads what the same layer of the trained model read;
    and how many layers were compared.

    Levels are what a QuantizeLinear of an activation makes; it has the same name in both models.
    """
    model = onnx.load(trained)
    both = quantized_activations(onnx.load(converted))
    levels = [name for name in quantized_activations(model) if name in both]
    for name in levels:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    seen = dict(zip(levels, run(model.SerializeToString(), pictures, levels), strict=True))
    worst = layers = 0
    inferred = onnx.shape_inference.infer_shapes(onnx.load(converted))
    for name in levels:
        layer, inputs = cut(inferred, name, set(levels) - {name})
        if not set(inputs) & set(levels):
            continue
        feeds = {i: seen[i] if i in seen else pictures for i in inputs}
        worst = max(worst, apart(plain_session(layer).run([name], feeds)[0], seen[name]))
        layers += 1
    return worst, layers


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int32) - b.astype(np.int32)).max())


def quantized_activations(model: onnx.ModelProto) -> list[str]:
    """Results of the QuantizeLinear nodes whose data are not constant, in order."""
    constants = {t.name for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    return [n.output[0] for n in nodes if n.input[0] not in constants]


def cut(model: onnx.ModelProto, output: str, known: set[str]) -> tuple[bytes, list[str]]:
    """The part of a model that makes a value out of known values and graph inputs, and the names of its inputs."""
    makers = {o: i for i, n in enumerate(model.graph.node) for o in n.output}
    constants = {t.name for t in model.graph.initializer}
    types = {v.name: v for v in [*model.graph.value_info, *model.graph.input, *model.graph.output]}
    inputs, nodes, todo, seen = [], set(), [output], set()
    while todo:
        name = todo.pop()
        if not name or name in seen or name in constants:
            continue
        seen.add(name)
        if name in known or name not in makers:
            inputs.append(name)
            continue
        nodes.add(makers[name])
        todo.extend(model.graph.node[makers[name]].input)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    kept = [model.graph.node[i] for i in sorted(nodes)]
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(kept)
    part.graph.input.extend(types[name] for name in inputs)
    part.graph.output.append(types[output])
    return part.SerializeToString(), inputs


def run(model: bytes, pictures: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    return plain_session(model).run(outputs, {"image": pictures})


def accuracy(model: Path, quickstart: Path) -> float:
    """Share of the test pictures that are told right."""
    test = np.load(quickstart / "test.npz")
    logits = run(model.read_bytes(), test["image"])[0]
    return float((logits.argmax(1) == test["labels"]).mean())


def own_torch() -> Path | None:
    """This interpreter, if it has torch."""
    return Path(sys.executable) if importlib.util.find_spec("torch") and importlib.util.find_spec("sklearn") else None
