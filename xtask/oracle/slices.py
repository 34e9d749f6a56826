"""Small graphs with slices: which of them ONNX Runtime joins to a Split.

Rows as those of `patterns.py`.
"""

import numpy as np
import onnx

from patterns import IMAGE, Net, Row


def slices(*limits: tuple[int, int], of_input: bool = False, beside: bool = False, opset: int = 17) -> onnx.ModelProto:
    """Parts of the channels of a value, each read by a convolution, and perhaps the whole by a function."""
    net = Net(IMAGE, opset)
    x = net.qdq("x") if of_input else net.qdq(net.op("Conv", net.qdq("x"), net.weight(8, 8, 1, 1)))
    for low, high in limits:
        part = net.op("Slice", x, *(net.const([v], np.int64) for v in (low, high, 1, 1)))
        channels = len(range(8)[slice(low, high)])
        net.out(net.qdq(net.op("Conv", net.qdq(part), net.weight(4, channels, 1, 1))))
    if beside:
        net.out(net.op("Tanh", x))
    return net.model()


ROWS: dict[str, Row] = {
    "slices-of-all": lambda: slices((0, 2), (2, 5), (5, 8)),
    "slices-of-all-in-another-order": lambda: slices((4, 2**62), (0, -4)),
    "slices-of-a-part": lambda: slices((0, 2), (2, 5)),
    "slices-with-a-gap": lambda: slices((0, 2), (3, 8)),
    "slices-that-overlap": lambda: slices((0, 5), (3, 8)),
    "slices-beside-another-reader": lambda: slices((0, 4), (4, 8), beside=True),
    "slices-before-operator-set-13": lambda: slices((0, 4), (4, 8), opset=12),
    "slices-of-an-input": lambda: slices((0, 4), (4, 8), of_input=True),
}
