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

/// Decibels by which the error on calibration samples is kept below the bound, where samples held back were worse.
const MARGINS: [f64; 3] = [1.0, 3.0, 6.0];

/// Climbs with the error of the outputs held to `sqnr` dB on calibration samples, by leaving in float what costs most, and
/// to more where the samples held back ask for it; the last rung is the float model, which loses nothing.
pub(super) fn climb_held(trials: &mut Trials<'_>, base: &Config, sqnr: f64) -> Result<(), Error> {
    for (what, config) in held_rungs(base, sqnr.min(MOST)) {
        match trials.try_one(&what, &config)? {
            Some(made) if !trials.holds(&made) => {}
            _ => break,
        }
    }
    Ok(())
}

/// A bound in dB that only float meets.
const MOST: f64 = 200.0;

fn held_rungs(base: &Config, sqnr: f64) -> Vec<(String, Config)> {
    let at = |effort: u8, margin: f64| {
        let what = match margin {
            0.0 => format!("{}, at least {sqnr:.0} dB", effort_name(effort)),
            _ => format!("{}, {margin} dB more", effort_name(effort)),
        };
        // Without effort nothing is measured at the outputs.
        (what, Config { effort, min_sqnr: sqnr + margin, ..base.clone() })
    };
    let first = base.effort.max(1);
    let mut rungs: Vec<_> = (first..=first.max(2)).map(|effort| at(effort, 0.0)).collect();
    rungs.extend(MARGINS.map(|margin| at(first, margin)));
    rungs.push(("all in float".to_owned(), Config { keep_float: vec!["*".into()], ..base.clone() }));
    rungs
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
        let held = held_rungs(&base, 20.0);
        assert_eq!(held.iter().map(|(_, c)| c.min_sqnr).collect::<Vec<_>>(), [20.0, 21.0, 23.0, 26.0, 15.0]);
        assert_eq!(held.last().map(|(_, c)| c.keep_float.len()), Some(1));
        assert!(names(&base)[1..].iter().all(|(what, effort)| what.starts_with("ranges by") && *effort == 3));
    }
}
