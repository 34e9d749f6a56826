"""The oracle: quantizes real models with squint and asks ONNX Runtime what became of them.

usage: oracle.py --squint BINARY --repository DIR --zoo DIR --work DIR [--quick] [--only NAME] [--torch PYTHON]

Parts: cases (what squint makes of a model), predictions (what squint says the runtime makes of any model) by the name
`predict`, `measuring` (compare and evaluate with either executor), `floats` (random networks), `trained` (networks as tools
of training write them), `exports` (files that these tools wrote), `tensorrt`, `narrow` (half precision, 8-bit floats, weights
and tables in blocks), and `qat`, which needs an interpreter with torch to train.

`cargo xtask oracle` makes the environment, builds the binary and starts this script. Nothing here measures time.
"""

import argparse
import sys
from pathlib import Path

import onnx
import onnx.checker
import onnx.parser

import dynamic
import exports
import floats
import measuring
import narrow
import processor
import qat
import tensorrt
import texts
import trained
from alone import NAME as ALONE, check_alone
from cases import CASES, QUICK_START, Case
from compiler import Squint
from formats import check_both, check_corners, check_forms
from measure import agreement, all_finite, coverage, npz_feeds, operators, sqnr
from peers import peers
from predict import check_model, check_rows
from report import Report
from subjects import QuickStart, Subject, ZooModel

# Float arithmetic in another order differs by its rounding; a steep sigmoid behind it makes that visible.
REWRITTEN_DB = 40.0


PREDICT = "predict"
"""Name of the part that checks predictions."""
FORMAT_SAMPLES = 3
FORMATS = "formats"
"""Names the checks of small models in both formats, as a case of its own."""

SLACK = 0 if processor.vnni() else 3
"""Rows count what pays with VNNI. Without it integers gain half as much, and some contractions are faster in float."""


def main() -> int:
    """Runs the selected cases; 0 if every check passed."""
    arguments = _arguments()
    squint = Squint(arguments.squint)
    report = Report()
    if arguments.only in (None, dynamic.NAME):
        dynamic.check(squint, arguments.work / "models" / dynamic.NAME, report)
    if arguments.only in (None, floats.NAME):
        floats.check(squint, arguments.work / floats.NAME, report)
    if arguments.only in (None, texts.NAME):
        texts.check(squint, arguments.zoo, arguments.work / texts.NAME, report)
    if arguments.only in (None, measuring.NAME):
        measuring.check(squint, arguments.repository, arguments.work / measuring.NAME, report)
    if arguments.only in (None, FORMATS):
        check_forms(squint, arguments.work / "forms", report)
        check_corners(squint, arguments.work / "corners", report)
    if arguments.only in (None, trained.NAME):
        trained.check(squint, arguments.work / "models" / trained.NAME, report)
    if arguments.only in (None, exports.NAME):
        exports.check(squint, arguments.repository, arguments.work / "models" / exports.NAME, report)
    for case in _selected(arguments):
        with report.step(f"{case.name}/run"):
            run_case(case, _subject(case, arguments), squint, arguments.work / "models" / case.name, report)
    if arguments.only in (None, tensorrt.NAME):
        zoo = None if arguments.quick else arguments.zoo
        tensorrt.check(squint, arguments.repository, zoo, arguments.work / tensorrt.NAME, report)
    if arguments.only in (None, narrow.NAME):
        narrow.check(squint, arguments.repository, arguments.work / narrow.NAME, report)
    if arguments.only in (None, qat.NAME):
        torch = arguments.torch or qat.own_torch()
        qat.check(squint, arguments.repository, arguments.work / qat.NAME, torch, report)
    if arguments.only in (None, PREDICT):
        predictions(arguments, squint, report)
    return report.close()


