//! bfloat16 models in float32: tract has no bfloat16, and calibration observes float32 anyway.
//!
//! Every bfloat16 is exactly a float32, so constants lose nothing. Results keep more bits than in the model,
//! as they do in the quantized model, which is computed from float32 too. Declared types, constants, and
//! attributes that hold tensors or name an element type (`to` of Cast) change together. Samples are lowered
//! when they come ([`tensor`]); outputs of a lowered model stay float32.

use squint_ir::{AttrValue, DType, GraphId, Model, Tensor, Type, ValueId};
use std::borrow::Cow;
use std::sync::Arc;

/// The element type that tract lacks.
const FROM: DType = DType::Bfloat16;
/// What it becomes.
const TO: DType = DType::Float;

/// Attributes of the default domain that name an element type by its code.
const DTYPE_ATTRIBUTES: &[&str] = &["to", "dtype", "output_dtype", "softmax_precision", "stash_type"];

/// The model with float32 for bfloat16: the model itself if there is no bfloat16, else a copy that shares
/// all other tensors. Ids of graphs, values and operators stay the same.
pub(crate) fn model(model: &Model) -> Cow<'_, Model> {
    if !occurs(model) {
        return Cow::Borrowed(model);
    }
    let mut lowered = model.clone();
    for id in lowered.graph_ids().collect::<Vec<_>>() {
        lower_graph(&mut lowered, id);
    }
    Cow::Owned(lowered)
}

/// The element type that stands for `dtype` in a lowered model.
pub(crate) fn dtype(dtype: DType) -> DType {
    if dtype == FROM { TO } else { dtype }
}

/// A tensor as a lowered model has it.
pub(crate) fn tensor(tensor: &Tensor) -> Cow<'_, Tensor> {
    if tensor.dtype() == FROM {
        Cow::Owned(Tensor::from_f32(tensor.dims(), &tensor.f32s()))
    } else {
        Cow::Borrowed(tensor)
    }
}

fn occurs(model: &Model) -> bool {
    model.graph_ids().any(|id| {
        let g = model.graph(id);
        let value = |v: ValueId| {
            g.konst(v).is_some_and(|t| t.dtype() == FROM)
                || g.ty(v).is_some_and(|t| lowered_type(t).is_some())
        };
        let attributes = |op| &g.op(op).attributes;
        let attribute = |a: &squint_ir::Attribute| lowered_attribute(&a.name, &a.value).is_some();
        g.values().any(value) || g.ops().any(|op| attributes(op).iter().any(attribute))
    })
}

fn lower_graph(model: &mut Model, id: GraphId) {
    let g = model.graph_mut(id);
    for v in g.values().collect::<Vec<_>>() {
        let konst = g.konst(v).and_then(lowered_tensor);
        if konst.is_some() {
            g.set_const(v, konst);
        }
        let ty = g.ty(v).and_then(lowered_type);
        if ty.is_some() {
            g.set_type(v, ty);
        }
    }
    for op in g.ops().collect::<Vec<_>>() {
        for a in &mut g.op_mut(op).attributes {
            if let Some(value) = lowered_attribute(&a.name, &a.value) {
                a.value = value;
            }
        }
    }
}

/// The tensor with another element type, `None` if it stays as it is.
fn lowered_tensor(t: &Arc<Tensor>) -> Option<Arc<Tensor>> {
    match tensor(t) {
        Cow::Owned(t) => Some(Arc::new(t)),
        Cow::Borrowed(_) => None,
    }
}

/// The type with another element type, `None` if it stays as it is.
fn lowered_type(ty: &Type) -> Option<Type> {
    Some(match ty {
        Type::Tensor { dtype, shape } if *dtype == FROM => Type::tensor(TO, shape.clone()),
        Type::Sequence(t) => Type::Sequence(Box::new(lowered_type(t)?)),
        Type::Optional(t) => Type::Optional(Box::new(lowered_type(t)?)),
        Type::Map(k, t) => Type::Map(*k, Box::new(lowered_type(t)?)),
        _ => return None,
    })
}

/// The attribute with another element type, `None` if it stays as it is.
fn lowered_attribute(name: &str, value: &AttrValue) -> Option<AttrValue> {
    Some(match value {
        AttrValue::Int(code) if *code == i64::from(FROM.code()) && DTYPE_ATTRIBUTES.contains(&name) => {
            AttrValue::Int(i64::from(TO.code()))
        }
        AttrValue::Tensor(t) => AttrValue::Tensor(lowered_tensor(t)?),
        AttrValue::Tensors(all) if all.iter().any(|t| t.dtype() == FROM) => {
            AttrValue::Tensors(all.iter().map(|t| lowered_tensor(t).unwrap_or_else(|| t.clone())).collect())
        }
        AttrValue::Type(ty) => AttrValue::Type(lowered_type(ty)?),
        AttrValue::Types(all) if all.iter().any(|t| lowered_type(t).is_some()) => {
            AttrValue::Types(all.iter().map(|t| lowered_type(t).unwrap_or_else(|| t.clone())).collect())
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tract;
    use squint_ir::execute::Execute;
    use squint_ir::{Dim, OpSpec};

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
        assert!(matches!(lowered, Cow::Owned(_)) && !occurs(&lowered));
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
        assert!(!occurs(&model));
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
