"""Shape inference of squint beside that of `onnx.shape_inference`, on the node cases of operators that have a row.

usage: shapes.py --squint BINARY --zoo DIR --work DIR --report FILE [--check]

Each case is stripped of the types of its inner values and results, so that nothing is left but inference; then both
sides say what they find out about each result. The report, Markdown, lists the operators by outcome, and those
without a row. With `--check`, the file is compared with the report instead of written. `cargo xtask shapes` starts
this script.
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
    if arguments.check and not cases:
        print("no node cases, nothing to compare")
        return 0
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda path: _compare(path, arguments), cases))
    outcomes = [item for item in found if isinstance(item, tuple)]
    without_row = Counter(operator for item in found if isinstance(item, list) for operator in item)
    report = _report(outcomes, without_row, len(cases))
    if arguments.check:
        fresh = arguments.report.read_text() == report
        print(f"{arguments.report} is {'fresh' if fresh else 'stale: run `cargo xtask shapes`'}")
    else:
        fresh = True
        arguments.report.write_text(report)
        print(report)
    contradictions = sum(outcome == "contradiction" for _, _, outcome, _ in outcomes)
    failed = contradictions + int(not fresh)
    print(f"{len(outcomes) - contradictions + int(fresh)} passed, {failed} failed")
    return int(failed > 0)


def _compare(path: Path, arguments: argparse.Namespace) -> tuple[str, str, str, str] | list[str]:
    """Operators, case, worst outcome over the results, and detail; or the operators that have no row."""
    model = onnx.load(path)
    operators = sorted({node.op_type for node in model.graph.node})
    results = _strip(model)
    stripped = arguments.work / "stripped" / path.name
    stripped.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, stripped)
    ours = _ours(arguments.squint, stripped)
    if isinstance(ours, list):
        return ours
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


def _ours(squint: Path, path: Path) -> dict[str, Knowledge] | list[str]:
    """What `squint inspect --types` says of each value; or the operators that have no row."""
    command = [squint, "inspect", path, "--types", "--format", "json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return ["(not read)"]
    said = json.loads(done.stdout)
    if said["operators_without_inference"]:
        return said["operators_without_inference"]
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


def _report(outcomes: list, without_row: Counter, cases: int) -> str:
    """Counts, operators by outcome, an example of each that is not equal, and the operators without a row."""
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
    lines += ["", "## without a row", "", "Nothing is inferred of their results; cases that have such an operator:", ""]
    lines.append(", ".join(f"{operator} {count}" for operator, count in sorted(without_row.items())) + ".")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", type=Path, required=True, help="binary under test")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of zoo models")
    parser.add_argument("--work", type=Path, required=True, help="folder for unpacked and stripped models")
    parser.add_argument("--report", type=Path, required=True, help="the file to write")
    parser.add_argument("--check", action="store_true", help="compare the file instead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
