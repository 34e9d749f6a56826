"""Calibration of every model of the zoo: what observing costs, the time of each stage, and the whole beside ONNX Runtime's
own tool.

usage: bench_calibration.py --squint BINARY --observing BINARY --repository DIR --zoo DIR --work DIR [--only NAME]
       [--rounds N]

For each model:

- *observing*: the time of a sample with all observed values sketched over that of the same sample merely run, by the same
  executor (`benches/observing.rs`);
- *calibrate*: `squint calibrate` on 64 samples of the model's task, with each executor: seconds, peak memory, stages;
- *beside*: that over ONNX Runtime's min-max calibration; and `squint quantize --method minmax --effort 0` over its
  `quantize_static` with what one would choose on x86 (`calibrators.py`). The start of Python is not counted.

Tools run in turns, so that other load falls on all; the best of the rounds counts. A benchmark, not a test: it prints
figures and asserts nothing.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from subjects import QuickStart, ZooModel, zoo_names

EXECUTORS = ("tract", "onnxruntime")
TOOLS = {"calibrate": "minmax", "quantize": "static"}
LIMIT = 900
"""Seconds that a tool may take."""


def main() -> int:
    """Prints some lines for each model, and the medians over all."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ["VIRTUAL_ENV"] = sys.prefix
    overheads, ratios = {}, {}
    for name in ["quickstart", *zoo_names(arguments.zoo)]:
        if arguments.only in (None, name):
            subject = _subject(name, arguments)
            for executor, percent in observing(name, subject, arguments).items():
                overheads.setdefault(executor, []).append(percent)
            for key, ratio in beside(name, subject, arguments).items():
                ratios.setdefault(key, []).append(ratio)
    for executor, all_of in overheads.items():
        print(f"median of {len(all_of)} models: observing costs {statistics.median(all_of):+.1f} % by {executor}")
    for (task, executor), all_of in ratios.items():
        print(f"median of {len(all_of)} models: {task} by {executor} takes {statistics.median(all_of):.2f} of ONNX Runtime's")
    return 0


def observing(name: str, subject, arguments) -> dict[str, float]:
    """What observing costs, in percent, by executor."""
    command = [arguments.observing, str(subject.model), str(subject.data)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    found = {}
    for line in done.stdout.splitlines():
        if part := re.search(r", (tract|onnxruntime): (run .* ([+-][\d.]+) %)", line):
            found[part[1]] = float(part[3])
            print(f"{name:24} observing  {part[1]:12} {part[2]}", flush=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        print(f"{name:24} observing  not measured further: {last[:160]}", flush=True)
    return found


def beside(name: str, subject, arguments) -> dict[tuple[str, str], float]:
    """Time over that of ONNX Runtime's tools, by task and executor."""
    ours: dict[tuple[str, str], tuple[float, int, str]] = {}
    theirs: dict[str, tuple[float, int]] = {}
    for _ in range(arguments.rounds):
        for task, tool in TOOLS.items():
            for executor in EXECUTORS:
                if (cost := squint(task, executor, subject, arguments)) is not None:
                    ours[task, executor] = min(cost, ours.get((task, executor), cost))
            if (cost := tool_of_runtime(tool, subject)) is not None:
                theirs[tool] = min(cost, theirs.get(tool, cost))
    ratios = {}
    for (task, executor), (seconds, peak, stages) in ours.items():
        line = f"{name:24} {task:10} {executor:12} {seconds:7.2f} s {peak:5} MiB"
        if TOOLS[task] in theirs:
            other, memory = theirs[TOOLS[task]]
            ratios[task, executor] = seconds / other
            line += f"  {seconds / other:5.2f} of {other:.2f} s, {memory} MiB"
        print(f"{line}  {stages}", flush=True)
    for task, tool in TOOLS.items():
        if tool not in theirs:
            print(f"{name:24} {task:10} ONNX Runtime's tool fails", flush=True)
    return ratios


def squint(task: str, executor: str, subject, arguments) -> tuple[float, int, str] | None:
    """Seconds, peak memory in MiB, and what squint says of its stages; `None` if it cannot."""
    output = arguments.work / ("out.stats" if task == "calibrate" else "out.onnx")
    command = [str(arguments.squint), task, str(subject.model), "-o", str(output), "--data", str(subject.data)]
    command += ["--runtime", executor]
    if task == "quantize":
        command += ["--method", "minmax", "--effort", "0"]
    start = time.perf_counter()
    with (arguments.work / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if status != 0:
        return None
    stages = re.findall(r"\((load [^)]*)\)", text)
    return seconds, usage.ru_maxrss // 1024, stages[-1] if stages else ""


def tool_of_runtime(task: str, subject) -> tuple[float, int] | None:
    """Seconds and peak memory in MiB of ONNX Runtime's own tool; `None` if it fails."""
    command = [sys.executable, str(Path(__file__).with_name("calibrators.py")), str(subject.model), str(subject.data), task]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), int(peak)


def _subject(name: str, arguments):
    if name == "quickstart":
        return QuickStart(arguments.repository / "examples" / "quickstart")
    return ZooModel(arguments.zoo, name, arguments.feeds)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--squint", "--observing", "--repository", "--zoo", "--work"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.feeds = arguments.work / "feeds"
    arguments.work = arguments.work / "bench-calibration"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
