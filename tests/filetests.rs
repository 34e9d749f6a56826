//! Filetests: a model as text, what is done to it, and what became of it.
//!
//! `filetests/<pass>/<case>.onnxtxt` is a [`squint::fixture`]: `#!` lines name the passes, and the first
//! comment after them is the intent. The result is the difference that the passes make, in
//! `snapshots/passes/<pass>/<case>.snap`; for `insert-observers`, `plan-quantization` and `plan-weight-blocks`, which change
//! nothing, it is what they decided. Beside that, every case checks that the model is well-formed before and
//! after, and that passes over the float graph do nothing when they run again.
//!
//! `filetests/verify/<case>.onnxtxt` is a text that is wrong: each fault is announced on its line by `#
//! error: words of the message` (or `# warning: …`), and there must be no other fault.
//!
//! Large constants are written as `["location": "gen:randn?seed=1"]` ([`squint::ir::text::generate`]).

use insta::internals::SettingsBindDropGuard;
use similar::{ChangeTag, TextDiff};
use squint::fixture::{Fixture, Outcome};
use squint::ir::text::{self, ExternalRef, PrintOptions, TextError};
use squint::ir::verify::{self, verify};
use squint::ir::{GraphId, Model, Tensor, ValueId};
use squint::passes::pass::Phase;
use squint::passes::pipeline::pass_named;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Constants with more elements are not written out in snapshots.
const ELIDE: usize = 8;
/// A snapshot is read by people.
const MAX_LINES: usize = 60;

