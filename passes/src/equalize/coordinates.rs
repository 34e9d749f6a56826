//! Which channels the elements of weights belong to.

use squint_ir::Op;
use std::ops::Range;

/// Which channels of data and result the elements of a weight belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coordinates {
    /// Channels of the data.
    pub(super) inputs: usize,
    /// Channels of the result.
    pub(super) outputs: usize,
    /// Channels of the data that one channel of the result is made from.
    pub(super) fan_in: usize,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// `[outputs, fan in, window]`, so many outputs in a group.
    Conv { window: usize, per_group: usize },
    /// `[outputs, inputs]`
    Rows,
    /// `[inputs, outputs]`
    Columns,
}

impl Coordinates {
    /// Of the weight of a Conv, Gemm or MatMul; `None` if it has a form of its own.
    pub(super) fn new(op: &Op, dims: &[usize]) -> Option<Coordinates> {
        match (op.op_type.as_str(), dims) {
            ("Conv", [outputs, fan_in, window @ ..]) => {
                let groups = usize::try_from(op.int("group").unwrap_or(1)).ok().filter(|g| *g > 0)?;
                (outputs % groups == 0).then_some(())?;
                let form = Form::Conv { window: window.iter().product(), per_group: outputs / groups };
                Some(Coordinates { inputs: fan_in * groups, outputs: *outputs, fan_in: *fan_in, form })
            }
            ("Gemm", [outputs, inputs]) if op.int("transB").unwrap_or(0) != 0 => {
                (op.int("transA").unwrap_or(0) == 0).then_some(Coordinates {
                    inputs: *inputs,
                    outputs: *outputs,
                    fan_in: *inputs,
                    form: Form::Rows,
                })
            }
            ("Gemm" | "MatMul", [inputs, outputs]) => {
                (op.int("transA").unwrap_or(0) == 0).then_some(Coordinates {
                    inputs: *inputs,
                    outputs: *outputs,
                    fan_in: *inputs,
                    form: Form::Columns,
                })
            }
            _ => None,
        }
    }

    /// Each element in its order: its position, the channel of the result and the channel of the data.
    #[inline]
    pub(super) fn each(&self, mut element: impl FnMut(usize, usize, usize)) {
        let mut i = 0;
        let mut next = |output, input| {
            element(i, output, input);
            i += 1;
        };
        match self.form {
            Form::Conv { window, per_group } => {
                for output in 0..self.outputs {
                    let first = output / per_group * self.fan_in;
                    for input in first..first + self.fan_in {
                        (0..window).for_each(|_| next(output, input));
                    }
                }
            }
            Form::Rows => {
                (0..self.outputs).for_each(|output| (0..self.inputs).for_each(|input| next(output, input)));
            }
            Form::Columns => {
                (0..self.inputs).for_each(|input| (0..self.outputs).for_each(|output| next(output, input)));
            }
        }
    }

    /// The squares of the elements of a weight, summed for each input.
    pub(super) fn energies(&self, weight: &[f32]) -> Vec<f64> {
        let mut sums = vec![0f64; self.inputs];
        self.rows(weight, |output, inputs, row| match output {
            Some(_) => {
                let window = row.len() / inputs.len().max(1);
                for (sum, run) in sums[inputs].iter_mut().zip(row.chunks_exact(window.max(1))) {
                    run.iter().for_each(|w| *sum += f64::from(*w).powi(2));
                }
            }
            None => sums[inputs.start] += row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>(),
        });
        sums
    }

    /// The largest magnitude of the weight of each output, if what is multiplied with each input takes its factor.
    pub(super) fn largest(&self, weight: &[f32], factors: &[f64]) -> Vec<f64> {
        let mut largest = vec![0f64; self.outputs];
        self.rows(weight, |output, inputs, row| match output {
            Some(output) => {
                let factors = &factors[inputs];
                largest[output] = match row.len() / factors.len().max(1) {
                    0 => 0.0,
                    1 => largest_of(row, factors),
                    window => {
                        let runs =
                            row.chunks_exact(window).map(|run| run.iter().fold(0f32, |m, w| m.max(w.abs())));
                        runs.zip(factors).fold(0.0, |m, (w, s)| m.max(f64::from(w) * s))
                    }
                };
            }
            None => {
                let factor = factors[inputs.start];
                for (largest, w) in largest.iter_mut().zip(row) {
                    let x = f64::from(w.abs()) * factor;
                    *largest = if x > *largest { x } else { *largest };
                }
            }
        });
        largest
    }

