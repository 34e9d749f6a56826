"""What `--target tensorrt` makes of models, as far as it can be told without TensorRT.

The file passes squint's own linter, and ONNX Runtime, without optimizations, computes with it what TensorRT would up to
the order of sums: as close to float as the file that NVIDIA's Model Optimizer 0.47 makes from the same samples.
"""

import json
import subprocess
import sys
from pathlib import Path

import onnx.checker

from compiler import Squint
from measure import sqnr
from report import Report
from subjects import ZooModel

NAME = "tensorrt"
"""Name of the part."""

MODEL_OPTIMIZER_DB = {
    "squeezenet1.1": 28.45, "mobilenetv2": 16.96, "resnet20-cifar10": 20.14, "mlptiny-ic": 18.52, "fastestdet": 9.39,
    "ultraface-rfb320": 34.34, "magika-v3.3": 37.88, "kws-dscnn": 24.67, "yolox-nano": 5.93, "ppocr-v2-rec-en": 13.98,
    "ppocr-mobile-v2-det": 13.8, "dtln-1": 57.68, "dtln-2": 1.63, "basic-pitch": 40.9, "stories260k": 26.54,
    "stories260k-kv": 26.68,
}
"""SQNR of Model Optimizer's file over the scored samples, in dB. (It fails on MNIST and Silero VAD; MiniLM, with 4.98 dB, has
its weights elsewhere.)"""

SAMPLES = 400
"""Most samples that are scored."""


def check(squint: Squint, repository: Path, zoo: Path | None, work: Path, report: Report) -> None:
    """All checks of this part; models of the zoo only if there is one."""
    work.mkdir(parents=True, exist_ok=True)
    quickstart = repository / "examples" / "quickstart"
    with report.step(f"{NAME}/quickstart"):
        made = squint.quantize(
            quickstart / "digits.onnx", work / "digits.onnx", quickstart / "calibration.npz", "--target", NAME
        )
        lint(squint, "quickstart", made, report)
        with report.step(f"{NAME}/layers"):
            check_layers(squint, made, repository / "examples" / "tensorrt" / "compare_layers.py", work, report)
    if zoo is None or not zoo.is_dir():
        print(f"skipped {len(MODEL_OPTIMIZER_DB)} models of the zoo for {NAME}", flush=True)
        return
    for name, floor in MODEL_OPTIMIZER_DB.items():
        with report.step(f"{NAME}/{name}"):
            subject = ZooModel(zoo, name, work.parent / "feeds")
            made = squint.quantize(subject.model, work / f"{name}.onnx", subject.data, "--target", NAME)
            lint(squint, name, made, report)
            before, after = (subject.plain(model, SAMPLES) for model in (subject.model, made))
            ratio = sqnr(before.outputs, after.outputs)
            report.check(f"{NAME}/{name}/sqnr", ratio >= floor, f"{ratio:.2f} dB (Model Optimizer: {floor} dB)")


def lint(squint: Squint, name: str, model: Path, report: Report) -> None:
    """The checker accepts the file, and the linter finds nothing."""
    onnx.checker.check_model(str(model), full_check=True)
    squint.run("check", str(model), "--target", NAME)
    report.check(f"{NAME}/{name}/lint", True, "nothing is found")


def check_layers(squint: Squint, model: Path, script: Path, work: Path, report: Report) -> None:
    """The script that compares predicted kernels with those of an engine, on layers made up in the form that `trtexec
    --exportLayerInfo` documents: the predicted ones, and the same with two kernels taken together and one taken apart."""
    predicted = work / "predicted.json"
    predicted.write_text(squint.run("check", str(model), "--target", NAME, "--format", "json"))
    kernels = [k["nodes"] for k in json.loads(predicted.read_text())["kernels"]]
    detailed = [{"Name": f"layer {i}", "LayerType": "CaskConvolution", "Metadata": metadata(k)} for i, k in enumerate(kernels)]
    names = [" + ".join(k) for k in kernels]
    one, *rest = sorted(kernels, key=len, reverse=True)
    another = [one[:1], one[1:], [*rest[0], *rest[1]], *rest[2:]]
    cases = {"same": (detailed, 0), "names": (names, 0), "other": ([{"Name": "x", "Metadata": metadata(k)} for k in another], 1)}
    seen = {}
    for case, (layers, _) in cases.items():
        file = work / f"layers-{case}.json"
        file.write_text(json.dumps({"Layers": layers, "Bindings": []}))
        done = subprocess.run([sys.executable, script, predicted, file], capture_output=True, text=True, check=False)
        seen[case] = done.returncode, done.stdout.strip().splitlines()
    told = any("predicted apart" in line for line in seen["other"][1]) and any("together" in line for line in seen["other"][1])
    ok = told and all(seen[case][0] == status for case, (_, status) in cases.items())
    report.check(f"{NAME}/layers", ok, "; ".join(f"{case}: {lines[-1] if lines else status}" for case, (status, lines) in seen.items()))


def metadata(nodes: list[str]) -> str:
    """What a layer says of the ONNX nodes that it was made from."""
    return "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
