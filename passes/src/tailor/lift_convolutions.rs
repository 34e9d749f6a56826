//! `lift-convolutions`: convolutions along one axis are computed in pictures of one row.
//!
//! ```text
//! c = Conv <kernel_shape = [3]> (x, w)   r = Relu (c)   y = Conv <kernel_shape = [3]> (r, v)
//!
//! x' = Unsqueeze (x, [2])   c' = Conv <kernel_shape = [1, 3]> (x', w')   r' = Relu (c')
//! y' = Conv <kernel_shape = [1, 3]> (r', v')   y = Squeeze (y', [2])
//! ```
//!
//! ONNX Runtime has its blocked layout, and with it direct kernels, for pictures only (`nchwc_transformer.cc`); sequences are
//! copied window by window into matrices. (1.31, AVX-512: pictures take 0.6 to 0.9 of the time with 32 to 512 channels, and
//! one fifth for a kernel of each channel.)
//!
//! What is computed by element, or from neighbours, between convolutions is lifted with them.

use super::layouts::{POOLS, is_tame};
use super::{Tailoring, konst};
use crate::elementwise::is_elementwise;
use crate::infer_types::infer_concrete;
use crate::pass::{PassCx, PassError};
use rustc_hash::FxHashMap;
use squint_ir::{DType, Graph, Model, Op, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;
use std::sync::Arc;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "lift-convolutions", rewrite: lift };

/// Shorter results are better computed as matrices.
const SHORTEST: usize = 32;

/// Multiply–accumulates from which on a convolution is worth the change of rank.
const LEAST_WORK: usize = 1 << 19;

fn lift(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    // Unsqueeze has axes as an operand since 13.
    if kernels.block.is_none() || model.onnx_opset() < 13 {
        return Ok(false);
    }
    let concrete = infer_concrete(model, &cx.statistics.dims)?;
    let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
    let mut lift = Lift { facts: &concrete, lifted: FxHashMap::default(), axis: None, replaced: Vec::new() };
    for op in order {
        lift.operator(model.main_mut(), op);
    }
    let changed = !lift.replaced.is_empty();
    lift.close(model.main_mut());
    Ok(changed)
}

struct Lift<'f> {
    facts: &'f ValueTable<Fact>,
    /// Values of rank 3 as pictures.
    lifted: FxHashMap<ValueId, ValueId>,
    /// The constant `[2]`.
    axis: Option<ValueId>,
    /// Operators whose results are made as pictures, with these results.
    replaced: Vec<(OpId, ValueId)>,
}

impl Lift<'_> {
    /// Computes an operator as one on pictures, if it is a convolution or lies behind one.
    fn operator(&mut self, g: &mut Graph, op: OpId) {
        let Some(y) = g.result(op, 0).filter(|_| g.results(op).len() == 1) else { return };
        let spec = if g.op(op).is("Conv") { self.convolution(g, op, y) } else { self.between(g, op) };
        let Some(spec) = spec else { return };
        let label = g.label(op);
        let name = format!("{}_lifted", g.value(y).name());
        let picture = g.emit(spec.near(op).origin(format!("lift-convolutions({label})")), &name, None);
        self.lifted.insert(y, picture);
        self.replaced.push((op, y));
    }

    fn convolution(&mut self, g: &mut Graph, op: OpId, y: ValueId) -> Option<OpSpec> {
        let (x, w) = (g.operand(op, 0)?, g.operand(op, 1)?);
        let weight = konst(g, w).filter(|w| w.dtype() == DType::Float && w.rank() == 3)?.clone();
        let shape = self.facts.get(y)?.shape.as_ref()?;
        let length = usize::try_from(shape.get(2)?.known()?).ok()?;
        let worth = self.lifted.contains_key(&x) || length.saturating_mul(weight.len()) >= LEAST_WORK;
        if length < SHORTEST || !worth {
            return None;
        }
        let picture = self.picture(g, x);
        let mut operands: Vec<Option<ValueId>> = g.operands(op);
        operands[0] = Some(picture);
        let [m, c, k] = *weight.dims() else { return None };
        let name = format!("{}_lifted", g.value(w).name());
        operands[1] = Some(g.add_const(&name, weight.reshaped(&[m, c, 1, k]).ok()?));
        Some(OpSpec::from_op(with_rows(g.op(op).clone())).operands(operands))
    }

    /// An operator whose operands are pictures already, and that computes the same of them.
    fn between(&mut self, g: &mut Graph, op: OpId) -> Option<OpSpec> {
        let operands = g.operands(op);
        let pictures: Vec<Option<ValueId>> =
            operands.iter().map(|v| v.and_then(|v| self.lifted.get(&v).copied())).collect();
        let node = g.op(op);
        let kind = node.op_type.as_str();
        if !node.is_onnx() || pictures.first()?.is_none() && !matches!(kind, "Add" | "Mul") {
            return None;
        }
        let mut lifted = node.clone();
        if is_tame(kind) && is_elementwise(g, op) {
            let mut operands = operands;
            operands[0] = pictures[0];
            return Some(OpSpec::from_op(lifted).operands(operands));
        }
        if POOLS.contains(&kind) {
            return Some(OpSpec::from_op(with_rows(lifted)).operands(pictures));
        }
        match kind {
            "Concat" if pictures.iter().all(Option::is_some) => {
                let axis = match node.int("axis")? {
                    2 | -1 => 3,
                    1 | -2 => 1,
                    _ => return None,
                };
                lifted.set_attr("axis", axis);
                Some(OpSpec::from_op(lifted).operands(pictures))
            }
            "Add" | "Mul" | "Sub" if pictures.iter().any(Option::is_some) => {
                let mut made = Vec::new();
                for (v, picture) in operands.iter().zip(pictures) {
                    made.push(match picture {
                        Some(picture) => picture,
                        None => self.constant(g, (*v)?)?,
                    });
                }
                Some(OpSpec::from_op(lifted).operands(made))
            }
            _ => None,
        }
    }

    /// A constant as it is broadcast to pictures.
    fn constant(&self, g: &mut Graph, v: ValueId) -> Option<ValueId> {
        let tensor: Arc<Tensor> = konst(g, v)?.clone();
        let dims = match *tensor.dims() {
            [] | [_] => return Some(v),
            [b, c] => vec![b, 1, c],
            [a, b, c] => vec![a, b, 1, c],
            _ => return None,
        };
        let name = format!("{}_lifted", g.value(v).name());
        Some(g.add_const(&name, tensor.reshaped(&dims).ok()?))
    }

    /// A value of rank 3 with a row axis.
    fn picture(&mut self, g: &mut Graph, v: ValueId) -> ValueId {
        if let Some(picture) = self.lifted.get(&v) {
            return *picture;
        }
        let axis = self.axis(g);
        let name = format!("{}_lifted", g.value(v).name());
        let origin = "lift-convolutions".to_owned();
        let picture = g.emit(OpSpec::new("Unsqueeze").operands([v, axis]).origin(origin), &name, None);
        self.lifted.insert(v, picture);
        picture
    }

    fn axis(&mut self, g: &mut Graph) -> ValueId {
        *self.axis.get_or_insert_with(|| g.add_const("row_axis", Tensor::from_i64(&[1], &[2])))
    }

    /// Takes the operators away that pictures replace, and gives what others read its rank back.
    fn close(mut self, g: &mut Graph) {
        for (op, _) in &self.replaced {
            g.set_result(*op, 0, None);
            g.remove_op(*op);
        }
        for (_, y) in std::mem::take(&mut self.replaced) {
            if !g.is_used(y) && !g.is_output(y) {
                g.remove_value(y);
                continue;
            }
            let (picture, axis) = (self.lifted[&y], self.axis(g));
            let squeeze = OpSpec::new("Squeeze").operands([picture, axis]).origin("lift-convolutions");
            let squeeze = g.add_op(squeeze);
            g.set_result(squeeze, 0, Some(y));
        }
    }
}

