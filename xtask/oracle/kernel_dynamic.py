"""The grid of operators that quantize their activations in every run, beside the same in float.

A DynamicQuantizeLinear is timed between two products that read what it makes: with one alone the runtime would fuse it.
(What the products cost is that of planned ones.) Units of work are those of `targets/src/cpu/dynamic.rs`:

macs      multiply-accumulates
fetches   weights, recurrent ones once for each step
elements  elements of the result; for DynamicQuantizeLinear, of the operand
"""

from collections.abc import Iterator

import numpy as np
from onnx import helper

from kernel_models import Chain, Subject

MICROSOFT = "com.microsoft"
ROWS = (1, 4, 16, 128)
INNER = (64, 128, 256, 384, 512, 768)
COLUMNS = 16
LSTMS = ((64, 64), (128, 128), (256, 256), (512, 128), (128, 512))
STEPS = (1, 8, 32)


def subjects() -> Iterator[Subject]:
    """All of the grid."""
    for rows in ROWS:
        for inner in INNER:
            yield Subject([rows, inner], products, ("BORDER", [0, 0, rows * inner]), None)
    for steps in STEPS:
        for inputs, hidden in LSTMS:
            macs, weights = steps * 4 * hidden * (inputs + hidden), 4 * hidden * (inputs + steps * hidden)
            work = [macs, weights, steps * hidden]

            def recurrent(chain: Chain, hidden=hidden) -> None:
                lstm(chain, hidden)

            yield Subject([steps, 1, inputs], recurrent, ("LSTM_U8", work), ("LSTM_F32", work))


def products(chain: Chain) -> None:
    """DynamicQuantizeLinear and two products of what it makes."""
    chain.quantized = False
    chain.last = "x"
    inner = chain.shape[-1]
    levels, scale, zero = "levels", "scale", "zero"
    chain.nodes[:] = [helper.make_node("DynamicQuantizeLinear", ["x"], [levels, scale, zero], name="quantize")]
    results = []
    for name in ("left", "right"):
        weight, weight_scale = _weight(chain, [inner, COLUMNS])
        inputs = [levels, weight, scale, weight_scale, zero, ""]
        chain.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [name], name=name, domain=MICROSOFT))
        results.append(name)
    chain.nodes.append(helper.make_node("Concat", results, ["both"], name="both", axis=-1))
    chain.last = "both"


def lstm(chain: Chain, hidden: int) -> None:
    """An LSTM in one direction, from a sequence of one element a batch."""
    quantized, chain.quantized = chain.quantized, False
    chain.nodes.clear()
    inputs = chain.shape[-1]
    zeros = chain.floats(np.zeros([1, 8 * hidden]))
    if not quantized:
        weights = [chain.floats(0.1 * _random(chain, [1, 4 * hidden, n])) for n in (inputs, hidden)]
        node = helper.make_node("LSTM", ["x", *weights, zeros], ["t0"], name="t0", hidden_size=hidden)
    else:
        (w, ws), (r, rs) = (_weight(chain, [1, n, 4 * hidden]) for n in (inputs, hidden))
        point = chain.constant(np.zeros([1, 4 * hidden], np.int8))
        operands = ["x", w, r, zeros, "", "", "", "", ws, point, rs, point]
        node = helper.make_node(
            "DynamicQuantizeLSTM", operands, ["t0"], name="t0", domain=MICROSOFT, hidden_size=hidden
        )
    chain.nodes.append(node)
    chain.last = "t0"


def _weight(chain: Chain, shape: list[int]) -> tuple[str, str]:
    """Levels of a weight and a scale for each of the last axis."""
    levels = np.clip(np.rint(_random(chain, shape) * 40), -64, 64).astype(np.int8)
    scales = np.full([*shape[:-2], shape[-1]], 0.001, np.float32)
    return chain.constant(levels), chain.constant(scales)


def _random(chain: Chain, shape: list[int]) -> np.ndarray:
    return chain.random.standard_normal(shape).astype(np.float32)