#[test]
fn passes() {
    let mut failed = Vec::new();
    let mut snapshots = BTreeSet::new();
    for path in fixtures().into_iter().filter(|p| folder(p) != "verify") {
        snapshots.insert(PathBuf::from(folder(&path)).join(path.with_extension("snap").file_name().unwrap()));
        if catch_unwind(AssertUnwindSafe(|| pass_case(&path))).is_err() {
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
    let root = root().join("snapshots/passes");
    let mut stale = files(&root, "snap");
    stale.retain(|p| !snapshots.contains(p.strip_prefix(&root).unwrap()));
    assert!(stale.is_empty(), "these snapshots belong to no fixture: {stale:#?}");
}

#[test]
fn verifier() {
    let paths: Vec<PathBuf> = fixtures().into_iter().filter(|p| folder(p) == "verify").collect();
    assert!(!paths.is_empty());
    let failed: Vec<String> = paths.iter().flat_map(|p| verify_case(p)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn pass_case(path: &Path) {
    let source = std::fs::read_to_string(path).unwrap();
    let fixture = Fixture::parse(&source, path).unwrap_or_else(|e| panic!("{e}"));
    let pass = folder(path);
    assert!(fixture.passes.contains(&pass), "{}: does not run `{pass}`", path.display());
    let constants = generated(&source);
    let show = |model: &Model, observed: &[ValueId]| shown(model, &constants, observed);

    well_formed(&fixture.model, path, "before the passes");
    let before = show(&fixture.model, &[]);
    let again = fixture.clone();
    let outcome = run(fixture, path);
    well_formed(&outcome.model, path, "after the passes");
    let after = show(&outcome.model, &[]);
    if again.passes.iter().all(|p| pass_named(p).is_some_and(|p| p.needs() <= Phase::Typed)) {
        let twice = run(Fixture { model: outcome.model.clone(), ..again }, path);
        assert_eq!(show(&twice.model, &[]), after, "{}: running again changes the model", path.display());
    }

    let body = match pass.as_str() {
        "insert-observers" => show(&outcome.model, &outcome.observed),
        "plan-quantization" | "plan-weight-blocks" => outcome.plan.to_text(outcome.model.main()),
        _ => difference(&before, &after),
    };
    let notes: String = outcome.notes.iter().map(|n| format!("note: {n}\n")).collect();
    let body = body + &notes;
    let lines = body.lines().count();
    assert!(lines <= MAX_LINES, "{}: a snapshot of {lines} lines; make the fixture smaller", path.display());
    let _settings = settings(path, &source);
    insta::assert_snapshot!(path.file_stem().unwrap().to_str().unwrap(), body);
}

fn run(fixture: Fixture, path: &Path) -> Outcome {
    fixture.run().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn well_formed(model: &Model, path: &Path, when: &str) {
    if let Some(errors) = verify::errors(&verify(model)) {
        panic!("{}: not well-formed {when}:\n{errors}", path.display());
    }
    // What is shown has to be a model, too.
    let printed = text::print(model, &PrintOptions::default());
    let back = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {when}: {e}", path.display()));
    assert!(text::equal(&back, model), "{}: {when}: text does not read back", path.display());
}

/// The model without the types of inner values, generated constants under their formulas.
fn shown(model: &Model, constants: &[(Tensor, String)], observed: &[ValueId]) -> String {
    let location = |t: &Tensor| constants.iter().find(|(c, _)| c == t).map(|(_, location)| location.clone());
    let facts = |g: GraphId, v: ValueId| {
        (g == model.main_id() && observed.contains(&v)).then(|| "observed".to_owned())
    };
    text::print(
        model,
        &PrintOptions {
            elide: Some(ELIDE),
            location: Some(&location),
            facts: Some(&facts),
            hide_types: true,
            ..PrintOptions::default()
        },
    )
}

/// The constants that a text has generated, with their locations.
fn generated(source: &str) -> Vec<(Tensor, String)> {
    let mut all = Vec::new();
    let mut load = |r: &ExternalRef| {
        let tensor = text::generate(r)?;
        all.push((tensor.clone(), r.get("location").unwrap_or_default().to_owned()));
        Ok(tensor)
    };
    text::parse_with(source, &mut load).unwrap_or_else(|e| panic!("{e}"));
    all
}

/// All lines, those that differ marked.
fn difference(before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let sign = |tag| match tag {
        ChangeTag::Delete => '-',
        ChangeTag::Insert => '+',
        ChangeTag::Equal => ' ',
    };
    diff.iter_all_changes().map(|c| format!("{}{c}", sign(c.tag()))).collect()
}

fn settings(path: &Path, source: &str) -> SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("snapshots/passes").join(folder(path)));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(path);
    settings.set_description(intent(source));
    settings.bind_to_scope()
}

/// The first comment that is not a setting.
fn intent(source: &str) -> String {
    let comments = source.lines().skip_while(|l| l.starts_with("#!")).map_while(|l| l.strip_prefix('#'));
    let intent = comments.map(str::trim).collect::<Vec<_>>().join(" ");
    assert!(!intent.is_empty(), "the first comment says what the case is for:\n{source}");
    intent
}

/// What a text announces about a line.
struct Expected<'a> {
    line: usize,
    text: &'a str,
    words: &'a str,
}

fn verify_case(path: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(path).unwrap();
    intent(&source);
    let mut expected: Vec<Expected<'_>> = Vec::new();
    for (i, line) in source.lines().enumerate() {
        for mark in ["# error: ", "# warning: "] {
            if let Some((text, words)) = line.split_once(mark) {
                expected.push(Expected { line: i + 1, text, words });
            }
        }
    }
    let mut failed = Vec::new();
    match text::parse_with(&source, &mut text::generate) {
        Err(error) => {
            take(&mut expected, |e| is_announced(e, &error)).unwrap_or_else(|| failed.push(error.to_string()))
        }
        Ok(model) => {
            for v in verify(&model) {
                // The line is found by a name that the violation mentions.
                let said = format!("{} {}", v.label, v.message);
                let named =
                    |e: &Expected<'_>| said.split('`').skip(1).step_by(2).any(|n| mentions(e.text, n));
                let found = take(&mut expected, |e| said.contains(e.words) && named(e));
                found.unwrap_or_else(|| failed.push(v.to_string()));
            }
        }
    }
    failed.extend(expected.iter().map(|e| format!("line {}: nothing says `{}`", e.line, e.words)));
    failed.into_iter().map(|f| format!("{}: {f}", path.display())).collect()
}

fn is_announced(expected: &Expected<'_>, error: &TextError) -> bool {
    expected.line == error.line && error.message.contains(expected.words)
}

/// True if `name` is a word of `line`.
fn mentions(line: &str, name: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

/// Removes the first element that fits.
fn take<T>(all: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> Option<()> {
    let i = all.iter().position(fits)?;
    all.remove(i);
    Some(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixtures() -> Vec<PathBuf> {
    files(&root().join("tests/filetests"), "onnxtxt")
}

/// Files of the folders in a folder, sorted.
fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let list = |p: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(p).map(|d| d.map(|e| e.unwrap().path()).collect());
        entries.unwrap_or_default()
    };
    let inner = list(root).into_iter().filter(|p| p.is_dir()).flat_map(|p| list(&p));
    let mut all: Vec<PathBuf> = inner.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    all.sort();
    all
}

/// Name of the folder a file is in.
fn folder(path: &Path) -> String {
    path.parent().and_then(Path::file_name).unwrap().to_str().unwrap().to_owned()
}
