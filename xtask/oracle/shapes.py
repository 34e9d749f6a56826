"""Shape inference of squint beside that of `onnx.shape_inference`, on the node cases of operators that have a row.

usage: shapes.py --squint BINARY --zoo DIR --work DIR --report FILE

Each case is stripped of the types of its inner values and results, so that nothing is left but inference; then both
sides say what they find out about each result. The report, Markdown, lists the operators by outcome.
`cargo xtask shapes` starts this script.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import onnx.shape_inference

from files import unpack_node_cases

TIMEOUT_SECONDS = 60

OUTCOMES = ("equal", "more", "less", "contradiction")
"""Of squint against `onnx`: the same is known, more, less, or the opposite. From good to bad."""

Knowledge = tuple[str | None, tuple | None]
"""Element type, and shape with `None` for a length that is not known; `None` for what is not known at all."""


def main() -> int:
    """Compares all cases; 0 if squint contradicts nowhere."""
    arguments = _arguments()
    cases = sorted(unpack_node_cases(arguments.zoo, arguments.work).rglob("*.onnx"))
    with ThreadPoolExecutor() as pool:
        outcomes = [found for found in pool.map(lambda path: _compare(path, arguments), cases) if found]
    report = _report(outcomes, len(cases))
    arguments.report.write_text(report)
    print(report)
    return int(any(outcome == "contradiction" for _, _, outcome, _ in outcomes))


def _compare(path: Path, arguments: argparse.Namespace) -> tuple[str, str, str, str] | None:
    """Operators, case, worst outcome over the results, and detail; `None` if an operator has no row."""
    model = onnx.load(path)
    operators = sorted({node.op_type for node in model.graph.node})
    results = _strip(model)
    stripped = arguments.work / "stripped" / path.name
    stripped.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, stripped)
    ours = _ours(arguments.squint, stripped)
    if ours is None:
        return None
    theirs = _theirs(model)
    label = ", ".join(operators)
    worst, detail = "equal", ""
    for name in results:
        a, b = ours.get(name, (None, None)), theirs.get(name, (None, None))
        outcome = _judge(a, b)
        if OUTCOMES.index(outcome) > OUTCOMES.index(worst):
            worst, detail = outcome, f"`{name}`: squint {_show(a)}, onnx {_show(b)}"
    return label, path.stem, worst, detail


def _strip(model: onnx.ModelProto) -> list[str]:
    """Removes all types but those of inputs; returns the names of the results whose types are tensors."""
    names = [value.name for value in model.graph.output if value.type.HasField("tensor_type")]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.ClearField("type")
    return names


def _ours(squint: Path, path: Path) -> dict[str, Knowledge] | None:
    """What `squint inspect --types` says of each value; `None` if an operator has no row."""
    command = [squint, "inspect", path, "--types", "--format", "json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return None
    said = json.loads(done.stdout)
    if said["operators_without_inference"]:
        return None
    return {value["name"]: _knowledge(value["dtype"], value["dims"]) for value in said["values"]}


def _theirs(model: onnx.ModelProto) -> dict[str, Knowledge]:
    """What `onnx.shape_inference` adds."""
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return {}
    found = {}
    for value in (*model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            continue
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]
        found[value.name] = _knowledge(name, dims if tensor.HasField("shape") else None)
    return found


def _knowledge(dtype: str | None, dims: list | None) -> Knowledge:
    """Symbols count as unknown: each side invents its own."""
    return dtype, None if dims is None else tuple(dim if isinstance(dim, int) else None for dim in dims)


def _judge(ours: Knowledge, theirs: Knowledge) -> str:
    """The outcome for one result."""
    pairs = [(ours[0], theirs[0])]
    if ours[1] is not None and theirs[1] is not None:
        if len(ours[1]) != len(theirs[1]):
            return "contradiction"
        pairs += zip(ours[1], theirs[1], strict=True)
    else:
        pairs.append((ours[1], theirs[1]))
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return "contradiction"
    if any(a is None and b is not None for a, b in pairs):
        return "less"
    return "more" if any(a is not None and b is None for a, b in pairs) else "equal"


def _show(knowledge: Knowledge) -> str:
    dtype, dims = knowledge
    shape = "[..]" if dims is None else "[" + ",".join("?" if dim is None else str(dim) for dim in dims) + "]"
    return f"{dtype or 'unknown'}{shape}"


def _report(outcomes: list, cases: int) -> str:
    """Counts, operators by outcome, and each case that is not equal."""
    total = Counter(outcome for _, _, outcome, _ in outcomes)
    lines = [
        "# Shape inference against `onnx.shape_inference`",
        "",
        f"Made by `cargo xtask shapes` with onnx {onnx.__version__}: of its {cases} node cases, the"
        f" {len(outcomes)} whose operators all have a row in `ops/src`. Types of results are removed first. `more`:",
        "squint knows a type, a rank or a length that onnx does not; `less`: the other way round.",
        "",
        "| outcome | cases |",
        "|---|---|",
        *(f"| {outcome} | {total[outcome]} |" for outcome in OUTCOMES),
    ]
    for outcome in OUTCOMES[1:]:
        by_operator = defaultdict(list)
        for operator, case, found, detail in outcomes:
            if found == outcome:
                by_operator[operator].append((case, detail))
        if by_operator:
            lines += ["", f"## {outcome}", "", "| operator | cases | for example |", "|---|---|---|"]
            lines += [
                f"| {operator} | {len(found)} | {found[0][0]}: {found[0][1]} |"
                for operator, found in sorted(by_operator.items())
            ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", type=Path, required=True, help="binary under test")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of zoo models")
    parser.add_argument("--work", type=Path, required=True, help="folder for unpacked and stripped models")
    parser.add_argument("--report", type=Path, required=True, help="the file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
