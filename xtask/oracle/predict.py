"""Compares squint's prediction of what ONNX Runtime makes of a model with what it makes of it.

The witness is the graph that the runtime writes after all its optimizations. Two things are compared: how often each
integer kernel and each conversion stands in it, and, node by node where names are unique, whether a node became an
integer kernel. Transposes, and conversions that the layout pass puts around them, are left out: where they end up
changes nothing for the operators.
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

from compiler import Squint
from measure import FLOAT_KERNELS, session
from patterns import ROWS
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


TRANSPOSES = "the runtime moves transposes through conversions"
MISSES = {
    "predict/basic_pitch_nmp/qdq": "the runtime writes itself an invalid Transpose",
    "predict/basic_pitch_nmp/qdq-per-channel": "the runtime writes itself an invalid Transpose",
    "predict/basic_pitch_nmp/qdq-signed": "the runtime writes itself an invalid Transpose",
    "predict/dtln_model_2/qdq": TRANSPOSES,
    "predict/dtln_model_2/qdq-signed": TRANSPOSES,
    "predict/mlptiny_ic_resnet8_int8_qdq/qdq-signed": TRANSPOSES,
}
"""Files of another quantizer on which the prediction is wrong, and what is thought to be the cause."""


def check_rows(squint: Squint, folder: Path, report: Report) -> None:
    """Every row of the table: same kernels, or both say that the runtime refuses the model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in ROWS.items():
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
        _check(report, name, foreseen, f"the runtime refuses it, {'foreseen' if foreseen else 'not foreseen'}: {error}")
        return
    original = onnx.load(path, load_external_data=False)
    real = kernels(original, made)
    predicted = Counter(forecast["kernels"])
    for op in uncounted | {"Transpose"}:
        real.pop(op, None)
        predicted.pop(op, None)
    wrong = [f"{op} {predicted[op]} predicted, {real[op]} real" for op in sorted(real | predicted) if real[op] != predicted[op]]
    wrong += [f"refused: {fault['problem']}" for fault in forecast["faults"]]
    # The layout pass renames nodes, so that names are compared before it.
    wrong_nodes, nodes = compare_nodes(forecast, original, optimized(path, layout=False))
    total = ", ".join(f"{n} {op}" for op, n in sorted(real.items())) or "no integers"
    detail = f"{nodes} nodes; " + ("; ".join([*wrong, *wrong_nodes]) or total)
    _check(report, name, not wrong and not wrong_nodes, detail)


def _check(report: Report, name: str, right: bool, detail: str) -> None:
    """A known miss must stay one: a prediction that became right is to be taken off the list."""
    if name in MISSES:
        report.check(name, not right, f"known miss: {MISSES[name]}: {detail}")
    else:
        report.check(name, right, detail)


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


def kernels(original: onnx.ModelProto, made: onnx.ModelProto) -> Counter[str]:
    """How often each integer kernel and each conversion stands in the runtime's graph."""
    names = {node.name for node in original.graph.node}
    makers = {output: node for node in made.graph.node for output in node.output}
    types = _types(made.graph)
    constants = {tensor.name for tensor in made.graph.initializer}
    counts: Counter[str] = Counter()
    for node in made.graph.node:
        if _is_layout(node, names, makers):
            continue
        if node.op_type in INTEGER:
            counts["MaxPool" if node.op_type == "NhwcMaxPool" else node.op_type] += 1
        elif node.op_type in CONVERSIONS:
            counts[node.op_type] += 1
        elif node.op_type in MOVES and node.input[0] not in constants and types.get(node.input[0]) in CODES:
            counts[node.op_type] += 1
    return counts


def _is_layout(node: onnx.NodeProto, names: set[str], makers: dict[str, onnx.NodeProto]) -> bool:
    """A QuantizeLinear that the layout pass put behind a Transpose, or the DequantizeLinear behind that."""
    if node.op_type == "DequantizeLinear":
        before = makers.get(node.input[0])
        return before is not None and before.op_type == "QuantizeLinear" and _is_layout(before, names, makers)
    before = makers.get(node.input[0]) if node.input else None
    made_up = node.name not in names and node.name.split("_token_")[0] == "QuantizeLinear"
    return node.op_type == "QuantizeLinear" and made_up and before is not None and before.op_type == "Transpose"


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
