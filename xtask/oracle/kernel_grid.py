"""The grid of operators that are timed: which kernel each runs in, and how many units of work that is.

The units are those of `targets/src/cpu/costs.rs`, and the rules by which a kernel is chosen mirror that file:

macs      multiply-accumulates, with channels padded to what the kernel computes; elements of the windows of pools
fetches   what is set up beside: positions of the window over all pixels of an integer convolution or a pool (each costs
          a pointer or a copy), rows of pixels with a float k x k convolution, weights of a Gemm, rows of a Softmax
elements  elements of the result, with channels padded to what the kernel computes (of the operand of a mean)
"""

from collections.abc import Iterator
from functools import partial

import kernel_dynamic
from kernel_models import Chain, Subject, repeat
from processor import vnni

Work = tuple[str, list[float]]

CHAIN = 4
DIRECT_OUTPUTS = 4 if vnni() else 8
"""The direct kernel of integer convolutions takes multiples of so many output channels."""
MOST_MACS = 60e6


def subjects() -> Iterator[Subject]:
    """Everything that is timed."""
    yield from _dense()
    yield from _stems()
    yield from _depthwise()
    yield from _grouped()
    yield from _matrices()
    yield from _elementwise()
    yield from _pools()
    yield from _moves()
    yield from _borders()
    yield from kernel_dynamic.subjects()


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to


def _conv_work(inputs: int, outputs: int, kernel: int, group: int, side: int) -> tuple[Work, Work]:
    """Rows and units of an integer and a float convolution with a square result."""
    pixels = side * side
    a, b, window = inputs // group, outputs // group, kernel * kernel
    wide = group * _padded(b, 16)
    fetches, elements = window * pixels * group, wide * pixels
    if group > 1 and a == 1 and b == 1:
        row = "DEPTHWISE_DIRECT_U8" if outputs % 16 == 0 else "DEPTHWISE_U8"
        wide = _padded(outputs, 16)
        macs, elements = window * wide * pixels, wide * pixels
        lines = kernel * side * wide // 16
        return (row, [macs, window * pixels, elements]), ("DEPTHWISE_F32", [macs, lines, elements])
    work = [_padded(a, 4) * window * elements, fetches, elements]
    if group > 1:
        return ("GROUPED_U8", work), ("GROUPED_F32", work)
    direct = a % 4 == 0 and outputs >= 16 and outputs % DIRECT_OUTPUTS == 0
    row = "STEM_F32" if a < 16 and kernel > 1 else "POINTWISE_F32" if kernel == 1 else "CONV_F32"
    setup = pixels if kernel == 1 else kernel * side * wide // 16
    return ("CONV_DIRECT_U8" if direct else "CONV_UNROLLED_U8", work), (row, [a * window * elements, setup, elements])


def _dense() -> Iterator[Subject]:
    for kernel, sides in ((1, (7, 10, 14, 20, 28, 56, 112)), (3, (7, 14, 28, 56))):
        for side in sides:
            for a, b in ((4, 8), (8, 8), (8, 16), (16, 16), (16, 64), (24, 24), (24, 96), (32, 32), (32, 16), (36, 36),
                         (48, 48), (64, 64), (96, 24), (96, 96), (128, 128), (256, 64), (256, 256), (512, 128),
                         (64, 8), (128, 12), (96, 18)):
                if a * b * kernel * kernel * side * side > MOST_MACS or (side == 112 and max(a, b) > 64):
                    continue

                def step(chain: Chain, a=a, b=b, kernel=kernel) -> None:
                    if a != b:
                        chain.conv(a)
                    chain.conv(b, kernel, tested=True)

                yield Subject([1, a, side, side], repeat(CHAIN, step), *_conv_work(a, b, kernel, 1, side))


