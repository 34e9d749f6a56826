//! The search over methods and schemes: coordinate descent from the default.
//!
//! The space is a product (effort × method of ranges × method of weights × scheme), and what one coordinate does
//! depends little on the others: a method that clips too much does so with rounded weights, too. So one coordinate is
//! tried at a time, from the best point so far, until a round over all of them changes nothing. That takes the sum of
//! the numbers of choices and a second round, not their product; a population (genetic search, particle swarms) would
//! take as many evaluations for its first generation alone ([measured](../../../docs/measuring.md)).

use super::ladder::{effort_name, spent};
use super::trials::{Made, Trials};
use crate::Error;
use squint_passes::calibration::Method;
use squint_passes::calibration::weights::WeightMethod;
use squint_passes::config::{Config, Scheme};

/// Descends within the budget. Returns the point that it ends at.
pub(super) fn descend(trials: &mut Trials<'_>, base: &Config) -> Result<Made, Error> {
    let first = effort_name(base.effort).to_owned();
    let mut seen = vec![base.clone()];
    let mut best = trials.try_one(&first, base)?.ok_or_else(spent)?;
    // The coordinate that was changed last: when all others have changed nothing since, no round is left.
    let mut since = 0;
    for coordinate in COORDINATES.iter().cycle() {
        since += 1;
        let from = best.config.clone();
        for (what, config) in coordinate(&from) {
            if seen.contains(&config) {
                continue;
            }
            seen.push(config.clone());
            let Some(made) = trials.try_one(&what, &config)? else { return Ok(best) };
            if is_better(trials, &made, &best) {
                (best, since) = (made, 0);
            }
        }
        if since >= COORDINATES.len() {
            break;
        }
    }
    Ok(best)
}

/// Whether one model is to be preferred: within the bound the faster one, then the more accurate.
fn is_better(trials: &Trials<'_>, a: &Made, b: &Made) -> bool {
    let order = |m: &Made| match trials.holds(m) {
        true => (1.0, m.speedup, -m.drop),
        false => (0.0, -m.drop, m.speedup),
    };
    order(a) > order(b)
}

/// All neighbours along one coordinate, each with a name.
type Coordinate = fn(&Config) -> Vec<(String, Config)>;

/// What changes most comes first.
const COORDINATES: [Coordinate; 4] = [efforts, methods, weight_methods, schemes];

fn efforts(from: &Config) -> Vec<(String, Config)> {
    let all = (0..=2).filter(|e| *e != from.effort);
    all.map(|effort| (effort_name(effort).to_owned(), Config { effort, ..from.clone() })).collect()
}

fn methods(from: &Config) -> Vec<(String, Config)> {
    let all = [
        Method::Auto,
        Method::MinMax,
        Method::Entropy,
        Method::Mse,
        Method::Percentile(99.99),
        Method::Percentile(99.9),
    ];
    let others = all.into_iter().filter(|m| *m != from.method);
    others.map(|method| (format!("ranges by {method}"), Config { method, ..from.clone() })).collect()
}

fn weight_methods(from: &Config) -> Vec<(String, Config)> {
    let all = [
        ("minmax", WeightMethod::MinMax),
        ("mse", WeightMethod::Mse),
        ("percentile:99.9", WeightMethod::Percentile(99.9)),
    ];
    let others = all.into_iter().filter(|(_, m)| *m != from.weight_method);
    let named =
        others.map(|(name, m)| (format!("weights by {name}"), Config { weight_method: m, ..from.clone() }));
    named.collect()
}

fn schemes(from: &Config) -> Vec<(String, Config)> {
    let all = [Scheme::Auto, Scheme::Static, Scheme::Dynamic].into_iter().filter(|s| *s != from.scheme);
    all.map(|scheme| (format!("scheme {scheme}"), Config { scheme, ..from.clone() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_in_one_thing() {
        let base = Config::new("cpu-vnni");
        let all: Vec<_> = COORDINATES.iter().flat_map(|c| c(&base)).collect();
        assert_eq!(all.len(), 2 + 5 + 2 + 2);
        for (what, config) in all {
            let differs = [
                config.effort != base.effort,
                config.method != base.method,
                config.weight_method != base.weight_method,
                config.scheme != base.scheme,
            ];
            assert_eq!(differs.into_iter().filter(|d| *d).count(), 1, "{what}");
        }
    }
}
