"""Models as ONNX Runtime's own quantizer writes them, to have other patterns than squint's to predict.

Ranges come from made-up inputs: which patterns result does not depend on them, and nothing is scored.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

FORMS = {
    "qdq": dict(quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8),
    "qdq-per-channel": dict(
        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True
    ),
    "qdq-signed": dict(quant_format=QuantFormat.QDQ),
    "qoperator": dict(
        quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    ),
}
NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def peers(model: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The model in each form that the quantizer manages to write; what it fails at is left out."""
    logging.getLogger().setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
    except Exception:  # the quantizer's own preparation fails on some models: take them as they are
        prepared = model
    for name, options in {**FORMS, "dynamic": None}.items():
        path = folder / f"{name}.onnx"
        try:
            if options is None:
                quantize_dynamic(prepared, path, per_channel=True)
            else:
                quantize_static(prepared, path, _MadeUp(prepared), **options)
        except Exception:
            continue
        yield name, path


class _MadeUp(CalibrationDataReader):
    """Two samples of made-up inputs, with 1 for every open length."""

    def __init__(self, model: Path):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        inputs = onnxruntime.InferenceSession(str(model), options).get_inputs()
        random = np.random.default_rng(0)

        def array(value) -> np.ndarray:
            shape = [d if isinstance(d, int) else 1 for d in value.shape]
            if value.type == "tensor(float)":
                return random.standard_normal(shape).astype(np.float32)
            return np.ones(shape, NUMPY[value.type])

        self._feeds = iter([{value.name: array(value) for value in inputs} for _ in range(2)])

    def get_next(self):
        return next(self._feeds, None)
