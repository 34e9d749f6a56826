//! How much worse than float a quantized model is, on samples that it was not made with.

use crate::interpret::Interpreter;
use crate::{Error, score_by_command};
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, Tensor};
use squint_passes::compare::{Meaning, OutputError, largest, mean_error, meanings};
use squint_passes::pass::PassError;

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// Accuracy that is expected to be lost if labels are as probable as the float model says: a row that changes
    /// from a class of 40 % to one of 35 % loses 0.05.
    Accuracy,
    /// Share of rows whose best class changes: the most accuracy that can be lost, whatever the labels.
    Agreement,
    /// Energy of the difference over energy of the float outputs: 1 % is 20 dB.
    Sqnr,
    /// Accuracy on labels, one for each sample.
    Top1(Vec<i64>),
    /// The last number that a command prints; higher is better. The drop is relative to float.
    Command(String),
}

/// A judge who knows what the float model says.
pub(super) struct Judge<'a> {
    metric: &'a Metric,
    executor: &'a dyn Execute,
    samples: &'a dyn Samples,
    meanings: Vec<Meaning>,
    reference: Vec<Vec<Tensor>>,
    /// Score of the float model, where there is one.
    score: f64,
}

impl<'a> Judge<'a> {
    /// Runs the float model on the samples; `labels` of [`Metric::Top1`] belong to these samples.
    pub(super) fn new(
        float: &Model,
        metric: &'a Metric,
        executor: &'a dyn Execute,
        samples: &'a dyn Samples,
    ) -> Result<Judge<'a>, Error> {
        let meanings = meanings(float);
        let mut judge = Judge { metric, executor, samples, meanings, reference: Vec::new(), score: 0.0 };
        if let Metric::Command(command) = metric {
            judge.score = by_command(command, float)?;
            return Ok(judge);
        }
        judge.reference = judge.outputs(float)?;
        judge.score = judge.top1(&judge.reference);
        if matches!(metric, Metric::Accuracy | Metric::Agreement)
            && judge.meanings.iter().all(|m| *m == Meaning::Numbers)
        {
            let what = "this metric needs an output of class scores or probabilities; use the metric sqnr";
            return Err(PassError::Config(what.into()).into());
        }
        Ok(judge)
    }

    /// The metric that suits a model: expected accuracy for a classifier, else the error of the outputs.
    pub(super) fn natural(float: &Model) -> Metric {
        match meanings(float)[..] {
            [Meaning::Scores | Meaning::Probabilities] => Metric::Accuracy,
            _ => Metric::Sqnr,
        }
    }

    /// How much worse a model is: 0 is as good as float, 0.01 is a loss of one percent.
    pub(super) fn drop(&self, model: &Model) -> Result<f64, Error> {
        if let Metric::Command(command) = self.metric {
            let score = by_command(command, model)?;
            return Ok((self.score - score) / self.score.abs().max(f64::MIN_POSITIVE));
        }
        let outputs = self.outputs(model)?;
        Ok(match self.metric {
            Metric::Accuracy => self.worst(&outputs, Rows::lost_accuracy),
            Metric::Agreement => self.worst(&outputs, Rows::share_of_flips),
            Metric::Top1(_) => self.score - self.top1(&outputs),
            _ => self.error(&outputs),
        })
    }

    fn outputs(&self, model: &Model) -> Result<Vec<Vec<Tensor>>, Error> {
        let mut all = Vec::with_capacity(self.samples.len());
        Interpreter::new(model)?.run(self.executor, self.samples, &[], |_, outputs| {
            all.push(outputs.into_iter().map(|(_, t)| t).collect());
            Ok(())
        })?;
        Ok(all)
    }

    fn error(&self, outputs: &[Vec<Tensor>]) -> f64 {
        let mut sums: Vec<Option<OutputError>> = vec![None; self.meanings.len()];
        for (x, y) in self.reference.iter().zip(outputs) {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                if let Some(more) = OutputError::between(x, y, Meaning::Numbers) {
                    sums[i].get_or_insert_default().add(&more);
                }
            }
        }
        mean_error(&sums)
    }

    /// A measure of rows of classes; of several outputs the worst.
    fn worst(&self, outputs: &[Vec<Tensor>], measure: fn(&Rows) -> f64) -> f64 {
        let classes = self.meanings.iter().enumerate().filter(|(_, m)| **m != Meaning::Numbers);
        let share = |(i, meaning): (usize, &Meaning)| {
            let mut rows = Rows::default();
            for (x, y) in self.reference.iter().zip(outputs) {
                rows.take(&x[i], &y[i], *meaning);
            }
            measure(&rows)
        };
        classes.map(share).fold(0.0, f64::max)
    }

    fn top1(&self, outputs: &[Vec<Tensor>]) -> f64 {
        let Metric::Top1(labels) = self.metric else { return 0.0 };
        let right = |(o, label): (&Vec<Tensor>, &i64)| {
            o.first().is_some_and(|t| usize::try_from(*label).is_ok_and(|l| largest(&t.f32s()) == l))
        };
        outputs.iter().zip(labels).filter(|p| right((p.0, p.1))).count() as f64 / labels.len().max(1) as f64
    }
}