def _stems() -> Iterator[Subject]:
    for inputs in (1, 3):
        for side in (32, 112, 224, 320):
            for outputs in (8, 16, 24, 32):
                for stride in (1, 2):
                    if side > 224 and stride == 1:
                        continue

                    def build(chain: Chain, outputs=outputs, stride=stride) -> None:
                        chain.conv(outputs, 3, stride, tested=True)
                        chain.conv(16)

                    shape = [1, inputs, side, side]
                    yield Subject(shape, build, *_conv_work(inputs, outputs, 3, 1, side // stride))
                    if outputs < 16:
                        continue

                    def padded(chain: Chain, pad: bool, outputs=outputs, stride=stride) -> None:
                        chain.pad_channels(4 - chain.shape[1], tested=pad)
                        chain.conv(outputs, 3, stride, tested=not pad)
                        chain.conv(16)

                    integer, _ = _conv_work(4, outputs, 3, 1, side // stride)
                    yield Subject(shape, partial(padded, pad=False), integer, None)
                    if stride == 1 and outputs == 16:
                        yield Subject(shape, partial(padded, pad=True), ("PAD_U8", [0, 0, 4 * side * side]), None)


def _depthwise() -> Iterator[Subject]:
    for kernel in (3, 5):
        for side in (7, 14, 20, 28, 44, 56, 112):
            for channels in (8, 16, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512):
                if channels * side * side > 500_000:
                    continue

                def step(chain: Chain, channels=channels, kernel=kernel) -> None:
                    chain.conv(channels, kernel, group=channels, tested=True)

                work = _conv_work(channels, channels, kernel, channels, side)
                yield Subject([1, channels, side, side], repeat(CHAIN, step), *work)


def _grouped() -> Iterator[Subject]:
    for group, channels in ((2, 32), (4, 32), (8, 64), (2, 128)):
        for side in (14, 28, 56):

            def step(chain: Chain, group=group, channels=channels) -> None:
                chain.conv(channels, 3, group=group, tested=True)

            work = _conv_work(channels, channels, 3, group, side)
            yield Subject([1, channels, side, side], repeat(CHAIN, step), *work)


def _matrices() -> Iterator[Subject]:
    for rows in (1, 4, 16, 128):
        for inner, columns in ((32, 32), (64, 64), (128, 128), (256, 256), (512, 512), (768, 768), (512, 16),
                               (16, 512)):

            def step(chain: Chain, inner=inner, columns=columns) -> None:
                if inner != columns:
                    chain.gemm(inner)
                chain.gemm(columns, tested=True)

            macs, weights, elements = rows * inner * columns, inner * columns, rows * columns
            padded = rows * _padded(inner, 4) * _padded(columns, 16)
            yield Subject([rows, inner], repeat(CHAIN, step), ("GEMM_U8", [padded, weights, elements]),
                          ("GEMM_F32", [macs, weights, elements]))


def _elementwise() -> Iterator[Subject]:
    def add(chain: Chain) -> None:
        # A pool in between: right behind a convolution the float Add would disappear into it.
        x = _pool(chain)
        chain.apply("Add", [x, _pool(chain)], tested=True)

    def multiply(chain: Chain) -> None:
        x = _pool(chain)
        chain.apply("Mul", [x, _pool(chain)], tested=True)

    def scale(chain: Chain) -> None:
        x = _pool(chain)
        gate = chain.apply("GlobalAveragePool", [x])
        chain.apply("Mul", [x, gate], tested=True)

    def leaky(chain: Chain) -> None:
        chain.apply("LeakyRelu", [_pool(chain)], tested=True, alpha=0.1)

    def sigmoid(chain: Chain) -> None:
        chain.apply("Sigmoid", [_pool(chain)], tested=True)

    def silu(chain: Chain) -> None:
        chain.conv(chain.shape[1])
        x = chain.last
        gate = chain.apply("Sigmoid", [x], tested=True)
        chain.apply("Mul", [x, gate], tested=True)

    def relu(chain: Chain) -> None:
        chain.apply("Relu", [_pool(chain)], tested=True)

    def softmax(chain: Chain) -> None:
        chain.apply("Softmax", [_pool(chain)], tested=True, axis=-1)

    steps = ((add, "ADD_U8", "ADD_F32"), (multiply, "MUL_U8", "MUL_F32"), (scale, "SCALE_U8", "SCALE_F32"),
             (leaky, "LOOKUP_U8", "LEAKY_RELU_F32"), (sigmoid, "LOOKUP_U8", "SIGMOID_F32"), (silu, None, "SILU_F32"),
             (relu, None, "CLAMP_F32"), (softmax, "SOFTMAX_U8", "SOFTMAX_F32"))
    for channels in (16, 64, 128):
        for side in (1, 7, 14, 28, 56):
            elements = channels * side * side
            for step, integer, floating in steps:
                shape = [1, channels, side, side]
                work = [0, channels * side if step is softmax else 0, elements]
                yield Subject(shape, repeat(2, step), integer and (integer, work), (floating, work))


def _pool(chain: Chain) -> str:
    return chain.apply("MaxPool", [chain.last], keep=True, kernel_shape=[1, 1])


def _pools() -> Iterator[Subject]:
    for channels in (16, 24, 56, 64, 128):
        for side in (8, 14, 28, 56):
            for op_type, kernel, stride in (("MaxPool", 2, 2), ("MaxPool", 3, 2), ("MaxPool", 5, 1),
                                            ("AveragePool", 2, 2), ("AveragePool", 3, 1)):

                def build(chain: Chain, op_type=op_type, kernel=kernel, stride=stride) -> None:
                    chain.conv(chain.shape[1])
                    pad = (kernel - 1) // 2
                    chain.apply(op_type, [chain.last], tested=True, keep=True, kernel_shape=[kernel] * 2,
                                strides=[stride] * 2, pads=[pad] * 4)
                    chain.conv(chain.shape[1])

                pad = (kernel - 1) // 2
                pixels = ((side + 2 * pad - kernel) // stride + 1) ** 2
                row = "MAX_POOL" if op_type == "MaxPool" else "AVERAGE_POOL"
                work = [units * pixels for units in (channels * kernel * kernel, kernel * kernel, channels)]
                blocked = "" if channels % 16 == 0 else "_PLAIN"
                yield Subject([1, channels, side, side], build, (f"{row}_U8", work), (f"{row}{blocked}_F32", work))

            def mean(chain: Chain) -> None:
                chain.conv(chain.shape[1])
                chain.apply("GlobalAveragePool", [chain.last], tested=True)
                chain.conv(chain.shape[1])

            work = [0, 0, channels * side * side]
            yield Subject([1, channels, side, side], mean, ("MEAN_U8", work), ("MEAN_F32", work))


def _moves() -> Iterator[Subject]:
    for channels in (16, 24, 64, 128):
        for side in (7, 14, 28, 56):

            def concat(chain: Chain, channels=channels) -> None:
                chain.conv(channels)
                x = chain.last
                chain.conv(channels)
                chain.apply("Concat", [x, chain.last], tested=True, axis=1)
                chain.shape[1] *= 2
                chain.conv(channels)

            def resize(chain: Chain) -> None:
                chain.conv(chain.shape[1])
                scales = chain.floats([1, 1, 2, 2])
                chain.apply("Resize", [chain.last, "", scales], tested=True, keep=True, mode="nearest",
                            coordinate_transformation_mode="asymmetric", nearest_mode="floor")
                chain.conv(chain.shape[1])

            def transpose(chain: Chain) -> None:
                chain.apply("Transpose", [chain.last], tested=True, keep=True, perm=[0, 3, 1, 2])

            shape, elements = [1, channels, side, side], channels * side * side
            work = [0, 0, 2 * elements]
            yield Subject(shape, repeat(2, concat), ("CONCAT_U8", work), ("CONCAT_F32", work))
            work = [0, 0, 4 * elements]
            yield Subject(shape, resize, ("RESIZE_U8", work), ("RESIZE_F32", work))
            work = [0, 0, elements]
            yield Subject(shape, transpose, ("MOVE_U8", work), ("MOVE_F32", work))


def _borders() -> Iterator[Subject]:
    """Between a float and an integer convolution lie a conversion and a change of layout."""
    for channels in (16, 32, 64, 128, 256):
        for side in (7, 14, 28, 56):

            def build(chain: Chain, channels=channels) -> None:
                chain.conv(channels)
                chain.border(True)
                chain.conv(channels)
                chain.quantized = False
                chain.conv(channels)

            yield Subject([1, channels, side, side], build, None, ("BORDER", [0, 0, channels * side * side]))
