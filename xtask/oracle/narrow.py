"""Numbers beside int8 and float32: half precision around quantizers, 8-bit floats, weights in blocks.

The quick-start model, for TensorRT: the file is valid, the linter finds nothing, and ONNX Runtime without optimizations,
which computes what the file says, is near the float model. ONNX Runtime has no bfloat16 convolutions: squint runs those.
A perceptron and a table of words, for CPUs: each product becomes one MatMulNBits, each Gather one that dequantizes, and
squint computes with the file what the runtime does.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from compiler import INTERPRETED_SAMPLES, Squint
from measure import agreement, float_arrays, optimized_operators, plain_session, session, sqnr
from report import Report
from subjects import QuickStart

NAME = "narrow"
"""Name of the part."""

PICTURES = 64
TENSORRT = {
    "float16": (("--compute", "float16"), 24),
    "float16-io": (("--compute", "float16", "--compute-io"), 24),
    "fp8": (("--quantize-to", "fp8"), 22),
    "fp8-float16": (("--quantize-to", "fp8", "--compute", "float16"), 22),
}
"""Options, and the least SQNR in dB."""
LEAST_BFLOAT16_DB = 20
WIDTH, HIDDEN, OUTPUTS = 160, 96, 48
BLOCKS = {"w2": (("--weight-bits", "2"), 5, 5), "w4": (("--block-size", "32"), 15, 15), "w4-64": (("--block-size", "64"), 13, 13), "w8": (("--weight-bits", "8"), 38, 30)}
"""Options, and the least SQNR in dB of the file run as it is, and of the runtime's kernel, which rounds activations, too."""
ROWS = 512
TABLES = {"2": 5, "4": 18, "8": 42}
"""Bits of a table, and the least SQNR in dB."""
LEAST_BODIES_DB = 55
INTERPRETER_DB = 90
FLOAT8_DB = 40
"""Squint's executor beside the runtime on 8-bit floats: sums in another order round a few of them otherwise."""


def check(squint: Squint, repository: Path, folder: Path, report: Report) -> None:
    """All checks of this part."""
    folder.mkdir(parents=True, exist_ok=True)
    subject = QuickStart(repository / "examples" / "quickstart")
    feeds = subject.feeds(PICTURES)
    before = _run(subject.model, feeds)
    for name, (options, least) in TENSORRT.items():
        with report.step(f"{NAME}/{name}"):
            made = squint.quantize(subject.model, folder / f"{name}.onnx", subject.data, "--target", "tensorrt", *options)
            _valid(squint, made)
            ratio = sqnr(before, _run(made, feeds))
            ends = {end.type for end in [*plain_session(made).get_inputs(), *plain_session(made).get_outputs()]}
            wanted = {"tensor(float16)"} if "--compute-io" in options else {"tensor(float)"}
            report.check(f"{NAME}/{name}", ratio >= least and ends == wanted, f"{ratio:.2f} dB (bound {least}), {ends}")
            if name == "fp8":
                few = subject.feeds(INTERPRETED_SAMPLES)
                same = agreement(made, squint.interpret(made, subject.data, folder / name), few)
                report.check(f"{NAME}/{name}/interpreter", same >= FLOAT8_DB, f"{same:.2f} dB (bound {FLOAT8_DB})")
    with report.step(f"{NAME}/bfloat16"):
        made = squint.quantize(
            subject.model, folder / "bfloat16.onnx", subject.data, "--target", "tensorrt-10", "--compute", "bfloat16"
        )
        _valid(squint, made)
        few = subject.feeds(INTERPRETED_SAMPLES)
        outputs = [list(np.load(file).values()) for file in squint.interpret(made, subject.data, folder / "bfloat16")]
        ratio = sqnr(_run(subject.model, few), outputs)
        report.check(f"{NAME}/bfloat16", ratio >= LEAST_BFLOAT16_DB, f"{ratio:.2f} dB (bound {LEAST_BFLOAT16_DB})")
    with report.step(f"{NAME}/bodies"):
        _bodies(squint, folder, report)
    _blocks(squint, folder, report)
    _tables(squint, folder, report)