    /// For each input the sum, over the elements of the weight that it is multiplied with, of what their outputs have.
    pub(super) fn of_outputs(&self, outputs: &[f64]) -> Vec<f64> {
        match self.form {
            Form::Conv { window, per_group } => {
                let groups = outputs.chunks_exact(per_group.max(1));
                let sums = groups.map(|group| group.iter().sum::<f64>() * window as f64);
                sums.flat_map(|sum| std::iter::repeat_n(sum, self.fan_in)).collect()
            }
            Form::Rows | Form::Columns => vec![outputs.iter().sum(); self.inputs],
        }
    }

    /// The weight row by row: of one output, with the inputs that it is made from, or, without one, of all outputs and one
    /// input.
    fn rows(&self, weight: &[f32], mut row: impl FnMut(Option<usize>, Range<usize>, &[f32])) {
        let (len, per_group) = match self.form {
            Form::Conv { window, per_group } => (self.fan_in * window, per_group),
            Form::Rows => (self.inputs, self.outputs),
            Form::Columns => {
                let rows = weight.chunks_exact(self.outputs.max(1)).enumerate();
                return rows.for_each(|(input, w)| row(None, input..input + 1, w));
            }
        };
        for (output, w) in weight.chunks_exact(len.max(1)).enumerate() {
            let first = output / per_group * self.fan_in;
            row(Some(output), first..first + self.fan_in, w);
        }
    }
}

/// The largest product of a magnitude and a factor, by several maxima that do not wait for each other.
fn largest_of(weight: &[f32], factors: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut largest = [0f64; LANES];
    for (w, s) in weight.chunks(LANES).zip(factors.chunks(LANES)) {
        for ((largest, w), s) in largest.iter_mut().zip(w).zip(s) {
            let x = f64::from(w.abs()) * s;
            *largest = if x > *largest { x } else { *largest };
        }
    }
    largest.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{Model, OpSpec};

    fn check(spec: OpSpec, dims: &[usize]) {
        let mut m = Model::new("g", 17);
        let op = m.main_mut().add_op(spec);
        let coordinates = Coordinates::new(m.main().op(op), dims).unwrap();
        let weight: Vec<f32> =
            (0..dims.iter().product()).map(|i: usize| ((i * 37) % 101) as f32 - 50.0).collect();
        let factors: Vec<f64> = (0..coordinates.inputs).map(|c| 1.0 + c as f64 / 8.0).collect();
        let of_outputs: Vec<f64> = (0..coordinates.outputs).map(|o| (o + 1) as f64).collect();
        let (mut energies, mut sums) = (vec![0.0; coordinates.inputs], vec![0.0; coordinates.inputs]);
        let mut largest = vec![0f64; coordinates.outputs];
        coordinates.each(|i, o, c| {
            let w = f64::from(weight[i]);
            energies[c] += w * w;
            sums[c] += of_outputs[o];
            largest[o] = largest[o].max(w.abs() * factors[c]);
        });
        assert_eq!(coordinates.energies(&weight), energies);
        assert_eq!(coordinates.largest(&weight, &factors), largest);
        assert_eq!(coordinates.of_outputs(&of_outputs), sums);
    }

    #[test]
    fn rows_say_what_single_elements_say() {
        check(OpSpec::new("Conv"), &[5, 19, 1, 1]);
        check(OpSpec::new("Conv"), &[4, 3, 3, 3]);
        check(OpSpec::new("Conv").attr("group", 2i64), &[6, 3, 2]);
        check(OpSpec::new("Conv").attr("group", 6i64), &[6, 1, 3, 3]);
        check(OpSpec::new("Gemm").attr("transB", 1i64), &[4, 11]);
        check(OpSpec::new("MatMul"), &[11, 4]);
    }
}
