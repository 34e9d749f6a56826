"""ONNX Runtime's own calibrators, timed: what `squint calibrate` is compared with.

usage: calibrators.py MODEL DATA.npy METHOD      METHOD: minmax or entropy

Calibrates on every sample of the array (first axis), as `quantize_static` does, and prints the seconds that takes,
without the start of Python and its imports, and the peak memory of the process in MiB.
"""

import contextlib
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}


class Samples(CalibrationDataReader):
    """The entries of an array's first axis, read one at a time."""

    def __init__(self, name: str, data: np.ndarray):
        self._feeds = ({name: np.asarray(sample)} for sample in data)

    def get_next(self):
        return next(self._feeds, None)


def main(model: str, data: str, method: str) -> None:
    """Calibrates and prints the two numbers."""
    name = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(model, augmented_model_path=augmented, calibrate_method=METHODS[method])
        # The calibrators talk.
        with contextlib.redirect_stdout(sys.stderr):
            calibrator.collect_data(Samples(name, np.load(data, mmap_mode="r")))
            calibrator.compute_data()
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


if __name__ == "__main__":
    main(*sys.argv[1:])
