"""The table of oracle cases: which model, and what its quantized form must show in the real runtime.

A later claim about a model is one more row, or one more number in a row; nothing else changes.
Bounds are floors that a change must not fall below, not the best values reached.
"""

from dataclasses import dataclass

QUICK_START = "quickstart"
"""Name of the one case whose model lives in the repository (`examples/quickstart`)."""


@dataclass(frozen=True)
class Case:
    """One model and its bounds. A bound that is `None` is not checked.

    name          `QUICK_START`, or the id of a zoo model
    integer       least number of contractions (Conv, Gemm, MatMul, ...) in integer kernels
    max_float     most contractions left in float kernels
    max_float_conv  most convolutions among those
    sqnr_db       least signal-to-quantization-noise ratio over all outputs of the scored samples, in dB
    metric        key of the task's score that is compared
    max_drop      most the score may fall below the float model's, in the metric's unit (0.01 is one point)
    interpreter_db  least agreement, in dB, of squint's own execution of the quantized file with the runtime's when the
                  runtime fuses nothing; only values on rounding ties may differ, which grows with depth
    text          `squint print` of the float and of the quantized model is read by `onnx.parser`
    threads       one and two threads give the same bytes
    alone         each operator on integers by itself: squint's execution is within one level of the runtime's kernel
    formats       the quantized model computes the same as operators on integers, and raised from those
    """

    name: str
    integer: int | None = None
    max_float: int | None = None
    max_float_conv: int | None = None
    sqnr_db: float | None = None
    metric: str | None = None
    max_drop: float | None = None
    interpreter_db: float | None = None
    text: bool = False
    threads: bool = False
    alone: bool = True
    formats: bool = False


def smoke(name: str) -> Case:
    """A model that must quantize, load and give finite outputs, with no bound on accuracy yet."""
    return Case(name)


CASES = (
    Case(
        QUICK_START, integer=5, max_float=2, max_float_conv=1, sqnr_db=28, metric="top1", max_drop=0.01, interpreter_db=60,
        text=True, threads=True,
    ),
    # Pools and joins with parameters of their own and float graph outputs are worth 6 dB here.
    Case("squeezenet1.1", integer=26, max_float=0, sqnr_db=31, metric="top1", max_drop=0.02, interpreter_db=40, formats=True),
    # The first three convolutions, large and of few channels, are as fast in float, whose borders are then cheaper.
    Case("mobilenetv2", integer=50, max_float=3, max_float_conv=3, sqnr_db=18, metric="top1", max_drop=0.015, threads=True, formats=True),
    # A stem of 1 or 3 channels and a last Gemm of few columns are faster in float: every other one is integer.
    Case("resnet20-cifar10", integer=18, max_float=2, max_float_conv=1, sqnr_db=25, metric="top1", max_drop=0.01, interpreter_db=45, threads=True),
    Case("mlptiny-ic", integer=8, max_float=2, max_float_conv=1, sqnr_db=18, metric="top1", max_drop=0.01, interpreter_db=60),
    # Integers gain nothing here: the file computes what the float model does.
    Case("mnist-8", integer=0, max_float=3, sqnr_db=100, metric="top1", max_drop=0.0, interpreter_db=60),
    Case("kws-dscnn", integer=8, max_float=2, max_float_conv=1, sqnr_db=24, metric="top1", max_drop=0.01),
    smoke("yolox-nano"),
    smoke("fastestdet"),
    smoke("ultraface-rfb320"),
    smoke("ppocr-v2-rec-en"),
    smoke("ppocr-mobile-v2-det"),
)