def predictions(arguments: argparse.Namespace, squint: Squint, report: Report) -> None:
    """Patterns one by one, the models of the zoo as they are, and both as ONNX Runtime's quantizer writes them."""
    folder = arguments.work / "predict"
    check_rows(squint, folder / "rows", report)
    models = [arguments.repository / "examples" / "quickstart" / "digits.onnx"]
    if not arguments.quick:
        models += sorted((arguments.zoo / "dev" / "models").glob("*.onnx"))
    for model in models:
        name = f"predict/{model.stem}"
        with report.step(name):
            check_model(name, model, squint, report)
        for form, path in peers(model, folder / model.stem):
            with report.step(f"{name}/{form}"):
                check_model(f"{name}/{form}", path, squint, report)


def run_case(case: Case, subject: Subject, squint: Squint, folder: Path, report: Report) -> None:
    """All checks of one row. An exception (squint refuses, the runtime refuses) ends the row as one failure."""
    quantized = squint.quantize(subject.model, folder / "quantized.onnx", subject.data)
    with report.step(f"{case.name}/checker"):
        onnx.checker.check_model(quantized, full_check=True)
        report.check(f"{case.name}/checker", True, "onnx.checker accepts the file")
    with report.step(f"{case.name}/rewritten"):
        check_rewritten(case, subject, squint.optimize(subject.model, folder / "optimized.onnx"), report)
    check_integers(case, quantized, report)
    with report.step(f"{case.name}/predict"):
        check_model(f"{case.name}/predict", quantized, squint, report)
    check_outputs(case, subject, quantized, report)
    if case.interpreter_db is not None:
        check_interpreter(case, subject, squint, quantized, folder, report)
    if case.alone:
        with report.step(f"{case.name}/{ALONE}"):
            [sample] = subject.feeds(1)
            check_alone(f"{case.name}/{ALONE}", squint, quantized, sample, folder / ALONE, report)
    if case.formats:
        with report.step(f"{case.name}/formats"):
            samples = list(npz_feeds(subject.data, FORMAT_SAMPLES))
            check_both(case.name, squint, quantized, samples, report)
    if case.text:
        for kind, path in (("float", subject.model), ("quantized", quantized)):
            with report.step(f"{case.name}/text-{kind}"):
                check_text(f"{case.name}/text-{kind}", squint.print(path), path, report)
    if case.threads:
        with report.step(f"{case.name}/threads"):
            check_threads(case, subject, squint, folder, report)


def check_integers(case: Case, quantized: Path, report: Report) -> None:
    """The runtime loads the file and executes as many contractions in integers as the row says."""
    name = f"{case.name}/integer" if case.integer is not None else f"{case.name}/loads"
    with report.step(name):
        seen = coverage(quantized)
        least = None if case.integer is None else case.integer - SLACK
        ok = (
            (least is None or seen.integer >= least)
            and (case.max_float is None or seen.floating <= case.max_float + SLACK)
            and (case.max_float_conv is None or seen.float_convs <= case.max_float_conv + SLACK)
        )
        report.check(name, ok, f"{seen}{_at_least(least)}")


def check_rewritten(case: Case, subject: Subject, optimized: Path, report: Report) -> None:
    """The rewritten float model is valid, no larger, and computes the same."""
    onnx.checker.check_model(optimized, full_check=True)
    before, after = (subject.evaluate(model, False) for model in (subject.model, optimized))
    sizes = [operators(onnx.load(model, load_external_data=False).graph).total() for model in (subject.model, optimized)]
    ratio = sqnr(before.outputs, after.outputs)
    detail = f"{sizes[0]} -> {sizes[1]} operators, SQNR {ratio:.2f} dB{_at_least(REWRITTEN_DB)}"
    report.check(f"{case.name}/rewritten", ratio >= REWRITTEN_DB and sizes[1] <= sizes[0], detail)


