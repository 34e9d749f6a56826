//! What the numbers of an output are.

use squint_ir::{Dim, Graph, Op, OpId, Tensor, ValueId};

/// What the numbers of an output are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Numbers that are used as they are, or of which nothing is known.
    Numbers,
    /// Each row says how much speaks for each of some classes.
    Classes(Classes),
}

impl Kind {
    /// How classes are held, if the output is classes.
    pub fn classes(self) -> Option<Classes> {
        match self {
            Kind::Numbers => None,
            Kind::Classes(classes) => Some(classes),
        }
    }
}

/// How an output holds classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Their axis, counted from the end if it is negative. Behind it lie places, as pixels do: each is a row.
    pub axis: i64,
    /// What the numbers are.
    pub scale: Scale,
}

/// What speaks for a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Scores, of which a softmax makes probabilities.
    Scores,
    /// Probabilities.
    Probabilities,
    /// Logarithms of probabilities.
    Logarithms,
}

impl Scale {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Scores => "scores",
            Scale::Probabilities => "probabilities",
            Scale::Logarithms => "logarithms of probabilities",
        }
    }
}

/// Numbers that describe a box.
const BOX: usize = 4;

impl Classes {
    /// The number of classes in an array of these dimensions, and of elements from one to the next of a row. `None` if
    /// there is no such axis, or only one class.
    pub fn layout(self, dims: &[usize]) -> Option<(usize, usize)> {
        let axis = if self.axis < 0 { self.axis + dims.len() as i64 } else { self.axis };
        let axis = usize::try_from(axis).ok()?;
        let classes = *dims.get(axis)?;
        (classes > 1).then(|| (classes, dims[axis + 1..].iter().product()))
    }

    /// All rows of an array with the same rows of another of the same shape, in the order of the memory of an array whose
    /// last axis are the classes.
    pub fn rows(self, x: &Tensor, y: &Tensor, mut each: impl FnMut(&[f32], &[f32])) {
        let Some((classes, inner)) = self.layout(x.dims()) else { return };
        let (x, y) = (x.f32s(), y.f32s());
        if inner == 1 {
            x.chunks_exact(classes).zip(y.chunks_exact(classes)).for_each(|(x, y)| each(x, y));
            return;
        }
        let (mut a, mut b) = (Vec::with_capacity(classes), Vec::with_capacity(classes));
        let fill = |row: &mut Vec<f32>, block: &[f32], at: usize| {
            row.clear();
            row.extend(block[at..].iter().step_by(inner));
        };
        // No block where there is no place.
        let size = (classes * inner).max(1);
        for (x, y) in x.chunks_exact(size).zip(y.chunks_exact(size)) {
            for at in 0..inner {
                fill(&mut a, x, at);
                fill(&mut b, y, at);
                each(&a, &b);
            }
        }
    }

    /// The probability of each class of a row.
    pub fn probabilities(self, row: &[f32]) -> Vec<f64> {
        let row = row.iter().map(|x| f64::from(*x));
        match self.scale {
            Scale::Probabilities => row.collect(),
            Scale::Logarithms => row.map(f64::exp).collect(),
            Scale::Scores => {
                let top = row.clone().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.clone().map(|x| (x - top).exp()).sum();
                row.map(|x| (x - top).exp() / sum).collect()
            }
        }
    }
}

/// Position of the largest element, the first of equals.
pub fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

/// What the outputs of a float graph are, in their order. Softmax and LogSoftmax are known; what a matrix of constant
/// weights gives, and what has rank 2, is scores, unless it is four numbers, which describe a box. An output of which
/// nothing is known is scores along `class_axis`, if it has that axis with several entries, and otherwise numbers.
///
/// Operators are read as those of operator set 13.
pub fn kinds(g: &Graph, class_axis: Option<i64>) -> Vec<Kind> {
    let unknown = |v: ValueId| class_axis.filter(|axis| has_entries(g, v, *axis));
    let one = |v: &ValueId| match classes(g, *v) {
        Some(classes) => Kind::Classes(classes),
        None => {
            unknown(*v).map_or(Kind::Numbers, |axis| Kind::Classes(Classes { axis, scale: Scale::Scores }))
        }
    };
    g.outputs.iter().map(one).collect()
}

/// The same where somebody says that outputs are classes: if none is known to be, those of rank 4 and more are scores along
/// their channels, the axis behind the batch.
pub fn kinds_as_classes(g: &Graph, class_axis: Option<i64>) -> Vec<Kind> {
    let mut found = kinds(g, class_axis);
    if found.iter().all(|k| *k == Kind::Numbers) {
        for (kind, v) in found.iter_mut().zip(&g.outputs) {
            let rank = g.ty(*v).and_then(|t| t.shape()).map_or(0, Vec::len);
            if rank >= PLACES && has_entries(g, *v, 1) {
                *kind = Kind::Classes(Classes { axis: 1, scale: Scale::Scores });
            }
        }
    }
    found
}

/// Rank from which channels lie at places.
const PLACES: usize = 4;

/// True if every output is classes, of which only the order matters: the operators that make them say so, or somebody does
/// by `class_axis`. Rank alone does not: an embedding has two axes, too.
pub fn classes_only(g: &Graph, class_axis: Option<i64>) -> bool {
    let one = |v: &ValueId| {
        let made = g.producer(*v).and_then(|(op, _)| classes_made_by(g, op));
        made.is_some() || class_axis.is_some_and(|axis| has_entries(g, *v, axis))
    };
    g.outputs.iter().all(one)
}

/// Whether an axis is there, and not known to have one entry only.
fn has_entries(g: &Graph, v: ValueId, axis: i64) -> bool {
    let Some(shape) = g.ty(v).and_then(|t| t.shape()) else { return false };
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let dim = usize::try_from(axis).ok().and_then(|axis| shape.get(axis));
    dim.is_some_and(|d| !matches!(d, Dim::Known(0 | 1)))
}

