//! How good a model is: classes against labels, or a number that the user's own command finds.

use crate::Error;
use crate::interpret::Interpreter;
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_passes::compare::largest;
use squint_passes::pass::PassError;
use std::path::Path;
use std::process::{Command, Stdio};

/// Samples whose label is the best class, or among the best five.
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

/// Runs a classifier, float or quantized, on labelled samples: `labels[i]` is the class of sample `i`. Classes
/// are counted along the last axis of `output`, or of the first output if no name is given.
///
/// # Errors
/// If the model cannot be run, has no such output, or the output has not one row of scores for each label.
pub fn evaluate(
    model: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    labels: &[i64],
    output: Option<&str>,
) -> Result<Score, Error> {
    let interpreter = Interpreter::new(model)?;
    let names: Vec<&str> = {
        let g = interpreter.model().main();
        g.outputs.iter().map(|v| g.value(*v).name()).collect()
    };
    let at = match output {
        None => 0,
        Some(wanted) => names.iter().position(|n| *n == wanted).ok_or_else(|| {
            PassError::Config(format!("there is no output `{wanted}`; there are `{}`", names.join("`, `")))
        })?,
    };
    let mut score = Score::default();
    interpreter.run(executor, samples, &[], |i, outputs| {
        let scores = &outputs[at].1;
        let width = scores.dims().last().copied().unwrap_or(1);
        if !scores.dtype().is_float() || width != scores.len() || width < 2 {
            let shape = scores.dims();
            let what = format!("output `{}` has shape {shape:?}, not one row of class scores", names[at]);
            return Err(PassError::Data(what).into());
        }
        score
            .count(&scores.f32s(), labels[i])
            .map_err(|why| PassError::Data(format!("sample {i}: {why}")))?;
        Ok(())
    })?;
    Ok(score)
}

impl Score {
    fn count(&mut self, row: &[f32], label: i64) -> Result<(), String> {
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