def _valid(squint: Squint, made: Path) -> None:
    onnx.checker.check_model(str(made), full_check=True)
    squint.run("check", str(made), "--target", "tensorrt")


def _run(model: Path, feeds: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """Outputs of the runtime without optimizations, of feeds in the types that the model takes."""
    runtime = plain_session(model)
    half = {i.name for i in runtime.get_inputs() if i.type == "tensor(float16)"}
    typed = [{k: v.astype(np.float16) if k in half else v for k, v in feed.items()} for feed in feeds]
    return [[x.astype(np.float32) for x in float_arrays(runtime.run(None, feed))] for feed in typed]


def _blocks(squint: Squint, folder: Path, report: Report) -> None:
    original, data = folder / "perceptron.onnx", folder / "x.npz"
    onnx.save(_perceptron(), original)
    rows = np.random.default_rng(1).standard_normal([INTERPRETED_SAMPLES, WIDTH]).astype(np.float32)
    np.savez(data, x=rows)
    feeds = [{"x": row[None]} for row in rows]
    before = _run(original, feeds)
    for name, (options, plain_db, kernel_db) in BLOCKS.items():
        with report.step(f"{NAME}/{name}"):
            made = folder / f"{name}.onnx"
            squint.run("quantize", str(original), "-o", str(made), "--target", "cpu-avx2", "--scheme", "weight-only", *options)
            onnx.checker.check_model(str(made), full_check=True)
            kernels = optimized_operators(made)
            fused = kernels["MatMulNBits"] == 2 and kernels["MatMul"] + kernels["Gemm"] + kernels["DequantizeLinear"] == 0
            report.check(f"{NAME}/{name}/kernels", fused, str(dict(kernels)))
            optimized = [float_arrays(session(made).run(None, feed)) for feed in feeds]
            plain, kernel = sqnr(before, _run(made, feeds)), sqnr(before, optimized)
            ok = plain >= plain_db and kernel >= kernel_db
            report.check(f"{NAME}/{name}/outputs", ok, f"{plain:.2f} dB (bound {plain_db}), fused {kernel:.2f} dB (bound {kernel_db})")
            same = agreement(made, squint.interpret(made, data, folder / name), feeds)
            report.check(f"{NAME}/{name}/interpreter", same >= INTERPRETER_DB, f"{same:.2f} dB (bound {INTERPRETER_DB})")
    with report.step(f"{NAME}/int4-tensorrt"):
        made = folder / "int4.onnx"
        squint.run("quantize", str(original), "-o", str(made), "--target", "tensorrt", "--scheme", "weight-only", "--block-size", "64")
        _valid(squint, made)
        # Blocks of 64 divide neither side of the first matrix: it stays, in float16.
        types = [t.data_type for t in onnx.load(made).graph.initializer]
        found = types.count(TensorProto.INT4), types.count(TensorProto.FLOAT)
        ratio = sqnr(before, _run(made, feeds))
        ok = found == (1, 0) and ratio >= 13
        report.check(f"{NAME}/int4-tensorrt", ok, f"{found[0]} weights in INT4, {found[1]} constants in float32, {ratio:.2f} dB")


def _tables(squint: Squint, folder: Path, report: Report) -> None:
    """Rows of tables in blocks are dequantized as they are looked up, by the runtime and by squint."""
    original, data = folder / "words.onnx", folder / "words.npz"
    onnx.save(_words(), original)
    words = np.random.default_rng(2).integers(0, ROWS, [INTERPRETED_SAMPLES, 6])
    np.savez(data, words=words)
    feeds = [{"words": row[None]} for row in words]
    before = _run(original, feeds)
    for bits, least in TABLES.items():
        with report.step(f"{NAME}/table-{bits}"):
            made = folder / f"words-{bits}.onnx"
            options = ["--target", "cpu-avx2", "--scheme", "weight-only", "--table-bits", bits, "--keep-float", "layer"]
            squint.run("quantize", str(original), "-o", str(made), *options)
            onnx.checker.check_model(str(made), full_check=True)
            squint.run("check", str(made), "--target", "cpu-avx2")
            kernels = optimized_operators(made)
            ratio = sqnr(before, _run(made, feeds))
            ok = ratio >= least and kernels["GatherBlockQuantized"] == 2 and kernels["Gather"] == 0
            report.check(f"{NAME}/table-{bits}", ok, f"{ratio:.2f} dB (bound {least}), {dict(kernels)}")
            same = agreement(made, squint.interpret(made, data, folder / f"words-{bits}"), feeds)
            report.check(f"{NAME}/table-{bits}/interpreter", same >= INTERPRETER_DB, f"{same:.2f} dB (bound {INTERPRETER_DB})")


def _words() -> onnx.ModelProto:
    """The sum of two rows of one table, the second at the place after, and a product."""
    random = np.random.default_rng(3)
    constants = [
        numpy_helper.from_array(random.standard_normal([ROWS, WIDTH]).astype(np.float32), "table"),
        numpy_helper.from_array((random.standard_normal([WIDTH, OUTPUTS]) / np.sqrt(WIDTH)).astype(np.float32), "w"),
        numpy_helper.from_array(np.int64(-1), "before"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["a"], "lookup"),
        helper.make_node("Mul", ["words", "before"], ["places"], "negative"),
        helper.make_node("Gather", ["table", "places"], ["b"], "lookup from the back"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("MatMul", ["c", "w"], ["y"], "layer"),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("words", TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, OUTPUTS])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _bodies(squint: Squint, folder: Path, report: Report) -> None:
    """What lies in bodies computes in half precision, too, between values in float32."""
    original, made = folder / "loop.onnx", folder / "loop.float16.onnx"
    onnx.save(onnx.parser.parse_model(LOOP), original)
    rows = np.random.default_rng(4).standard_normal([PICTURES, 4]).astype(np.float32)
    # Without data, as the embedded executor has no Loop: nothing is quantized here.
    squint.run("quantize", str(original), "-o", str(made), "--target", "tensorrt", "--scheme", "weight-only")
    onnx.checker.check_model(str(made), full_check=True)
    [body] = [n.attribute[0].g for n in onnx.load(made).graph.node if n.op_type == "Loop"]
    [product] = [n for n in body.node if n.op_type == "MatMul"]
    halves = {t.name for t in body.initializer if t.data_type == TensorProto.FLOAT16}
    casts = sum(n.op_type == "Cast" for n in body.node)
    feeds = [{"x": row[None]} for row in rows]
    ratio = sqnr(_run(original, feeds), _run(made, feeds))
    ok = product.input[1] in halves and casts == 2 and ratio >= LEAST_BODIES_DB
    report.check(f"{NAME}/bodies", ok, f"{casts} Casts in the body, {ratio:.2f} dB (bound {LEAST_BODIES_DB})")


LOOP = """<ir_version: 8, opset_import: ["" : 17]>
loop (float[N,4] x) => (float[N,4] y)
<int64 n = {3}, bool true = {1}, float[4,4] w = {0.4, -0.2, 0.1, 0.3, 0.2, 0.5, -0.3, 0.1, -0.1, 0.2, 0.6, 0.2, 0.3, 0.1, -0.2, 0.4}>
{
  y = Loop (n, true, x) <body = body (int64 i, bool go, float[N,4] h) => (bool on, float[N,4] next) {
    on = Identity (go)
    p = MatMul (h, w)
    next = Tanh (p)
  }>
}"""


def _perceptron() -> onnx.ModelProto:
    """A MatMul whose inner length is no multiple of 64, and a Gemm that reads its weight by rows."""
    random = np.random.default_rng(0)

    def constant(name: str, shape: list[int], fan: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name)

    inner = 2 * HIDDEN - 64
    constants = [constant("v", [WIDTH, inner], WIDTH), constant("w", [OUTPUTS, inner], inner), constant("b", [OUTPUTS], 1)]
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"], "product"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], "layer", transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in (("x", WIDTH), ("y", OUTPUTS))]
    graph = helper.make_graph(nodes, "perceptron", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
