//! `fuse`: rewriting rules that make the float graph smaller or expose integer work.
//!
//! A rule is data: a name, the pattern it replaces as ONNX text, the equation that makes it right (its
//! doc comment), and a function that checks guards and builds the replacement. The laws:
//!
//! - never worse: every rule removes an operator or turns one into a constant;
//! - a rule checks everything before it changes anything;
//! - values that a match swallows are used by nothing else (the matcher sees to that);
//! - many concrete rules rather than a clever general one.
//!
//! One sweep visits operators in execution order, so a rule that looks upwards sees its operands already
//! rewritten; sweeps repeat until nothing changes. Every sweep shrinks the graph, which bounds them.

mod pattern;
mod rewrite;
mod rules;
#[cfg(test)]
mod testing;

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
pub(crate) use pattern::Pattern;
pub(crate) use rewrite::{Miss, Rewrite};
use squint_ir::Model;

/// A rewriting rule.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// Name in kebab case: `--trace-rule`, filetests and provenance spell it so.
    pub(crate) name: &'static str,
    /// What it replaces, in the spellings it has, tried in order; [`Pattern`] has the syntax.
    pub(crate) patterns: &'static [&'static str],
    /// Checks guards and rewrites.
    pub(crate) apply: fn(&mut Rewrite<'_, '_>) -> Result<(), Miss>,
}

/// The pass: all rules.
pub(crate) struct Fuse;

impl Pass for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        apply_all(&rules::all(), model, cx).map(|(changed, _)| changed)
    }
}

/// A rule as a pass of its own. It notes where its pattern fits but a guard does not hold.
pub(crate) fn rule_named(name: &str) -> Option<impl Pass + use<>> {
    rules::all().into_iter().find(|r| r.name == name).map(Single)
}

struct Single(Rule);

impl Pass for Single {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let (changed, misses) = apply_all(&[self.0], model, cx)?;
        for (node, Miss(why)) in misses {
            cx.notes.add(node, format!("{} does not apply: {why}", self.0.name));
        }
        Ok(changed)
    }
}

/// More sweeps than any rule set here needs; a bound against rules that undo each other.
const MAX_SWEEPS: usize = 32;

/// Matches at which a guard did not hold, by the label of their root.
type Misses = Vec<(String, Miss)>;

fn apply_all(rules: &[Rule], model: &mut Model, cx: &mut PassCx<'_>) -> Result<(Changed, Misses), PassError> {
    let compile = |r: &Rule| r.patterns.iter().map(|p| (*r, Pattern::parse(p))).collect::<Vec<_>>();
    let patterns: Vec<(Rule, Pattern)> = rules.iter().flat_map(compile).collect();
    let (mut changed, mut misses) = (false, Misses::new());
    for _ in 0..MAX_SWEEPS {
        InferTypes.run(model, cx)?;
        let mut again = false;
        misses.clear();
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            for (rule, pattern) in &patterns {
                if !model.main().has_op(op) {
                    break;
                }
                let Some(found) = pattern.matches(model.main(), op) else { continue };
                match Rewrite::new(model, cx, rule.name, found).run(rule.apply) {
                    Ok(()) => again = true,
                    Err(miss) if miss == Miss::nothing_to_do() => {}
                    Err(miss) => misses.push((model.main().label(op), miss)),
                }
            }
        }
        changed |= again;
        if !again {
            break;
        }
    }
    Ok((changed.into(), misses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_parse_and_names_are_unique() {
        let mut names: Vec<_> = rules::all().iter().map(|r| r.name).collect();
        for r in rules::all() {
            r.patterns.iter().for_each(|p| drop(Pattern::parse(p)));
            assert!(
                r.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                r.name
            );
        }
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
