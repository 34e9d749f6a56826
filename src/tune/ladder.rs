//! The ladder: ways to quantize with all in integers that pays, from the least work to the most.
//!
//! The rungs are the efforts of `quantize`, which hold each other: ranges; channels equalised, ranges by what they do
//! to the outputs, biases corrected; weights rounded by the results of their layers. Then come other methods for
//! ranges, which clip more or less than the outputs of a few samples ask for; and last ranges refined one by one, which
//! takes longest.

use super::trials::{Made, Trials};
use crate::Error;
use squint_passes::calibration::Method;
use squint_passes::config::Config;

/// Climbs until a rung meets the bound. Returns the most accurate.
pub(super) fn climb(trials: &mut Trials<'_>, base: &Config) -> Result<Made, Error> {
    let mut best: Option<Made> = None;
    for (what, config) in rungs(base) {
        let Some(made) = trials.try_one(&what, &config)? else { break };
        let holds = trials.holds(&made);
        if best.as_ref().is_none_or(|b| made.drop < b.drop) {
            best = Some(made);
        }
        if holds {
            break;
        }
    }
    best.ok_or_else(spent)
}

/// What is said if there is no budget at all.
pub(super) fn spent() -> Error {
    squint_passes::pass::PassError::Config("a budget of 0 models leaves nothing to try".into()).into()
}

/// What an effort does beyond the one below.
pub(super) fn effort_name(effort: u8) -> &'static str {
    match effort {
        0 => "ranges",
        1 => "channels equalised, biases corrected",
        2 => "weights rounded",
        _ => "ranges refined one by one",
    }
}

fn rungs(base: &Config) -> Vec<(String, Config)> {
    let at = |effort: u8| (effort_name(effort).to_owned(), Config { effort, ..base.clone() });
    let mut rungs: Vec<_> = (base.effort..=base.effort.max(2)).map(at).collect();
    if base.method == Method::Auto {
        for method in [Method::Mse, Method::Percentile(99.99)] {
            let effort = base.effort.max(2);
            rungs.push((format!("ranges by {method}"), Config { method, effort, ..base.clone() }));
        }
    }
    if base.effort < 3 {
        rungs.push(at(3));
    }
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_begin_at_the_effort_that_is_asked_for() {
        let names =
            |base: &Config| rungs(base).into_iter().map(|(what, c)| (what, c.effort)).collect::<Vec<_>>();
        let mut base = Config::new("cpu-vnni");
        base.method = Method::MinMax;
        let expected = [
            ("channels equalised, biases corrected", 1),
            ("weights rounded", 2),
            ("ranges refined one by one", 3),
        ];
        assert_eq!(names(&base), expected.map(|(what, effort)| (what.to_owned(), effort)));
        base.effort = 0;
        assert_eq!(names(&base).len(), 4);
        base.effort = 3;
        assert_eq!(names(&base), [("ranges refined one by one".to_owned(), 3)]);
        base.method = Method::Auto;
        assert!(names(&base)[1..].iter().all(|(what, effort)| what.starts_with("ranges by") && *effort == 3));
    }
}