/// The score of a model by a command, in a file of its own while the command runs.
fn by_command(command: &str, model: &Model) -> Result<f64, Error> {
    let failed =
        |e: std::io::Error| PassError::Config(format!("a temporary file for the metric command: {e}"));
    let dir = tempfile::tempdir().map_err(failed)?;
    let path = dir.path().join("model.onnx");
    crate::save(model, &path)?;
    score_by_command(command, &path)
}

/// Rows from which flips are counted. Below, one row more or less would decide.
const ENOUGH_ROWS: usize = 1000;
/// Classes next to the best that may take its place.
const RIVALS: usize = 4;

/// Rows of class scores, in float and quantized.
///
/// Few rows tell little if only flips are counted: of 30, one is 3 %. But each row also tells by how much its best
/// class leads, and all rows together how much a lead changes by quantization; from both follows how probable a flip
/// is in each row, changes taken as normally distributed around zero.
#[derive(Default)]
struct Rows {
    n: usize,
    flipped: usize,
    /// Probability given up by the rows that flipped.
    lost: f64,
    /// Leads of the best class over its rivals in scores and in probability, row by row.
    leads: Vec<Vec<(f64, f64)>>,
    /// Sum of the squares of their changes, and their number.
    changes: (f64, usize),
}

impl Rows {
    fn take(&mut self, x: &Tensor, y: &Tensor, meaning: Meaning) {
        let width = x.dims().last().copied().unwrap_or(1);
        if width < 2 || x.dims() != y.dims() {
            return;
        }
        // Leads of probabilities are ratios: those of their logarithms are what noise adds to.
        let score = |x: f32| match meaning {
            Meaning::Probabilities => f64::from(x.max(f32::MIN_POSITIVE)).ln(),
            _ => f64::from(x),
        };
        for (x, y) in x.f32s().chunks_exact(width).zip(y.f32s().chunks_exact(width)) {
            let best = largest(x);
            let p = probabilities(x, meaning);
            self.n += 1;
            self.flipped += usize::from(largest(y) != best);
            self.lost += p[best] - p[largest(y)];
            let mut rivals: Vec<usize> = (0..width).filter(|i| *i != best).collect();
            rivals.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
            rivals.truncate(RIVALS);
            let lead = |row: &[f32], rival: usize| score(row[best]) - score(row[rival]);
            for rival in &rivals {
                self.changes.0 += (lead(y, *rival) - lead(x, *rival)).powi(2);
                self.changes.1 += 1;
            }
            self.leads.push(rivals.iter().map(|r| (lead(x, *r), p[best] - p[*r])).collect());
        }
    }

    fn share_of_flips(&self) -> f64 {
        if self.n >= ENOUGH_ROWS || self.changes.0 == 0.0 {
            return self.flipped as f64 / self.n.max(1) as f64;
        }
        let deviation = self.deviation();
        let stays = |leads: &Vec<(f64, f64)>| {
            leads.iter().map(|(l, _)| 1.0 - upper_tail(l / deviation)).product::<f64>()
        };
        self.leads.iter().map(|l| 1.0 - stays(l)).sum::<f64>() / self.n.max(1) as f64
    }

    fn lost_accuracy(&self) -> f64 {
        if self.n >= ENOUGH_ROWS || self.changes.0 == 0.0 {
            return self.lost / self.n.max(1) as f64;
        }
        let deviation = self.deviation();
        let lost =
            |leads: &Vec<(f64, f64)>| leads.iter().map(|(l, p)| upper_tail(l / deviation) * p).sum::<f64>();
        self.leads.iter().map(lost).sum::<f64>() / self.n.max(1) as f64
    }

    /// Standard deviation of the change of a lead.
    fn deviation(&self) -> f64 {
        (self.changes.0 / self.changes.1 as f64).sqrt()
    }
}

/// The probabilities of classes.
fn probabilities(row: &[f32], meaning: Meaning) -> Vec<f64> {
    let row = row.iter().map(|x| f64::from(*x));
    if meaning == Meaning::Probabilities {
        return row.collect();
    }
    let top = row.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.clone().map(|x| (x - top).exp()).sum();
    row.map(|x| (x - top).exp() / sum).collect()
}

/// P(X > z) of a standard normal variable, to within 1e-7 (Abramowitz and Stegun, 26.2.17).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_tail() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.158_655), (-1.0, 0.841_345), (3.0, 0.001_35)] {
            assert!((upper_tail(z) - p).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn flips_are_expected_from_leads_where_rows_are_few() {
        let row = |x: [f32; 2]| Tensor::from_f32(&[1, 2], &x);
        let mut rows = Rows::default();
        // A wide lead, and a narrow one; noise of one.
        rows.take(&row([10.0, 0.0]), &row([9.0, 0.0]), Meaning::Scores);
        rows.take(&row([1.0, 0.0]), &row([2.0, 0.0]), Meaning::Scores);
        assert_eq!((rows.n, rows.flipped), (2, 0));
        assert!((rows.share_of_flips() - 0.158_655 / 2.0).abs() < 1e-6);
        // Of the narrow row 0.73 - 0.27 would be lost.
        assert!((rows.lost_accuracy() - 0.158_655 / 2.0 * 0.462_117).abs() < 1e-5);
        let same = Rows { n: 3, ..Rows::default() };
        assert_eq!(same.share_of_flips(), 0.0);
    }
}
