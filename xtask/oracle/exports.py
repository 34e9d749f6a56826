"""Checks of what training tools really export: the files of `exports/`, made by the scripts there.

`trained.py` has networks as these tools write them, layer by layer; here the whole file of the tool itself is converted,
and beside what the tool's own network computes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx.checker

from compiler import Squint
from measure import coverage, float_arrays, plain_session, sqnr
from report import Report

NAME = "exports"
CPU, TENSORRT = "cpu-vnni", "tensorrt"


@dataclass(frozen=True)
class Export:
    """A file.

    name      of the file
    weights   that have integers
    integer   contractions that run in integers on the CPU
    cpu_db    least SQNR of the CPU's file, executed as it says, beside the tool's network
    tensorrt_db  the same for TensorRT's, which leaves out quantizers of results
    """

    name: str
    weights: int
    integer: int
    cpu_db: float
    tensorrt_db: float


EXPORTS = (
    # Nothing but sums in another order is different, although the weights have no quantizers.
    Export("tensorflow", 4, 4, 100, 24),
    # Results of sums have no quantizers in these: the convolution before one stays in float.
    Export("pt2e", 2, 2, 48, 42),
    Export("torch-ao", 2, 2, 36, 35),
    Export("modelopt", 2, 2, 44, 43),
    Export("brevitas-qcdq", 3, 3, 70, 46),
    Export("brevitas-qonnx", 3, 3, 70, 46),
)


def check(squint: Squint, repository: Path, folder: Path, report: Report) -> None:
    """Every file, for both kinds of targets."""
    folder.mkdir(parents=True, exist_ok=True)
    files = repository / "xtask" / "oracle" / "exports"
    for export in EXPORTS:
        with np.load(files / f"{export.name}.npz") as arrays:
            x, wanted = arrays["x"], [[arrays["y"]]]
        for target, least in ((CPU, export.cpu_db), (TENSORRT, export.tensorrt_db)):
            name = f"{NAME}/{export.name}/{target}"
            with report.step(name):
                made = folder / f"{export.name}.{target}.onnx"
                made.unlink(missing_ok=True)
                command = ["qat", "convert", str(files / f"{export.name}.onnx"), "-o", str(made), "--target", target]
                said = json.loads(squint.run(*command, "--summary", "json"))
                onnx.checker.check_model(str(made), full_check=True)
                squint.run("check", str(made), "--target", target)
                runtime = plain_session(made)
                found = [float_arrays(runtime.run(None, {runtime.get_inputs()[0].name: x}))]
                ratio, kept = sqnr(wanted, found), said["kept"]
                ok = ratio >= least
                detail = f"{ratio:.1f} dB (bound {least}), {kept['weights']} of {kept['of_weights']} weights"
                if target == CPU:
                    seen = coverage(made)
                    ok = ok and kept["weights"] == export.weights and seen.integer >= export.integer
                    detail = f"{detail}, {seen}"
                report.check(name, ok, detail)
