//! `fuse`: rewriting rules that make the float graph smaller or expose integer work.
//!
//! A rule is data: a name, the equation that makes it right (its doc comment), the patterns it replaces and
//! what it makes of them as ONNX text, and a function that checks guards and builds the replacement;
//! [`reference`] prints them all. The laws:
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
pub(crate) mod testing;

use crate::infer_types::InferTypes;
use crate::optimize_bodies::for_each_body;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::report::Note;
pub(crate) use pattern::{NearMiss, Pattern};
pub(crate) use rewrite::{Miss, Rewrite};
pub(crate) use rules::clamp::limits;
use squint_ir::{Model, OpId, ValueId};

/// A rewriting rule.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// Name in kebab case: `--trace-rule`, filetests and provenance spell it so.
    pub(crate) name: &'static str,
    /// The equation that makes it right, with where it holds: Markdown.
    pub(crate) law: &'static str,
    /// What it replaces, in the spellings it has, tried in order; [`Pattern`] has the syntax.
    pub(crate) patterns: &'static [&'static str],
    /// What it makes of them, for people: `y = Gemm (x, w, b')`.
    pub(crate) becomes: &'static str,
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
        let kept = |r: &Rule| {
            cx.config.keeps_batch_normalization() && r.name.starts_with("fold-batch-normalization")
        };
        let rules: Vec<Rule> = rules::all().filter(|r| !kept(r)).collect();
        apply_all(&rules, model, cx).map(|(changed, _)| changed)
    }
}

/// A rule as a pass of its own. It notes where its pattern fits but a guard does not hold.
pub(crate) fn rule_named(name: &str) -> Option<impl Pass + use<>> {
    rules::all().find(|r| r.name == name).map(Single)
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

/// The error where there is no rule of a name.
pub(crate) fn no_such_rule(name: &str) -> PassError {
    let known: Vec<&str> = rules::all().map(|r| r.name).collect();
    PassError::Config(format!("there is no rule `{name}`; there are {}", known.join(", ")))
}

/// Where a rule nearly applies, in the main graph and in bodies: every operator at which a pattern begins to
/// fit (its last operator is the right one), with the reason why it goes no further, or the guard that does not
/// hold. Of several patterns, the one that comes furthest speaks.
///
/// # Errors
/// If there is no such rule, or a graph has a cycle.
pub(crate) fn near_misses(
    name: &str,
    model: &mut Model,
    cx: &mut PassCx<'_>,
) -> Result<Vec<Note>, PassError> {
    let rule = rules::all().find(|r| r.name == name).ok_or_else(|| no_such_rule(name))?;
    let mut found = Vec::new();
    near_misses_in(&rule, model, cx, &mut found)?;
    let main = model.main_id();
    for_each_body(model, cx, main, &mut |model, cx| {
        near_misses_in(&rule, model, cx, &mut found)?;
        Ok(false)
    })?;
    Ok(found)
}

fn near_misses_in(
    rule: &Rule,
    model: &mut Model,
    cx: &mut PassCx<'_>,
    found: &mut Vec<Note>,
) -> Result<(), PassError> {
    let patterns: Vec<Pattern> = rule.patterns.iter().map(|p| Pattern::parse(p)).collect();
    InferTypes.run(model, cx)?;
    for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
        let mut nearest: Option<NearMiss> = None;
        let mut guard = None;
        for pattern in &patterns {
            match pattern.matches(model.main(), op) {
                // On a copy: the rule might still apply.
                Ok(m) => match Rewrite::new(&mut model.clone(), cx, rule.name, m).run(rule.apply) {
                    Ok(()) => guard = Some("it applies".to_owned()),
                    Err(Miss(why)) => guard = guard.or(Some(why)),
                },
                Err(miss) => {
                    let nearer = |a: NearMiss, b: NearMiss| if b.depth > a.depth { b } else { a };
                    nearest = [nearest, miss].into_iter().flatten().reduce(nearer);
                }
            }
        }
        let why = guard.or_else(|| nearest.map(|n| n.explain(model.main())));
        if let Some(message) = why.filter(|w| !w.is_empty()) {
            found.push(Note { place: model.main().label(op), message });
        }
    }
    Ok(())
}

/// Every rule with its law, as Markdown: what `docs/rewrites.md` holds.
pub fn reference() -> String {
    let mut text = String::from(REFERENCE_HEAD);
    for family in rules::FAMILIES {
        text += &format!("\n## {}\n", family.title);
        for rule in family.rules {
            let law: Vec<&str> = rule.law.lines().map(str::trim).collect();
            text += &format!("\n### {}\n\n{}\n\n```text\n", rule.name, law.join("\n"));
            for pattern in rule.patterns {
                text += &format!("{pattern}\n");
            }
            text += &format!("=> {}\n```\n", rule.becomes);
        }
    }
    text
}

const REFERENCE_HEAD: &str = "\
# Rewriting rules

Made from the rules in `passes/src/fuse/rules`; a test keeps it so. Each rule has a law, one pattern or more, and what
it makes of them. The last operator of a pattern is where matching begins. `A|B` are alternatives, `x!` is a constant,
`x?` an operand that may be missing; a result that is used elsewhere, too, stops a rule, unless it is marked `x&`. Add,
Mul, Max and Min commute. Primed constants are computed; `y = x` says that nothing is left.

Only float32 constants are computed with; symbols and unknown lengths stop a rule where it needs lengths. Why a rule
does not apply somewhere is told by `squint optimize MODEL --trace-rule NAME`.
";

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
                let Ok(found) = pattern.matches(model.main(), op) else { continue };
                if let Some(v) = swallowed(model, cx, &found) {
                    let name = model.main().value(v).name();
                    misses.push((model.main().label(op), Miss(format!("`{name}` is quantized between"))));
                    continue;
                }
                match Rewrite::new(model, cx, rule.name, found).run(rule.apply) {
                    Ok(()) => {
                        again = true;
                        *cx.rewrites.entry(rule.name).or_default() += 1;
                    }
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

/// A value inside of a match whose grid is given and would be lost.
fn swallowed(model: &Model, cx: &PassCx<'_>, found: &pattern::Match) -> Option<ValueId> {
    let inner = found.ops.split_last()?.1;
    let ops: Vec<OpId> = inner.iter().map(|(_, op)| *op).collect();
    cx.frozen.as_ref()?.swallowed(model.main(), &ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_parse_and_names_are_unique() {
        let mut names: Vec<_> = rules::all().map(|r| r.name).collect();
        for r in rules::all() {
            r.patterns.iter().for_each(|p| drop(Pattern::parse(p)));
            assert!(!r.law.trim().is_empty() && r.becomes.contains("y = "), "{}", r.name);
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