def check_outputs(case: Case, subject: Subject, quantized: Path, report: Report) -> None:
    """Outputs are finite, close to float, and the score holds."""
    with report.step(f"{case.name}/outputs"):
        scored = case.metric is not None
        before = subject.evaluate(subject.model, scored)
        after = subject.evaluate(quantized, scored)
        ratio = sqnr(before.outputs, after.outputs)
        finite = all_finite(after.outputs)
        detail = f"{len(after.outputs)} runs, {'finite' if finite else 'NaN or infinity'}, SQNR {ratio:.2f} dB"
        report.check(f"{case.name}/outputs", finite, detail)
        if case.sqnr_db is not None:
            report.check(f"{case.name}/sqnr", ratio >= case.sqnr_db, f"{ratio:.2f} dB{_at_least(case.sqnr_db)}")
        if case.metric is not None and case.max_drop is not None:
            was, now = before.score[case.metric], after.score[case.metric]
            ok = was - now <= case.max_drop + 1e-9  # scores are ratios of counts: forgive their rounding
            detail = f"{case.metric} {was:.4f} -> {now:.4f} (drop at most {case.max_drop})"
            report.check(f"{case.name}/score", ok, detail)


def check_interpreter(
    case: Case, subject: Subject, squint: Squint, quantized: Path, folder: Path, report: Report
) -> None:
    """squint's own execution of the quantized file is that of the runtime, when that executes what the file says."""
    name = f"{case.name}/interpreter"
    with report.step(name):
        outputs = squint.interpret(quantized, subject.data, folder / "interpreted")
        ratio = agreement(quantized, outputs, subject.feeds(len(outputs)))
        report.check(name, ratio >= case.interpreter_db, f"{ratio:.1f} dB{_at_least(case.interpreter_db)}")


def check_text(name: str, text: str, path: Path, report: Report) -> None:
    """ONNX's own parser reads what squint prints, and finds the operators of the file."""
    parsed = onnx.parser.parse_model(text)
    onnx.checker.check_model(parsed)
    expected = operators(onnx.load(path, load_external_data=False).graph)
    found = operators(parsed.graph)
    report.check(name, found == expected, f"{found.total()} operators, {len(text)} characters")


def check_threads(case: Case, subject: Subject, squint: Squint, folder: Path, report: Report) -> None:
    """The number of threads does not show in the bytes."""
    one, two = (
        squint.quantize(subject.model, folder / f"threads-{n}" / "quantized.onnx", subject.data, "--threads", str(n))
        for n in (1, 2)
    )
    same = one.read_bytes() == two.read_bytes()
    report.check(f"{case.name}/threads", same, "1 and 2 threads: " + ("same bytes" if same else "bytes differ"))


def _at_least(bound: float | None) -> str:
    return "" if bound is None else f" (at least {bound})"


def _selected(arguments: argparse.Namespace) -> list[Case]:
    """The rows to run; says so when the zoo's are left out."""
    cases = [case for case in CASES if arguments.only in (None, case.name)]
    if arguments.quick or not arguments.zoo.is_dir():
        reason = "--quick" if arguments.quick else f"no folder {arguments.zoo}"
        left_out = [case.name for case in cases if case.name != QUICK_START]
        print(f"skipped {len(left_out)} zoo cases ({reason})", flush=True)
        cases = [case for case in cases if case.name == QUICK_START]
    return cases


def _subject(case: Case, arguments: argparse.Namespace) -> Subject:
    if case.name == QUICK_START:
        return QuickStart(arguments.repository / "examples" / "quickstart")
    return ZooModel(arguments.zoo, case.name, arguments.work / "feeds")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", type=Path, required=True, help="binary under test")
    parser.add_argument("--repository", type=Path, required=True, help="root of the repository")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of zoo models; skipped if it is not there")
    parser.add_argument("--work", type=Path, required=True, help="folder for calibration feeds and quantized files")
    parser.add_argument("--quick", action="store_true", help="the quick-start model only")
    parser.add_argument("--only", metavar="NAME", help="one case, or one part by its name")
    parser.add_argument("--torch", type=Path, metavar="PYTHON", help="interpreter with torch and scikit-learn, for training")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
