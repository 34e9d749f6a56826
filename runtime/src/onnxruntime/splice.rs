//! Puts observing operators into a model for ONNX Runtime.

use super::observe::{DOMAIN, OP_TYPE, SLOT};
use crate::preflight::node_name;
use squint_ir::{Graph, Model, OpSpec, ValueId};

/// The domain's only version.
const VERSION: i64 = 1;

/// A model with an operator behind each observed value that is made when the model runs.
pub(super) struct Spliced {
    pub(super) model: Model,
    /// Observed values that are the same in every run: position, dimensions and elements.
    pub(super) constants: Vec<(usize, Vec<usize>, Vec<f32>)>,
}

/// Splices an `Observe` between each of `observe`, values of the main graph, and all its readers, graph
/// outputs included. Nodes without a name get one, so that the library can name them.
pub(super) fn splice(model: &Model, observe: &[ValueId]) -> Spliced {
    let mut model = model.clone();
    model.set_opset(&DOMAIN.to_string_lossy(), VERSION);
    let g = model.main_mut();
    for op in g.ops().collect::<Vec<_>>() {
        let name = node_name(g, op);
        g.op_mut(op).name = name;
    }
    let mut constants = Vec::new();
    for (slot, v) in observe.iter().enumerate() {
        match g.konst(*v) {
            Some(t) if t.dtype().is_float() => constants.push((slot, t.dims().to_vec(), t.to_f32s())),
            Some(_) => (),
            None => put(g, *v, slot),
        }
    }
    Spliced { model, constants }
}

fn put(g: &mut Graph, v: ValueId, slot: usize) {
    let ty = g.ty(v).cloned();
    let name = g.value(v).name().to_owned();
    let (before, after) = match g.producer(v) {
        // The value keeps its name and its readers; what made it makes another one.
        Some((op, result)) => {
            let raw = g.add_value(&format!("{name}#raw"), ty);
            g.set_result(op, result, Some(raw));
            (raw, v)
        }
        // A graph input stays what it is; its readers read another value.
        None => {
            let seen = g.add_value(&format!("{name}#observed"), ty);
            g.replace_uses(v, seen);
            (v, seen)
        }
    };
    let spec = OpSpec::new(&OP_TYPE.to_string_lossy()).domain(&DOMAIN.to_string_lossy());
    let spec = spec.name(format!("{name}#observe")).attr(&SLOT.to_string_lossy(), slot as i64);
    g.add_op(spec.operands([before]).results([after]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::text::{PrintOptions, print};
    use squint_ir::{DType, Tensor, Type};

    #[test]
    fn observers_stand_behind_inputs_and_results() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", Some(Type::tensor(DType::Float, None)));
        let c = g.add_const("c", Tensor::scalar_f32(2.0));
        let y = g.emit(OpSpec::new("Mul").operands([x, c]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let spliced = splice(&model, &[x, y, c]);
        assert_eq!(spliced.constants, [(2, vec![], vec![2.0])]);
        let text = print(&spliced.model, &PrintOptions::default());
        for line in [
            "\"x#observed\" = squint.Observe <slot = 0> (x)",
            "\"y#raw\" = Mul (\"x#observed\", c)",
            "y = squint.Observe <slot = 1> (\"y#raw\")",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
