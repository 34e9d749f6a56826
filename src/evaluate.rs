//! How good a model is: classes against labels, or a number that the user's own command finds.

use crate::Error;
use crate::interpret::Interpreter;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, Tensor};
use squint_passes::outputs::{Classes, Scale, kinds, largest};
use squint_passes::pass::PassError;
use std::path::Path;
use std::process::{Command, Stdio};

/// Rows whose label is the best class, or among the best five.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Labelled rows.
    pub rows: usize,
    /// Rows whose label is the best class.
    pub top1: usize,
    /// Rows whose label is among the best five.
    pub top5: usize,
}

impl Score {
    /// Share of rows whose label is the best class.
    pub fn top1(self) -> f64 {
        self.top1 as f64 / self.rows.max(1) as f64
    }

    /// Share of rows whose label is among the best five.
    pub fn top5(self) -> f64 {
        self.top5 as f64 / self.rows.max(1) as f64
    }
}

/// Where the classes of a classifier are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvaluateOptions {
    /// The output that holds them; the first, if no name is given.
    pub output: Option<String>,
    /// Their axis, counted from the end if it is negative. By default that of the Softmax that makes the output, else axis 1
    /// of an array of rank 4 and more, and the last one of others.
    pub class_axis: Option<i64>,
}

/// Runs a classifier, float or quantized, on labelled samples. `labels` has a class for each row of classes, sample by
/// sample: one for each sample of a classifier of pictures, one for each pixel of a segmentation, in the order of memory.
/// Rows whose label is negative have none and are not counted.
///
/// # Errors
/// If the model cannot be run, has no such output, or the output has not one row of scores for each label.
pub fn evaluate(
    model: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    labels: &[i64],
    options: &EvaluateOptions,
) -> Result<Score, Error> {
    let interpreter = Interpreter::new(model)?;
    let g = interpreter.model().main();
    let names: Vec<&str> = g.outputs.iter().map(|v| g.value(*v).name()).collect();
    let at = match &options.output {
        None => 0,
        Some(wanted) => names.iter().position(|n| n == wanted).ok_or_else(|| {
            PassError::Config(format!("there is no output `{wanted}`; there are `{}`", names.join("`, `")))
        })?,
    };
    let known = options.class_axis.map(|axis| Classes { axis, scale: Scale::Scores });
    let known = known.or_else(|| kinds(g, None).get(at).and_then(|k| k.classes()));
    let each = labels.len() / samples.len().max(1);
    let mut score = Score::default();
    interpreter.run(executor, samples, &[], |i, outputs| {
        let scores = &outputs[at].1;
        let axis = if scores.rank() >= PLACES { 1 } else { -1 };
        let classes = known.unwrap_or(Classes { axis, scale: Scale::Scores });
        let counted = score.count_all(scores, classes, &labels[i * each..][..each]);
        counted.map_err(|why| PassError::Data(format!("sample {i}, output `{}`: {why}", names[at])))?;
        Ok(())
    })?;
    Ok(score)
}

/// Rank from which channels lie at places.
const PLACES: usize = 4;

impl Score {
    /// Counts the rows of an output.
    ///
    /// # Errors
    /// If there are not as many rows as labels, or a label is no class.
    pub(crate) fn count_all(
        &mut self,
        scores: &Tensor,
        classes: Classes,
        labels: &[i64],
    ) -> Result<(), String> {
        let shape = scores.dims();
        let layout = classes.layout(shape).filter(|_| scores.dtype().is_float());
        let Some((width, _)) = layout else {
            return Err(format!("shape {shape:?} has no scores of classes along axis {}", classes.axis));
        };
        if scores.len() / width != labels.len() {
            let (rows, n) = (scores.len() / width, labels.len());
            return Err(format!(
                "shape {shape:?} has {rows} rows of {width} class scores, for which there are {n} labels"
            ));
        }
        let (mut labels, mut wrong) = (labels.iter(), None);
        classes.rows(scores, scores, |row, _| {
            if let (Some(label), None) = (labels.next(), &wrong) {
                wrong = self.count(row, *label).err();
            }
        });
        wrong.map_or(Ok(()), Err)
    }

