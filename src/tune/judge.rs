//! How much worse than float a quantized model is, on samples that it was not made with.

use crate::interpret::Interpreter;
use crate::{Error, Score, score_by_command};
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, Tensor, ValueId};
use squint_passes::config::Config;
use squint_passes::outputs::{Classes, Expected, Kind, OutputErrors, Scale, kinds, kinds_as_classes};
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
    /// Accuracy on labels, as many for each sample as the output has rows of classes, sample by sample.
    Top1(Vec<i64>),
    /// The last number that a command prints; higher is better. The drop is relative to float.
    Command(String),
}

/// A judge who knows what the float model says.
pub(super) struct Judge<'a> {
    metric: &'a Metric,
    executor: &'a dyn Execute,
    samples: &'a dyn Samples,
    kinds: Vec<Kind>,
    /// What the float model says of each sample.
    reference: Vec<Vec<Tensor>>,
    /// Of each output what the float model says of other samples.
    leads: Vec<Expected>,
    /// Score of the float model, where there is one.
    score: f64,
}

impl<'a> Judge<'a> {
    /// Runs the float model on the samples, and, where that tells more of its classes, on `others`; labels of
    /// [`Metric::Top1`] belong to `samples`.
    pub(super) fn new(
        float: &Model,
        metric: &'a Metric,
        executor: &'a dyn Execute,
        samples: &'a dyn Samples,
        others: &dyn Samples,
        config: &Config,
    ) -> Result<Judge<'a>, Error> {
        let mut judge = Judge {
            metric,
            executor,
            samples,
            kinds: Vec::new(),
            reference: Vec::new(),
            leads: Vec::new(),
            score: 0.0,
        };
        if let Metric::Command(command) = metric {
            judge.score = by_command(command, float)?;
            return Ok(judge);
        }
        let interpreter = Interpreter::new(float)?;
        let g = interpreter.model().main();
        let of_classes = *metric != Metric::Sqnr;
        judge.kinds = if of_classes { kinds_as_classes(g, config.class_axis) } else { kinds(g, None) };
        if of_classes && judge.kinds.iter().all(|k| *k == Kind::Numbers) {
            let what = "this metric needs an output of class scores or probabilities; use the metric sqnr, or name \
                        their axis (`--class-axis`)";
            return Err(PassError::Config(what.into()).into());
        }
        interpreter.run(executor, samples, &[], |_, outputs| {
            judge.reference.push(outputs.into_iter().map(|(_, t)| t).collect());
            Ok(())
        })?;
        if let Metric::Top1(labels) = metric {
            let mut right = Right::new(&judge.kinds, labels, samples.len())?;
            judge.reference.iter().enumerate().try_for_each(|(i, outputs)| right.count(i, outputs))?;
            judge.score = right.share();
        }
        if matches!(metric, Metric::Accuracy | Metric::Agreement) {
            judge.leads = vec![Expected::default(); judge.kinds.len()];
            interpreter.run(executor, others, &[], |_, outputs| {
                let known = judge.leads.iter_mut().zip(&judge.kinds).zip(outputs);
                for ((leads, kind), (_, x)) in known {
                    kind.classes().into_iter().for_each(|classes| leads.take_float(&x, classes));
                }
                Ok(())
            })?;
        }
        Ok(judge)
    }

    /// The metric that suits a model: expected accuracy for a classifier, else the error of the outputs. Scores of the steps of
    /// a sequence are read as a distribution, not for the best of them, so that their error counts.
    pub(super) fn natural(float: &Model, config: &Config) -> Result<Metric, Error> {
        let interpreter = Interpreter::new(float)?;
        let g = interpreter.model().main();
        let steps = |v: &ValueId| g.ty(*v).and_then(|t| t.shape()).is_none_or(|s| s.len() != 2);
        Ok(match kinds(g, config.class_axis)[..] {
            [Kind::Classes(Classes { scale: Scale::Scores, .. })]
                if config.class_axis.is_none() && g.outputs.iter().any(steps) =>
            {
                Metric::Sqnr
            }
            [Kind::Classes(_)] => Metric::Accuracy,
            _ => Metric::Sqnr,
        })
    }

    /// How much worse a model is: 0 is as good as float, 0.01 is a loss of one percent.
    pub(super) fn drop(&self, model: &Model) -> Result<f64, Error> {
        match self.metric {
            Metric::Command(command) => {
                let score = by_command(command, model)?;
                Ok((self.score - score) / self.score.abs().max(f64::MIN_POSITIVE))
            }
            Metric::Top1(labels) => {
                let mut right = Right::new(&self.kinds, labels, self.samples.len())?;
                self.run(model, |i, outputs| right.count(i, outputs))?;
                Ok(self.score - right.share())
            }
            Metric::Accuracy => self.worst(model, Expected::lost_accuracy),
            Metric::Agreement => self.worst(model, Expected::flips),
            Metric::Sqnr => {
                let mut sums = OutputErrors::new(self.kinds.len());
                let numbers = vec![Kind::Numbers; self.kinds.len()];
                self.run(model, |i, outputs| {
                    sums.add(&OutputErrors::between(&self.reference[i], outputs, &numbers));
                    Ok(())
                })?;
                Ok(sums.mean())
            }
        }
    }

    /// The outputs of a model, one sample after the other.
    fn run(
        &self,
        model: &Model,
        mut each: impl FnMut(usize, &[Tensor]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        Interpreter::new(model)?.run(self.executor, self.samples, &[], |i, outputs| {
            each(i, &outputs.into_iter().map(|(_, t)| t).collect::<Vec<_>>())
        })
    }

    /// A measure of rows of classes; of several outputs the worst.
    fn worst(&self, model: &Model, measure: fn(&Expected) -> f64) -> Result<f64, Error> {
        let mut rows = self.leads.clone();
        self.run(model, |i, outputs| {
            for (output, rows) in rows.iter_mut().enumerate() {
                if let Some(classes) = self.kinds[output].classes() {
                    rows.take(&self.reference[i][output], &outputs[output], classes);
                }
            }
            Ok(())
        })?;
        Ok(rows.iter().map(measure).fold(0.0, f64::max))
    }
}

/// Labels that the first output which is classes gets right.
struct Right<'a> {
    output: usize,
    classes: Classes,
    labels: &'a [i64],
    /// Labels of each sample.
    each: usize,
    score: Score,
}

impl<'a> Right<'a> {
    fn new(kinds: &[Kind], labels: &'a [i64], samples: usize) -> Result<Right<'a>, Error> {
        let first = kinds.iter().enumerate().find_map(|(i, k)| Some((i, k.classes()?)));
        let none = || PassError::Config("top1 needs an output of class scores or probabilities".into());
        let (output, classes) = first.ok_or_else(none)?;
        Ok(Right { output, classes, labels, each: labels.len() / samples.max(1), score: Score::default() })
    }

    fn count(&mut self, sample: usize, outputs: &[Tensor]) -> Result<(), Error> {
        let labels = &self.labels[sample * self.each..][..self.each];
        let failed = |why| PassError::Data(format!("sample {sample}: {why}"));
        Ok(self.score.count_all(&outputs[self.output], self.classes, labels).map_err(failed)?)
    }

    fn share(&self) -> f64 {
        self.score.top1()
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
