//! bfloat16 models in float32: tract has no bfloat16, and calibration observes float32 anyway.
//!
//! Every bfloat16 is exactly a float32, so constants lose nothing. Results keep more bits than in the model,
//! as they do in the quantized model, which is computed from float32 too. Samples are lowered when they come
//! ([`tensor`]); outputs of a lowered model stay float32.

use squint_ir::retype::Retype;
use squint_ir::{DType, Model, Tensor};
use std::borrow::Cow;

/// The element type that tract lacks.
const FROM: DType = DType::Bfloat16;
/// What it becomes.
const TO: DType = DType::Float;

const LOWERED: Retype = Retype { from: &[FROM], to: TO };

/// The model with float32 for bfloat16: the model itself if there is no bfloat16, else a copy that shares
/// all other tensors. Ids of graphs, values and operators stay the same.
pub(crate) fn model(model: &Model) -> Cow<'_, Model> {
    if !LOWERED.occurs(model) {
        return Cow::Borrowed(model);
    }
    let mut lowered = model.clone();
    for id in lowered.graph_ids().collect::<Vec<_>>() {
        LOWERED.graph(lowered.graph_mut(id), |_| true);
    }
    Cow::Owned(lowered)
}

/// The element type that stands for `dtype` in a lowered model.
pub(crate) fn dtype(dtype: DType) -> DType {
    if dtype == FROM { TO } else { dtype }
}

/// A tensor as a lowered model has it.
pub(crate) fn tensor(tensor: &Tensor) -> Cow<'_, Tensor> {
    LOWERED.tensor(tensor).map_or(Cow::Borrowed(tensor), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tract;
    use squint_ir::execute::Execute;
    use squint_ir::{Dim, OpSpec, Type, ValueId};

    fn bf16(dims: &[usize], data: &[f32]) -> Tensor {
        let bytes: Vec<u8> = data.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Tensor::raw(FROM, dims, bytes.into()).unwrap()
    }

    /// `y = Cast(Cast(x) + w)`, in bfloat16 between; the input is `dtype`.
    fn half_model(dtype: DType) -> (Model, Vec<ValueId>) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let of = |dtype| Some(Type::tensor(dtype, Some(vec![Dim::Known(2)])));
        let code = |dtype: DType| i64::from(dtype.code());
        let x = g.add_value("x", of(dtype));
        let w = g.add_const("w", bf16(&[2], &[1.5, -2.0]));
        let a = g.emit(OpSpec::new("Cast").attr("to", code(FROM)).operands([x]), "a", of(FROM));
        let k = OpSpec::new("Constant").attr("value", bf16(&[], &[0.25]));
        let k = g.emit(k, "k", Some(Type::tensor(FROM, Some(vec![]))));
        let s = g.emit(OpSpec::new("Add").operands([a, w]), "s", of(FROM));
        let p = g.emit(OpSpec::new("Mul").operands([s, k]), "p", of(FROM));
        let y = g.emit(OpSpec::new("Cast").attr("to", code(TO)).operands([p]), "y", of(TO));
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        (model, vec![w, a, s])
    }

    #[test]
    fn only_what_is_bfloat16_changes_and_ids_stay() {
        let (model, values) = half_model(FROM);
        let lowered = super::model(&model);
        assert!(matches!(lowered, Cow::Owned(_)) && !LOWERED.occurs(&lowered));
        let g = lowered.main();
        assert_eq!(g.konst(values[0]).unwrap().as_ref(), &Tensor::from_f32(&[2], &[1.5, -2.0]));
        assert!(g.values().all(|v| g.ty(v).unwrap().dtype() == Some(TO)));
        let names =
            |m: &Model| m.main().values().map(|v| m.main().value(v).name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&lowered), names(&model));
        assert!(matches!(super::model(&lowered), Cow::Borrowed(_)), "no copy where there is none");
    }

    #[test]
    fn numbers_that_only_look_like_the_type_stay() {
        let mut model = Model::new("g", 17);
        let code = i64::from(FROM.code());
        model.main_mut().emit(OpSpec::new("TopK").attr("axis", code).attr("to", 1), "y", None);
        assert!(!LOWERED.occurs(&model));
    }

    #[test]
    fn bfloat16_models_run_in_float32() {
        for dtype in [TO, FROM] {
            let (model, observe) = half_model(dtype);
            assert_eq!(Tract.preflight(&model), vec![]);
            let session = Tract.prepare(&model, &observe).unwrap();
            let x = if dtype == TO { Tensor::from_f32(&[2], &[1.0, 4.0]) } else { bf16(&[2], &[1.0, 4.0]) };
            let mut seen = vec![vec![]; observe.len()];
            let outputs = session.run(&vec![("x".into(), x)], &mut |i, _, x| {
                seen[i].extend_from_slice(x);
                None
            });
            let outputs = outputs.unwrap();
            assert_eq!(seen, [[1.5, -2.0], [1.0, 4.0], [2.5, 2.0]]);
            assert_eq!(outputs[0].to_f32s(), [0.625, 0.5]);
        }
    }
}