fn classes(g: &Graph, v: ValueId) -> Option<Classes> {
    let made = g.producer(v).map(|(op, _)| op);
    made.and_then(|op| classes_made_by(g, op)).or_else(|| {
        let shape = g.ty(v).and_then(|t| t.shape()).filter(|s| s.len() == 2)?;
        let box_or_one = |d: &Dim| matches!(d, Dim::Known(n) if *n < 2 || *n == BOX as u64);
        // Yes or no to each of some questions.
        let answers = made.is_some_and(|op| g.op(op).is("Sigmoid") || g.op(op).is("HardSigmoid"));
        (!box_or_one(&shape[1]) && !answers).then_some(Classes { axis: 1, scale: Scale::Scores })
    })
}

fn classes_made_by(g: &Graph, op: OpId) -> Option<Classes> {
    let o = g.op(op);
    let operand = |slot| g.operand(op, slot);
    match o.op_type.as_str() {
        function @ ("Softmax" | "LogSoftmax") => {
            let scale = if function == "Softmax" { Scale::Probabilities } else { Scale::Logarithms };
            Some(Classes { axis: o.int("axis").unwrap_or(-1), scale })
        }
        "Gemm" | "MatMul" => {
            let by_row = o.int("transB").unwrap_or(0) != 0;
            let dims = operand(1).and_then(|w| g.konst(w)).map(|w| w.dims());
            let n = dims.and_then(|d| if by_row { d.first() } else { d.last() });
            let logits = n.is_some_and(|n| *n > 1 && *n != BOX);
            logits.then_some(Classes { axis: -1, scale: Scale::Scores })
        }
        // The bias of a product.
        "Add" => (0..2).find_map(|slot| {
            let x = operand(slot).filter(|x| g.only_use(*x).is_some())?;
            classes_made_by(g, g.producer(x)?.0).filter(|c| c.scale == Scale::Scores)
        }),
        "Identity" | "Cast" | "QuantizeLinear" | "DequantizeLinear" => {
            classes_made_by(g, g.producer(operand(0)?)?.0)
        }
        "Transpose" => {
            let inner = classes_made_by(g, g.producer(operand(0)?)?.0)?;
            moved(inner, o)
        }
        _ => None,
    }
}

/// The classes behind a Transpose.
fn moved(classes: Classes, transpose: &Op) -> Option<Classes> {
    let perm = transpose.ints("perm")?;
    let axis = if classes.axis < 0 { classes.axis + perm.len() as i64 } else { classes.axis };
    let axis = perm.iter().position(|p| *p == axis)? as i64;
    Some(Classes { axis, ..classes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pipeline;
    use crate::runner::Hooks;

    fn found(output: &str, body: &str, class_axis: Option<i64>) -> Kind {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 13]> m (float[1,8,6,6] x, float[1,5,7] s) => (float[{output}] y)
             <float[7,9] w = {{{}}}> {{ {body} }}",
            "0.5, ".repeat(62) + "0.5"
        );
        let mut model = crate::fuse::testing::parse(&text);
        pipeline::optimize(&mut model, &Config::new("cpu-vnni"), &Hooks::default()).unwrap();
        kinds(model.main(), class_axis)[0]
    }

    fn at(axis: i64, scale: Scale) -> Kind {
        Kind::Classes(Classes { axis, scale })
    }

    #[test]
    fn classes_lie_along_the_axis_of_their_softmax() {
        assert_eq!(found("1,8,6,6", "y = Softmax <axis = 1> (x)", None), at(1, Scale::Probabilities));
        assert_eq!(found("1,8,6,6", "y = LogSoftmax <axis = -3> (x)", None), at(1, Scale::Logarithms));
        let moved = "p = Softmax <axis = 1> (x) y = Transpose <perm = [0, 2, 3, 1]> (p)";
        assert!(
            matches!(found("1,6,6,8", moved, None), Kind::Classes(c) if c.layout(&[1, 6, 6, 8]) == Some((8, 1)))
        );
    }

    #[test]
    fn products_and_rows_are_scores_and_pixels_only_where_it_is_said() {
        assert_eq!(found("1,5,9", "y = MatMul (s, w)", None), at(-1, Scale::Scores));
        assert_eq!(found("1,5,9", "y = MatMul (s, w)", Some(1)), at(-1, Scale::Scores));
        assert_eq!(found("1,288", "y = Flatten (x)", None), at(1, Scale::Scores));
        assert_eq!(found("1,288", "f = Flatten (x) y = Sigmoid (f)", None), Kind::Numbers);
        assert_eq!(
            found("72,4", "k = Constant <value_ints = [72, 4]> () y = Reshape (x, k)", None),
            Kind::Numbers
        );
        assert_eq!(found("1,8,6,6", "y = Relu (x)", None), Kind::Numbers);
        assert_eq!(found("1,8,6,6", "y = Relu (x)", Some(1)), at(1, Scale::Scores));
        assert_eq!(found("1,5,7", "y = Relu (s)", Some(3)), Kind::Numbers);
    }

    #[test]
    fn rows_are_gathered_along_any_axis() {
        let x = Tensor::from_f32(&[1, 2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let rows = |axis| {
            let mut found = Vec::new();
            Classes { axis, scale: Scale::Scores }.rows(&x, &x, |a, b| {
                assert_eq!(a, b);
                found.push(a.to_vec());
            });
            found
        };
        assert_eq!(rows(1), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert_eq!(rows(-1), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert!(rows(0).is_empty() && rows(7).is_empty());
    }
}
