//! tract's ONNX operators, with what it gets wrong put right.
//!
//! `Resize` of operator set 10 rounds source positions down and takes no attribute for it; tract reads the
//! attribute that later sets added, with their default, and silently picks other pixels. In sets 11 and 12
//! it counts operands as if `roi` were always there. `Upsample`, the name before set 10, it does not know.
//! All three are its own `Resize` under other conventions (ONNX Operators.md, Resize-10, -11 and -13,
//! Upsample-9).

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{AttributeProto, NodeProto, attribute_proto::AttributeType};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::InferenceOp;

/// Where tract's own `Resize` is kept; not a name that a model can use.
const RESIZE: &str = "Resize of tract";

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// The ONNX loader that every plan uses. Recorded types of intermediate values are ignored: tract infers
/// them, and `int64` shapes are something else to it.
pub(crate) fn onnx() -> Onnx {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_types(true);
    if let Some(own) = onnx.op_register.0.get("Resize").copied() {
        onnx.op_register.insert(RESIZE, own);
        onnx.op_register.insert("Resize", resize);
        onnx.op_register.insert("Upsample", upsample);
    }
    onnx.op_register.insert("If", crate::branch::build);
    onnx.op_register.insert("QuantizeLinear", crate::quantize::quantize);
    onnx.op_register.insert("DequantizeLinear", crate::quantize::dequantize);
    onnx
}

fn resize(ctx: &ParsingContext, node: &NodeProto) -> Built {
    match ctx.onnx_operator_set_version {
        ..=10 => rounding_down(ctx, node),
        11 | 12 => as_of(ctx, node, 13),
        version => as_of(ctx, node, version),
    }
}

fn upsample(ctx: &ParsingContext, node: &NodeProto) -> Built {
    ensure!(node.input.len() == 2, "Upsample with scales as an attribute (before operator set 9)");
    rounding_down(ctx, node)
}

/// `Resize` of operator set 10: positions are asymmetric, nearest means the pixel below.
fn rounding_down(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let mut node = node.clone();
    node.attribute.push(AttributeProto {
        name: "nearest_mode".into(),
        r#type: AttributeType::String as i32,
        s: b"floor".to_vec(),
        ..AttributeProto::default()
    });
    as_of(ctx, &node, 10)
}

/// tract's own `Resize` of an operator set.
fn as_of(ctx: &ParsingContext, node: &NodeProto, version: i64) -> Built {
    let own = ctx.framework.op_register.0.get(RESIZE).context("tract has no Resize")?;
    own(&ParsingContext { onnx_operator_set_version: version, ..ctx.clone() }, node)
}

#[cfg(test)]
mod tests {
    use crate::Tract;
    use squint_ir::execute::Execute;
    use squint_ir::{DType, Dim, Model, OpSpec, Tensor, Type, ValueId};

    /// The result of stretching `[1, 2]` four times with an operator of a set.
    fn stretched(
        op: OpSpec,
        opset: i64,
        operands: impl FnOnce(ValueId, ValueId) -> Vec<Option<ValueId>>,
    ) -> Vec<f32> {
        let mut model = Model::new("g", opset);
        let g = model.main_mut();
        let shape = [1, 1, 1, 2].map(Dim::Known).to_vec();
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(shape))));
        let scales = g.add_const("scales", Tensor::from_f32(&[4], &[1.0, 1.0, 1.0, 4.0]));
        let y = g.emit(op.operands(operands(x, scales)), "y", Some(Type::tensor(DType::Float, None)));
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let sample = vec![("x".to_owned(), Tensor::from_f32(&[1, 1, 1, 2], &[1.0, 2.0]))];
        let session = Tract.prepare(&model, &[]).unwrap();
        session.run(&sample, &mut |_, _, _| None).unwrap()[0].to_f32s()
    }

    #[test]
    fn old_resizes_take_the_pixel_below() {
        let expected = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0];
        assert_eq!(stretched(OpSpec::new("Upsample"), 9, |x, s| vec![Some(x), Some(s)]), expected);
        assert_eq!(stretched(OpSpec::new("Resize"), 10, |x, s| vec![Some(x), Some(s)]), expected);
        let floor = OpSpec::new("Resize")
            .attr("coordinate_transformation_mode", "asymmetric")
            .attr("nearest_mode", "floor");
        assert_eq!(stretched(floor, 11, |x, s| vec![Some(x), None, Some(s)]), expected);
    }
}
