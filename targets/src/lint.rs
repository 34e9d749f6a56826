//! What a linter finds in a model that somebody else, or squint, has quantized.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The runtime does not load the model, or computes something else than it says.
    Refused,
    /// The model runs, with more conversions or fewer integers than it could.
    Slow,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the rule, in kebab case.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The node it is about.
    pub node: String,
    /// What is wrong: where the runtime has a message of its own, with its words.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}