    fn count(&mut self, row: &[f32], label: i64) -> Result<(), String> {
        if label < 0 {
            return Ok(());
        }
        let class = usize::try_from(label).ok().filter(|c| *c < row.len());
        let class = class.ok_or_else(|| format!("label {label} is none of the {} classes", row.len()))?;
        self.rows += 1;
        self.top1 += usize::from(largest(row) == class);
        // Of equals, the first counts as better.
        let better = |(i, x): (usize, &f32)| *x > row[class] || (*x == row[class] && i < class);
        self.top5 += usize::from(row.iter().enumerate().filter(|p| better(*p)).count() < 5);
        Ok(())
    }
}

/// Runs a command of the user's on a model in a file: `{}` in the command stands for the path. The last number
/// that it prints is the model's score.
///
/// # Errors
/// If the command fails, or prints no number.
pub fn score_by_command(command: &str, model: &Path) -> Result<f64, Error> {
    let failed = |why: String| PassError::Config(format!("metric command `{command}`: {why}"));
    let path = model.to_str().ok_or_else(|| failed("the model's path is not UTF-8".into()))?;
    let quoted = format!("'{}'", path.replace('\'', r"'\''"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command.replace("{}", &quoted)).stdin(Stdio::null()).stderr(Stdio::inherit());
    let done = shell.output().map_err(|e| failed(e.to_string()))?;
    if !done.status.success() {
        return Err(failed(format!("{}", done.status)).into());
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let number = text.split_whitespace().rev().find_map(|word| word.parse::<f64>().ok());
    let number = number.filter(|x| x.is_finite());
    number.ok_or_else(|| failed("it printed no number".into()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted() {
        let mut s = Score::default();
        let row: Vec<f32> = (0..8).map(|i| i as f32).collect();
        for label in 0..8 {
            s.count(&row, label).unwrap();
        }
        assert_eq!(s, Score { rows: 8, top1: 1, top5: 5 });
        assert!(s.count(&row, 8).unwrap_err().contains("none of the 8 classes"));
        let mut equal = Score::default();
        equal.count(&[0.0; 8], 5).unwrap();
        assert_eq!((equal.top1, equal.top5), (0, 0));
        equal.count(&[0.0; 8], -1).unwrap();
        assert_eq!(equal.rows, 1);
    }

    #[test]
    fn pixels_have_a_label_each() {
        // Of four pixels the second is of class 1.
        let scores = Tensor::from_f32(&[1, 2, 2, 2], &[0.9, 0.1, 0.8, 0.6, 0.1, 0.9, 0.2, 0.4]);
        let classes = Classes { axis: 1, scale: Scale::Scores };
        let mut s = Score::default();
        s.count_all(&scores, classes, &[0, 1, 1, -1]).unwrap();
        assert_eq!((s.rows, s.top1), (3, 2));
        let e = s.count_all(&scores, classes, &[0]).unwrap_err();
        assert_eq!(e, "shape [1, 2, 2, 2] has 4 rows of 2 class scores, for which there are 1 labels");
        let e = s.count_all(&scores, Classes { axis: 0, ..classes }, &[0]).unwrap_err();
        assert_eq!(e, "shape [1, 2, 2, 2] has no scores of classes along axis 0");
    }

    #[test]
    fn the_last_number_that_a_command_prints_is_the_score() {
        let model = Path::new("a b'c.onnx");
        assert_eq!(score_by_command("echo score 7; echo top1 0.5 of {}", model).unwrap(), 0.5);
        let said = |c: &str| score_by_command(c, model).unwrap_err().to_string();
        assert!(said("echo none").contains("printed no number"));
        assert!(said("exit 3").contains("exit status: 3"), "{}", said("exit 3"));
    }
}
