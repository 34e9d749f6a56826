"""ONNX Runtime's own calibration and static quantization, timed: what squint is compared with.

usage: calibrators.py MODEL DATA TASK

DATA is an array, `.npy`, whose entries along the first axis are samples of the only input; an archive `.npz` of such
arrays by name; or a folder of archives, one for each sample. TASK `minmax` or `entropy` calibrates on every sample, as
`quantize_static` does. `static`
quantizes with min-max: pre-processing, opset 13, unsigned activations and signed weights per channel, which is what
one would choose on x86. Prints the seconds that takes, without the start of Python and its imports, and the peak memory
of the process in MiB.
"""

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
OPSET = 13
"""The first with quantization per channel."""


class Samples(CalibrationDataReader):
    """Samples, read one at a time."""

    def __init__(self, inputs: list[str], data: Path):
        self._feeds = iter(_feeds(inputs, data))

    def get_next(self):
        return next(self._feeds, None)


def _feeds(inputs: list[str], data: Path) -> Iterator[dict[str, np.ndarray]]:
    if data.is_dir():
        for file in sorted(data.glob("*.npz")):
            with np.load(file) as arrays:
                yield {name: arrays[name] for name in inputs}
    elif data.suffix == ".npz":
        with np.load(data) as archive:
            arrays = {name: archive[name] for name in inputs}
        yield from ({name: array[i][None] for name, array in arrays.items()} for i in range(len(arrays[inputs[0]])))
    else:
        yield from ({inputs[0]: np.asarray(sample)} for sample in np.load(data, mmap_mode="r"))


def calibrate(model: str, samples: Samples, method: str, folder: Path) -> None:
    """Measures ranges, as `quantize_static` does."""
    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(model, augmented_model_path=augmented, calibrate_method=METHODS[method])
    calibrator.collect_data(samples)
    calibrator.compute_data()


def quantize(model: str, samples: Samples, folder: Path) -> None:
    """Quantizes a model with ranges by min-max."""
    prepared = str(folder / "prepared.onnx")
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    loaded = onnx.load(prepared)
    if next(o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")) < OPSET:
        onnx.save(onnx.version_converter.convert_version(loaded, OPSET), prepared)
    quantize_static(
        prepared,
        str(folder / "quantized.onnx"),
        samples,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def main(model: str, data: str, task: str) -> None:
    """Does the task and prints the two numbers."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    start = time.perf_counter()
    # Both talk.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        samples = Samples(inputs, Path(data))
        if task == "static":
            quantize(model, samples, Path(folder))
        else:
            calibrate(model, samples, task, Path(folder))
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


if __name__ == "__main__":
    main(*sys.argv[1:])