/// The attributes of an operator along one axis as those of one on rows of pictures.
fn with_rows(mut op: Op) -> Op {
    for name in ["kernel_shape", "strides", "dilations"] {
        if let Some([along]) = op.ints(name) {
            let list = vec![1, *along];
            op.set_attr(name, list);
        }
    }
    if let Some([before, behind]) = op.ints("pads") {
        let list = vec![0, *before, 0, *behind];
        op.set_attr("pads", list);
    }
    op
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, rewritten};
    use super::*;
    use crate::fuse::testing::{ops, parse};

    fn run(target: &str, length: &str, body: &str) -> String {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,8,{length}] x) => (float[N,C,L] y) \
             <float[64,8,3] w = [\"location\": \"gen:randn\"], float[64] b = [\"location\": \"gen:randn\"], \
              float[64,1,5] d = [\"location\": \"gen:randn\"], float[64,64,3] v = [\"location\": \"gen:randn\"], \
              float[64,1] k = [\"location\": \"gen:randn\"], float six = {{6}}> {{ {body} }}"
        ));
        let (after, _) = rewritten(&before, target, &[&PASS], |model, cx| {
            // Where the model leaves the length open, nothing is known of it.
            if let Ok(length) = length.parse() {
                cx.statistics.dims.insert(model.main().inputs[0], vec![1, 8, length]);
            }
        });
        assert_near(&before, &after, 1e-4, body);
        ops(&after)
    }

    #[test]
    fn chains_are_lifted_once() {
        let first = "c = Conv <pads = [1, 1]> (x, w, b)";
        for (body, expected) in [
            (format!("{first} r = Relu (c) y = Conv <strides = [2]> (r, v)"), "Conv Relu Conv"),
            (
                format!(
                    "{first} r = Clip (c, , six) y = Conv <group = 64, dilations = [2], auto_pad = \"SAME_UPPER\"> (r, d, b)"
                ),
                "Conv Clip Conv",
            ),
            (
                format!("{first} s = Mul (c, k) e = Conv <pads = [1, 1]> (s, v) y = Add (e, s)"),
                "Conv Mul Conv Add",
            ),
            (
                format!(
                    "{first} p = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1]> (c) j = Concat <axis = 2> (c, p) y = Conv (j, v)"
                ),
                "Conv MaxPool Concat Conv",
            ),
        ] {
            assert_eq!(run("cpu-vnni", "500", &body), format!("Unsqueeze {expected} Squeeze"), "{body}");
        }
    }

    #[test]
    fn what_others_read_has_its_rank() {
        let body =
            "c = Conv <pads = [1, 1]> (x, w, b) t = Transpose <perm = [0, 2, 1]> (c) y = MatMul (c, t)";
        assert_eq!(run("cpu-vnni", "500", body), "Unsqueeze Conv Squeeze Transpose MatMul");
    }

    #[test]
    fn short_and_unknown_lengths_stay() {
        let body = "c = Conv <pads = [1, 1]> (x, w, b) y = Relu (c)";
        assert_eq!(run("cpu-vnni", "16", body), "Conv Relu");
        assert_eq!(run("cpu-vnni", "T", body), "Conv Relu");
        assert_eq!(run("tensorrt", "500", body), "Conv Relu");
        assert_eq!(run("arm64", "500", body), "Conv Relu");
    }
}
