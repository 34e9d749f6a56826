//! `flush-denormals`: weights and biases that are too small to matter become zero.
//!
//! Training with weight decay drives the weights of channels that a BatchNormalization has switched off towards zero for
//! ever: they end as denormal numbers, and so does all that such a channel computes. Processors add and multiply these in
//! microcode, a hundred times slower: a road segmentation network of which 2 % of the weights were denormal took twice
//! as long as without, a face landmark network eighteen times.
//!
//! Elements below `2⁻¹⁰⁰ = 7.9·10⁻³¹` become zero, so that no product with an activation of ordinary size is denormal
//! either. Only the constants of contractions are touched: a sum with `1e-38` may guard a logarithm.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{DType, Graph, Model, Tensor, ValueId};
use std::sync::Arc;

/// Elements of a smaller magnitude are flushed.
const NEGLIGIBLE: f32 = 7.888_609e-31;

/// The pass.
pub(crate) struct FlushDenormals;

impl Pass for FlushDenormals {
    fn name(&self) -> &'static str {
        "flush-denormals"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main_mut();
        let small: Vec<(ValueId, Tensor)> = g
            .values()
            .filter(|v| !g.is_output(*v) && is_weight(g, *v))
            .filter_map(|v| Some((v, flushed(g.konst(v)?)?)))
            .collect();
        let changed = !small.is_empty();
        for (v, tensor) in small {
            g.set_const(v, Some(Arc::new(tensor)));
        }
        Ok(changed.into())
    }
}

/// True if a value is nothing but the weight or the bias of contractions.
fn is_weight(g: &Graph, v: ValueId) -> bool {
    let uses = g.uses(v);
    !uses.is_empty()
        && uses.iter().all(|u| {
            !u.capture
                && match g.op(u.op).op_type.as_str() {
                    "Conv" | "ConvTranspose" | "Gemm" | "LSTM" | "GRU" | "RNN" => u.slot > 0,
                    "MatMul" => true,
                    // The bias of a product.
                    "Add" => (0..2).any(|slot| g.operand(u.op, slot).is_some_and(|v| is_product(g, v))),
                    _ => false,
                }
        })
}

fn is_product(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|(op, _)| g.op(op).is("MatMul"))
}

/// The tensor with its small elements flushed; `None` if it has none.
fn flushed(tensor: &Tensor) -> Option<Tensor> {
    if tensor.dtype() != DType::Float {
        return None;
    }
    let elements = tensor.f32s();
    let small = |x: &f32| *x != 0.0 && x.abs() < NEGLIGIBLE;
    if !elements.iter().any(small) {
        return None;
    }
    let elements: Vec<f32> = elements.iter().map(|x| if small(x) { 0.0 } else { *x }).collect();
    Some(Tensor::from_f32(tensor.dims(), &elements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use squint_ir::OpSpec;

    #[test]
    fn only_constants_of_contractions_are_flushed() {
        let small = [1e-39, -1e-31, 0.0, 1e-29, f32::NAN, -2.0];
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let constant = |g: &mut Graph, name: &str| g.add_const(name, Tensor::from_f32(&[6], &small));
        let names = ["weight", "bias", "matrix", "shift", "guard", "table"];
        let [weight, bias, matrix, shift, guard, table] = names.map(|name| constant(g, name));
        let a = g.emit(OpSpec::new("Conv").operands([x, weight, bias]), "a", None);
        let b = g.emit(OpSpec::new("MatMul").operands([a, matrix]), "b", None);
        let c = g.emit(OpSpec::new("Add").operands([shift, b]), "c", None);
        let d = g.emit(OpSpec::new("Add").operands([c, guard]), "d", None);
        // One that something else reads, too.
        let e = g.emit(OpSpec::new("MatMul").operands([d, table]), "e", None);
        let f = g.emit(OpSpec::new("Gather").operands([table, e]), "f", None);
        (g.inputs, g.outputs) = (vec![x], vec![f]);
        let config = Config::new("cpu-vnni");
        let run = |model: &mut Model| FlushDenormals.run(model, &mut PassCx::new(&config)).unwrap();
        assert_eq!(run(&mut model), Changed::Yes);
        let first = |v: ValueId| model.main().konst(v).unwrap().to_f32s()[0];
        assert_eq!([weight, bias, matrix, shift].map(first), [0.0; 4]);
        assert_eq!([guard, table].map(first), [1e-39; 2]);
        let all = model.main().konst(weight).unwrap().to_f32s();
        assert_eq!((all[1..4].to_vec(), all[4].is_nan(), all[5]), (vec![0.0, 0.0, 1e-29], true, -2.0));
        assert_eq!(run(&mut model), Changed::No);
    }
}
