"""Every model file of the zoo and of the `onnx` package through `squint convert`, judged by `onnx`.

usage: files.py --squint BINARY --zoo DIR --work DIR

What must hold for a file that `onnx.checker` accepts: it is read, and what is written has the same normal form; its
text is read by `onnx.parser`; and what `onnx.printer` writes for it is read by squint. What must hold for any file:
an error is one line and exit status 1, never a panic. `cargo xtask files` starts this script.
"""

import argparse
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.checker
import onnx.parser
import onnx.printer

from normal import normal
from report import Report

TIMEOUT_SECONDS = 60

LARGEST_TEXT = 1 << 20
"""Files above this many bytes are not printed whole: their text is many times as long."""


@dataclass
class Verdict:
    """What became of one file."""

    path: Path
    accepted: bool = False
    """By `onnx.checker`."""
    read: bool = False
    """By squint."""
    done: list[str] = field(default_factory=list)
    """Names of the checks that passed."""
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Checks all files; 0 if nothing was wrong."""
    arguments = _arguments()
    files = _files(arguments)
    with ThreadPoolExecutor() as pool:
        verdicts = list(pool.map(lambda item: _examine(*item, arguments), enumerate(files)))
    report = Report()
    for verdict in verdicts:
        for problem in verdict.problems:
            report.check(str(verdict.path), False, problem)
    report.passed += sum(len(verdict.done) for verdict in verdicts)
    totals = Counter(name for verdict in verdicts for name in verdict.done)
    accepted = [verdict for verdict in verdicts if verdict.accepted]
    print(f"{len(files)} files, {len(accepted)} accepted by onnx.checker, {sum(v.read for v in accepted)} of them read")
    print(", ".join(f"{name} {count}" for name, count in sorted(totals.items())))
    return report.close()


def _examine(number: int, path: Path, arguments: argparse.Namespace) -> Verdict:
    """All checks of one file."""
    verdict = Verdict(path)
    try:
        onnx.checker.check_model(str(path))
        verdict.accepted = True
    except Exception:  # the checker raises whatever it likes; any of it is a no
        pass
    out = arguments.work / f"{number}.onnx"
    try:
        verdict.read = _convert(arguments.squint, path, out, verdict)
        if verdict.read:
            _check_lossless(path, out, verdict)
        if verdict.read and verdict.accepted and path.stat().st_size <= LARGEST_TEXT:
            _check_text(arguments, number, path, verdict)
    except Exception as error:
        verdict.problems.append(f"{type(error).__name__}: {error}")
    return verdict


def _convert(squint: Path, path: Path, out: Path, verdict: Verdict) -> bool:
    """Converts a file; whether squint read it. A refusal of what the checker accepts is a problem."""
    command = [squint, "convert", path, "-o", out, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return True
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if done.returncode != 1 or len(errors) != 1 or len(lines) > 2:
        verdict.problems.append(f"exit {done.returncode}, {len(lines)} lines: {done.stderr}")
    elif verdict.accepted:
        verdict.problems.append(f"refused: {errors[0]}")
    else:
        verdict.done.append("refused in one line")
    return False


def _check_lossless(path: Path, out: Path, verdict: Verdict) -> None:
    """The two files have the same normal form."""
    before = normal(onnx.load(path, load_external_data=False), path.parent)
    after = normal(onnx.load(out, load_external_data=False), out.parent)
    if before == after:
        verdict.done.append("lossless")
    elif verdict.accepted:
        verdict.problems.append(f"not the same: {_difference(before, after)}")
    else:
        # The nodes of what the checker refuses may be out of order: then they are sorted.
        before.graph.node.sort(key=lambda node: node.SerializeToString(deterministic=True))
        after.graph.node.sort(key=lambda node: node.SerializeToString(deterministic=True))
        verdict.done.append("lossless but for order") if before == after else verdict.problems.append(
            f"not the same, though the checker refuses it: {_difference(before, after)}"
        )


def _check_text(arguments: argparse.Namespace, number: int, path: Path, verdict: Verdict) -> None:
    """Texts are read on both sides."""
    text = arguments.work / f"{number}.onnxtxt"
    if _convert(arguments.squint, path, text, verdict):
        try:
            onnx.parser.parse_model(text.read_text())
            verdict.done.append("text read by onnx.parser")
        except onnx.parser.ParseError as error:
            if _has_unspeakable_names(onnx.load(path, load_external_data=False).graph):
                verdict.done.append("text with names that onnx.parser has no quotes for")
            else:
                verdict.problems.append(f"onnx.parser: {error}")
    theirs = arguments.work / f"{number}-theirs.onnxtxt"
    theirs.write_text(onnx.printer.to_text(onnx.load(path)))
    if _convert(arguments.squint, theirs, arguments.work / f"{number}-theirs.onnx", verdict):
        verdict.done.append("text of onnx.printer read")


def _has_unspeakable_names(graph: onnx.GraphProto) -> bool:
    """Whether a body has a name that is no identifier: the syntax has no quotes for it."""
    bodies = [body for node in graph.node for attribute in node.attribute for body in (attribute.g, *attribute.graphs)]
    return any((body.name and not body.name.isidentifier()) or _has_unspeakable_names(body) for body in bodies)


def _difference(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """The first lines that differ."""
    pairs = zip(str(before).splitlines(), str(after).splitlines(), strict=False)
    return next((f"`{a.strip()}` became `{b.strip()}`" for a, b in pairs if a != b), "one is longer")


def _files(arguments: argparse.Namespace) -> list[Path]:
    """The models of the zoo, unpacked where they are packed, and those of the package."""
    dev = arguments.zoo / "dev"
    package = Path(onnx.__file__).parent / "backend" / "test" / "data"
    folders = (unpack_node_cases(arguments.zoo, arguments.work), dev / "parser", dev / "models", package)
    return [path for folder in folders for path in sorted(folder.rglob("*.onnx"))]


def unpack_node_cases(zoo: Path, work: Path) -> Path:
    """The folder of the models of `onnx`'s node tests, which the zoo keeps in an archive."""
    folder = work / "node"
    archive = zoo / "dev" / "parser" / "onnx_node.tar.gz"
    if archive.is_file() and not folder.is_dir():
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", type=Path, required=True, help="binary under test")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of zoo models")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is written")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
