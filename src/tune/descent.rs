//! The search over methods and schemes: coordinate descent from the default.
//!
//! The space is a product (effort × method of ranges × method of weights × scheme), and what one coordinate does
//! depends little on the others: a method that clips too much does so with rounded weights, too. So one coordinate is
//! tried at a time, from the best point so far, until a round over all of them changes nothing. That takes the sum of
//! the numbers of choices and a second round, not their product; a population (genetic search, particle swarms) would
//! take as many evaluations for its first generation alone ([measured](../../../docs/measuring.md)).

use super::ladder::spent;
use super::trials::{Made, Trials};
use crate::Error;
use squint_passes::calibration::Method;
use squint_passes::calibration::weights::WeightMethod;
use squint_passes::config::{Config, Scheme};

/// Descends within the budget. Returns the point that it ends at.
pub(super) fn descend(trials: &mut Trials<'_>, base: &Config) -> Result<Made, Error> {
    let mut seen = vec![base.clone()];
    let mut best = trials.try_one(&name(base), base)?.ok_or_else(spent)?;
    // The coordinate that was changed last: when all others have changed nothing since, no round is left.
    let mut since = 0;
    for coordinate in COORDINATES.iter().cycle() {
        since += 1;
        let from = best.config.clone();
        for config in coordinate(&from) {
            if seen.contains(&config) {
                continue;
            }
            seen.push(config.clone());
            let Some(made) = trials.try_one(&name(&config), &config)? else { return Ok(best) };
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

/// All neighbours along one coordinate.
type Coordinate = fn(&Config) -> Vec<Config>;

/// What changes most comes first.
const COORDINATES: [Coordinate; 4] = [efforts, methods, weight_methods, schemes];

fn efforts(from: &Config) -> Vec<Config> {
    (0..=2).map(|effort| Config { effort, ..from.clone() }).collect()
}

fn methods(from: &Config) -> Vec<Config> {
    let all = [
        Method::Auto,
        Method::MinMax,
        Method::Entropy,
        Method::Mse,
        Method::Percentile(99.99),
        Method::Percentile(99.9),
    ];
    all.map(|method| Config { method, ..from.clone() }).into()
}

fn weight_methods(from: &Config) -> Vec<Config> {
    let all = [WeightMethod::MinMax, WeightMethod::Mse, WeightMethod::Percentile(99.9)];
    all.map(|weight_method| Config { weight_method, ..from.clone() }).into()
}

fn schemes(from: &Config) -> Vec<Config> {
    [Scheme::Auto, Scheme::Static, Scheme::Dynamic].map(|scheme| Config { scheme, ..from.clone() }).into()
}

/// A point by all its coordinates.
fn name(config: &Config) -> String {
    let Config { effort, method, weight_method, scheme, .. } = config;
    format!("effort {effort}, ranges {method}, weights {weight_method}, {scheme}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_in_one_thing() {
        let base = Config::new("cpu-vnni");
        let all: Vec<_> = COORDINATES.iter().flat_map(|c| c(&base)).filter(|c| *c != base).collect();
        assert_eq!(all.len(), 2 + 5 + 2 + 2);
        assert_eq!(name(&base), "effort 1, ranges auto, weights minmax, auto");
        for config in all {
            let differs = [
                config.effort != base.effort,
                config.method != base.method,
                config.weight_method != base.weight_method,
                config.scheme != base.scheme,
            ];
            assert_eq!(differs.into_iter().filter(|d| *d).count(), 1, "{}", name(&config));
        }
    }
}
