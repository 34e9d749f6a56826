"""What the stages behind calibration cost: time of `squint quantize` at its default effort beside that of calibration
alone, and peak memory, model by model.

usage: bench_quantize.py --squint BINARY --repository DIR --zoo DIR --work DIR [--only NAME]

A benchmark, not a test: it prints figures and asserts nothing.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from subjects import QuickStart, ZooModel, over_the_zoo, zoo_names

STAGES = ("equalize", "calibrate", "refine", "repair")
"""Stages that run the model."""
POLL = 0.005
"""Seconds between two looks at the memory of a process."""


class QuantizedAlready(Exception):
    """There is nothing to quantize in a model."""


def main() -> int:
    """Prints a line for each model."""
    arguments = over_the_zoo(__doc__)
    print(f"{'model':26}{'samples':>8}{'calibration':>13}{'added':>9}{'ratio':>7}{'peak':>10}{'float file':>12}")
    for name in ["quickstart", *zoo_names(arguments.zoo)]:
        if arguments.only not in (None, name):
            continue
        subject = _subject(name, arguments)
        try:
            alone, _ = quantize(subject, name, 0, arguments)
        except QuantizedAlready:
            print(f"{name:26}quantized already")
            continue
        full, peak = quantize(subject, name, 1, arguments)
        calibration = alone.get("calibrate", 0.0)
        added = sum(full.get(stage, 0.0) for stage in STAGES) - calibration
        ratio = f"{added / calibration:.2f}" if calibration > 0 else "-"
        size = subject.model.stat().st_size / 2**20
        print(
            f"{name:26}{full['samples']:8}{calibration:11.2f} s{added:7.2f} s{ratio:>7}{peak / 2**10:6.0f} MiB{size:8.1f} MiB",
            flush=True,
        )
    return 0


def quantize(subject, name: str, effort: int, arguments) -> tuple[dict[str, float], int]:
    """Seconds by stage, with the number of samples; and the peak resident memory in KiB."""
    folder = arguments.work / "bench-quantize"
    folder.mkdir(parents=True, exist_ok=True)
    command = [arguments.squint, "quantize", subject.model, "--data", subject.data, "-o", folder / f"{name}.onnx"]
    command += ["--effort", str(effort), "--summary", "json", "--quiet"]
    with (folder / f"{name}.json").open("w+") as summary:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=summary, stderr=subprocess.PIPE, text=True
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(POLL)
        if process.returncode:
            said = process.stderr.read()
            if "is quantized already" in said:
                raise QuantizedAlready
            raise SystemExit(f"squint failed on `{subject.model}`: {said}")
        summary.seek(0)
        report = json.load(summary)
    seconds = {"samples": report["samples"]}
    for entry in report["passes"]:
        seconds[entry["pass"]] = seconds.get(entry["pass"], 0.0) + entry["seconds"]
    return seconds, peak


def _peak(process: int) -> int:
    """KiB; Linux keeps the peak for as long as the process runs, elsewhere it is not known."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1])


def _subject(name: str, arguments):
    if name == "quickstart":
        return QuickStart(arguments.repository / "examples" / "quickstart")
    return ZooModel(arguments.zoo, name, arguments.work / "feeds")


if __name__ == "__main__":
    sys.exit(main())
