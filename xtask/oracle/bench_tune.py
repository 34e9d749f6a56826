"""What `squint tune --max-drop 1%` finds on the classifiers of the zoo, judged in ONNX Runtime on samples it did not see:
whether the bound holds there, and how fast the file is beside one with the worst half of the layers in float.

usage: bench_tune.py --squint BINARY --repository DIR --zoo DIR --work DIR [--only NAME]

The worst half are the convolutions and products whose results come first in what `squint sensitivity` ranks, kept in float by overrides. Float, tuned and half are
timed in turn, on one thread, and the median of each counts. A benchmark, not a test: it prints figures and asserts nothing.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from measure import npz_feeds, sqnr
from subjects import CALIBRATION_SAMPLES, ZooModel, over_the_zoo

CLASSIFIERS = ("squeezenet1.1", "mobilenetv2", "resnet20-cifar10", "mlptiny-ic", "kws-dscnn", "mnist-8", "magika-v3.3")
METRICS = ("accuracy", "agreement", "sqnr", "top1")
TARGET = "cpu-vnni"
ROUNDS = 15
ROUND_SECONDS = 0.05


def main() -> int:
    """Prints a line for each model and metric."""
    arguments = over_the_zoo(__doc__)
    print(f"{'model':18}{'metric':11}{'models':>7}{'expected':>10}{'agreement':>11}{'top-1 float, tuned':>20}{'SQNR':>8}"
          f"{'integers':>10}{'predicted':>11}{'speed-up':>10}{'half':>7}  chosen")
    for name in CLASSIFIERS:
        if arguments.only in (None, name):
            model(name, arguments)
    return 0


def model(name: str, arguments) -> None:
    """All metrics of one model."""
    subject = ZooModel(arguments.zoo, name, arguments.work / "feeds")
    folder = arguments.work / "bench-tune"
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / f"{name}.labels.npy"
    np.save(labels, subject.labels(CALIBRATION_SAMPLES))
    reference = subject.evaluate(subject.model, scored=True)
    half = worst_half(name, subject, folder, arguments)
    for metric in METRICS:
        tuned = folder / f"{name}.{metric}.onnx"
        command = ["tune", "--max-drop", "1%", "--metric", metric, "--target", TARGET, "--summary", "json", "--quiet"]
        command += ["--labels", labels] if metric == "top1" else []
        found = json.loads(squint(arguments, *command, "--data", subject.data, "-o", tuned, subject.model))
        judged = subject.evaluate(tuned, scored=True)
        seconds = timed([subject.model, tuned, half], next(npz_feeds(subject.data, 1)))
        trial = found["trials"][found["chosen"]]
        drop = (found["from_all_samples"] or trial)["drop"]
        same = [x[0].argmax(-1) == y[0].argmax(-1) for x, y in zip(reference.outputs, judged.outputs, strict=True)]
        integers = trial["contractions"]
        print(
            f"{name:18}{metric:11}{len(found['trials']):7}{100 * drop:9.2f}%{100 * np.concatenate(same).mean():10.2f}%"
            f"{100 * reference.score['top1']:11.2f}%,{100 * judged.score['top1']:6.2f}%"
            f"{sqnr(reference.outputs, judged.outputs):8.2f}{integers['integer']:7}/{integers['all']}"
            f"{trial['predicted_speedup']:10.2f}x{seconds[0] / seconds[1]:9.2f}x{seconds[0] / seconds[2]:6.2f}x  {trial['what']}",
            flush=True,
        )


def worst_half(name: str, subject: ZooModel, folder: Path, arguments) -> Path:
    """The model that `quantize` makes with the worst half of the contractions in float."""
    half = folder / f"{name}.half.onnx"
    data = ["--data", subject.data, "--target", TARGET, "--quiet"]
    found = json.loads(squint(arguments, "sensitivity", subject.model, *data, "--top", "0", "--format", "json"))
    ranked = list(dict.fromkeys(effect["layer"] for effect in found["effects"] if effect["layer"]))
    overrides = [part for n in ranked[: (len(ranked) + 1) // 2] for part in ("--override", f"node={n}: float")]
    squint(arguments, "quantize", subject.model, "-o", half, *data, *overrides)
    return half


def timed(models: list[Path], feed: dict[str, np.ndarray]) -> list[float]:
    """Median seconds of a run of each, one after the other in every round."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(m), options, providers=["CPUExecutionProvider"]) for m in models]
    for session in sessions:
        session.run(None, feed)
    begin = time.perf_counter()
    sessions[0].run(None, feed)
    repeats = max(1, int(ROUND_SECONDS / max(time.perf_counter() - begin, 1e-6)))
    rounds = []
    for _ in range(ROUNDS):
        rounds.append([])
        for session in sessions:
            begin = time.perf_counter()
            for _ in range(repeats):
                session.run(None, feed)
            rounds[-1].append((time.perf_counter() - begin) / repeats)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def squint(arguments, *words) -> str:
    """What the binary prints to standard output."""
    done = subprocess.run([arguments.squint, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"squint failed: {' '.join(map(str, words))}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
