"""Compares squint's prediction of what ONNX Runtime makes of a model with what it makes of it.

The witness is the graph that the runtime writes after all its optimizations. Two things are compared: how often each
integer kernel and each conversion stands in it, and, node by node where names are unique, whether a node became an
integer kernel. Transposes are left out, and conversions are counted before the pass that chooses layouts, which puts
some around transposes: where those end up changes nothing for the operators.
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

import float_weights
import patterns
import slices
import transposes
from compiler import Squint
from measure import FLOAT_KERNELS, session
from report import Report

INTEGER = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulNBits", "NhwcMaxPool", "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool",
    "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
})
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
MOVES = frozenset({
    "ArgMax", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "MaxPool", "Pad",
    "ReduceMax", "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Unsqueeze",
})
"""Operators that move integers as they are, if it is integers that they get."""
MERGED = frozenset({"Gather", "Split", "Squeeze"})
"""Of these, the ones that the runtime turns into each other (`gather_fusion.cc`): not counted in whole models."""
CODES = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16}


def check_rows(squint: Squint, folder: Path, report: Report) -> None:
    """Every row of the table: same kernels, or both say that the runtime refuses the model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in (patterns.ROWS | transposes.ROWS | slices.ROWS | float_weights.ROWS).items():
        with report.step(f"predict/{name}"):
            path = folder / f"{name}.onnx"
            onnx.save(build(), path)
            check_model(f"predict/{name}", path, squint, report, frozenset())


def check_model(name: str, path: Path, squint: Squint, report: Report, uncounted: frozenset[str] = MERGED) -> None:
    """One model: kernels and nodes."""
    forecast = squint.explain(path)
    try:
        made = optimized(path)
    except Exception as error:  # whatever the runtime raises: it refuses the model
        foreseen = bool(forecast["faults"])
        report.check(name, foreseen, f"the runtime refuses it, {'foreseen' if foreseen else 'not foreseen'}: {error}")
        return
    original = onnx.load(path, load_external_data=False)
    # The layout pass renames nodes, and puts conversions around the transposes that it moves.
    unplaced = optimized(path, layout=False)
    real = kernels(made, MOVES | INTEGER) + kernels(unplaced, CONVERSIONS)
    predicted = Counter(forecast["kernels"])
    for op in uncounted | {"Transpose"}:
        real.pop(op, None)
        predicted.pop(op, None)
    wrong = [f"{op} {predicted[op]} predicted, {real[op]} real" for op in sorted(real | predicted) if real[op] != predicted[op]]
    wrong += [f"refused: {fault['problem']}" for fault in forecast["faults"]]
    wrong_nodes, nodes = compare_nodes(forecast, original, unplaced)
    total = ", ".join(f"{n} {op}" for op, n in sorted(real.items())) or "no integers"
    detail = f"{nodes} nodes; " + ("; ".join([*wrong, *wrong_nodes]) or total)
    report.check(name, not wrong and not wrong_nodes, detail)


def compare_nodes(forecast: dict, original: onnx.ModelProto, made: onnx.ModelProto) -> tuple[list[str], int]:
    """Nodes whose prediction is wrong, and how many could be compared by their names."""
    count = Counter(node.name for node in original.graph.node)
    runs = {node["node"]: node["runs"] for node in forecast["nodes"] if count[node["node"]] == 1}
    wrong, compared = [], 0
    for node in made.graph.node:
        if node.name not in runs or node.op_type not in INTEGER | FLOAT_KERNELS:
            continue
        compared += 1
        expected = "integer" if node.op_type in INTEGER else "float"
        if runs[node.name] != expected:
            wrong.append(f"`{node.name}` predicted {runs[node.name]}, is {node.op_type}")
    return wrong, compared


def optimized(path: Path, layout: bool = True) -> onnx.ModelProto:
    """The graph that the runtime makes of a model, with or without the pass that chooses layouts."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "optimized.onnx")
        session(path, out, layout)
        return onnx.load(out, load_external_data=False)


def kernels(made: onnx.ModelProto, wanted: frozenset[str]) -> Counter[str]:
    """How often each of these operators stands in the runtime's graph, if it is integers that it works on."""
    types = _types(made.graph)
    constants = {tensor.name for tensor in made.graph.initializer}
    counts: Counter[str] = Counter()
    for node in made.graph.node:
        op = "MaxPool" if node.op_type == "NhwcMaxPool" else node.op_type
        moved = op in MOVES and node.op_type not in INTEGER
        if op in wanted and (not moved or node.input[0] not in constants and types.get(node.input[0]) in CODES):
            counts[op] += 1
    return counts


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element types of values, as far as integers are concerned: the runtime's file declares few."""
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def operand(node: onnx.NodeProto, slot: int) -> int | None:
        return types.get(node.input[slot]) if len(node.input) > slot and node.input[slot] else None

    for node in graph.node:
        match node.op_type:
            case "QuantizeLinear":
                declared = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
                made = operand(node, 2) or declared or TensorProto.UINT8
            case "DequantizeLinear":
                made = operand(node, 1) or TensorProto.FLOAT
            case "DynamicQuantizeLinear":
                made = TensorProto.UINT8
            case "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul":
                made = operand(node, 7) or operand(node, 0)
            case "QLinearConcat":
                made = operand(node, 1)
            case "QLinearWhere":
                made = operand(node, 8) or operand(node, 1)
            case "QGemm":
                made = operand(node, 0) if len(node.input) > 7 and node.input[7] else TensorProto.FLOAT
            case op if op.startswith("QLinear") or op in MOVES or op in ("NhwcMaxPool", "Transpose"):
                made = operand(node, 0)
            case _:
                continue
        if made:
            types.update({output: made for output in node.output if not types.get(output)})
    return types
