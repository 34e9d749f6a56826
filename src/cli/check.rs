//! Everything that is wrong with a model, for `squint inspect --check`.

use super::failure::Failure;
use super::inferred;
use super::model_file::Input;
use squint::ir::diagnostic::Diagnostic;
use squint::ir::verify::{Severity, verify};
use squint::{LoadProblem, Model};

/// One thing that is wrong.
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// In one line.
    pub(crate) line: String,
    /// For people, over several lines where an operator is drawn.
    pub(crate) drawn: String,
}

/// Reads the model as far as it can be read, and says what is wrong: with the file, with the graph, and, if the graph
/// is sound, with the shapes of operands that contradict each other.
///
/// # Errors
/// If there is nothing to be read.
pub(crate) fn examine(input: &Input) -> Result<(Model, Vec<Finding>), Failure> {
    let examined = input.examine()?;
    let mut model = examined.model;
    // The verifier finds the operators that use names without a source, too, and draws them.
    let problems = examined.problems.iter().filter(|p| !matches!(p, LoadProblem::Undefined { .. }));
    let mut found: Vec<Finding> = problems.map(|p| plain(Severity::Error, "Q0002", p.to_string())).collect();
    found.extend(examined.notes.into_iter().map(|n| plain(Severity::Warning, "Q0003", n)));
    found.extend(verify(&model).into_iter().map(|v| Finding {
        severity: v.severity,
        line: v.to_string(),
        drawn: v.diagnostic(&model).to_string(),
    }));
    if errors(&found) == 0 {
        let (_, notes) = inferred::infer(&mut model)?;
        found.extend(notes.into_iter().map(|n| plain(Severity::Warning, "Q0004", n.to_string())));
    }
    Ok((model, found))
}

/// How many of them are errors.
pub(crate) fn errors(found: &[Finding]) -> usize {
    found.iter().filter(|f| f.severity == Severity::Error).count()
}

fn plain(severity: Severity, code: &'static str, message: String) -> Finding {
    let drawn = Diagnostic::new(severity, code, message.clone()).to_string();
    Finding { severity, line: format!("{severity}: {message}"), drawn }
}
