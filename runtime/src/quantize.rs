//! `QuantizeLinear` and `DequantizeLinear`, in place of tract's own.
//!
//! tract multiplies by the reciprocal of the scale, which moves values across rounding ties, overflows on
//! infinities, wants constant scales and knows 8-bit grids only. Here the arithmetic is that of
//! [`squint_ir::affine`], for one scale or one for each index of an axis, for 8 and 16-bit grids, and for
//! 32-bit integers on the way back; and that of [`squint_ir::narrow`] for 8-bit floats, without a zero point. (Semantics: ONNX Operators.md, `QuantizeLinear` and `DequantizeLinear`.)

use crate::observe::elements;
use squint_ir::affine::{self, ChannelLayout, QuantParams};
use squint_ir::narrow;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::*;

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Builds `QuantizeLinear`.
pub(crate) fn quantize(_: &ParsingContext, node: &NodeProto) -> Built {
    let declared = match node.get_attr_opt::<i64>("output_dtype")?.unwrap_or(0) {
        0 => DatumType::U8,
        code if code == i64::from(squint_ir::DType::Float8e4m3fn.code()) => FLOAT8,
        code => grid_type(code).with_context(|| format!("quantization to element type {code}"))?,
    };
    build(node, Way::Quantize(declared))
}

/// Builds `DequantizeLinear`.
pub(crate) fn dequantize(_: &ParsingContext, node: &NodeProto) -> Built {
    build(node, Way::Dequantize)
}

fn build(node: &NodeProto, way: Way) -> Built {
    ensure!(node.get_attr_opt::<i64>("block_size")?.unwrap_or(0) == 0, "scales of blocks");
    let operands = node.input.iter().filter(|name| !name.is_empty()).count();
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    Ok((expand(Linear { axis, operands, way }), vec![]))
}

/// What 8-bit floats (E4M3) lie in, as tract has no such type: they are among the numbers of float32.
const FLOAT8: DatumType = DatumType::F32;

/// The type of a grid by its ONNX code.
fn grid_type(code: i64) -> Option<DatumType> {
    let dtype = squint_ir::DType::from_code(i32::try_from(code).ok()?)?;
    crate::convert::datum_type(dtype).filter(|t| range(*t).is_some())
}

/// Lowest and highest level of a grid.
fn range(grid: DatumType) -> Option<(i32, i32)> {
    Some(match grid {
        DatumType::U8 => (0, 255),
        DatumType::I8 => (-128, 127),
        DatumType::U16 => (0, 65_535),
        DatumType::I16 => (-32_768, 32_767),
        _ => return None,
    })
}

/// The direction; for quantization with the grid that holds where no zero point says another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Quantize(DatumType),
    Dequantize,
}

/// Either operator, before and after typing: data, scale and perhaps a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Linear {
    axis: i64,
    operands: usize,
    way: Way,
}

impl Linear {
    fn name(&self) -> StaticName {
        match self.way {
            Way::Quantize(_) => "QuantizeLinear".into(),
            Way::Dequantize => "DequantizeLinear".into(),
        }
    }

    /// Which of `scales` scales holds for which element of a tensor of these dimensions.
    fn layout(&self, dims: &[usize], scales: usize) -> TractResult<ChannelLayout> {
        if scales == 1 {
            return Ok(ChannelLayout { outer: 1, channels: 1, inner: dims.iter().product() });
        }
        let axis = if self.axis < 0 { self.axis + dims.len() as i64 } else { self.axis };
        let layout = usize::try_from(axis).ok().and_then(|a| ChannelLayout::new(dims, a));
        let layout = layout.with_context(|| format!("axis {} of shape {dims:?}", self.axis))?;
        ensure!(layout.channels == scales, "{scales} scales for length {} of the axis", layout.channels);
        Ok(layout)
    }
}

impl Expansion for Linear {
    fn name(&self) -> StaticName {
        Linear::name(self)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.operands)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        match self.way {
            Way::Dequantize => s.equals(&outputs[0].datum_type, &inputs[1].datum_type),
            Way::Quantize(_) if self.operands == 3 => s.equals(&outputs[0].datum_type, &inputs[2].datum_type),
            Way::Quantize(declared) => s.equals(&outputs[0].datum_type, declared),
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, TypedLinear(*self), inputs)
    }
}

/// The operator after typing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TypedLinear(Linear);

impl Op for TypedLinear {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    op_as_typed_op!();
}

impl EvalOp for TypedLinear {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, scales) = (&inputs[0], elements(&inputs[1])?);
        let zeros = match inputs.get(2) {
            Some(z) => z.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec(),
            None => vec![0; scales.len()],
        };
        ensure!(zeros.len() == scales.len(), "{} zero points for {} scales", zeros.len(), scales.len());
        let layout = self.0.layout(x.shape(), scales.len())?;
        let params: Vec<QuantParams> =
            scales.iter().zip(zeros).map(|(&scale, zero_point)| QuantParams { scale, zero_point }).collect();
        let result = match self.0.way {
            Way::Dequantize => {
                dequantized(x, layout, &params)?.cast_to_dt(inputs[1].datum_type())?.into_owned()
            }
            Way::Quantize(declared) => {
                let grid = inputs.get(2).map_or(declared, |z| z.datum_type());
                quantized(x, layout, &params, grid)?
            }
        };
        Ok(tvec!(result.into_tvalue()))
    }
}

impl TypedOp for TypedLinear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let datum_type = match self.0.way {
            Way::Dequantize => inputs[1].datum_type,
            Way::Quantize(declared) => inputs.get(2).map_or(declared, |z| z.datum_type),
        };
        Ok(tvec!(datum_type.fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// The runs of neighbours that share parameters, in the order of the elements.
fn runs<'a, T>(
    data: &'a [T],
    layout: ChannelLayout,
    params: &'a [QuantParams],
) -> impl Iterator<Item = (&'a [T], QuantParams)> {
    data.chunks(layout.inner.max(1)).zip(params.iter().copied().cycle())
}

fn quantized(
    x: &Tensor,
    layout: ChannelLayout,
    params: &[QuantParams],
    grid: DatumType,
) -> TractResult<Tensor> {
    let data = elements(x)?;
    let runs = runs(&data, layout, params);
    if grid == FLOAT8 {
        let rounded = |x: f32| narrow::e4m3_value(narrow::e4m3(x));
        let out: Vec<f32> = runs.flat_map(|(run, p)| run.iter().map(move |x| rounded(x / p.scale))).collect();
        return Tensor::from_shape(x.shape(), &out);
    }
    let (qmin, qmax) = range(grid).with_context(|| format!("quantization to {grid:?}"))?;
    macro_rules! levels {
        ($t:ty) => {{
            let mut out: Vec<$t> = Vec::with_capacity(data.len());
            for (run, p) in runs {
                out.extend(affine::levels(run, p, qmin, qmax).map(|q| q as $t));
            }
            Tensor::from_shape(x.shape(), &out)
        }};
    }
    match grid {
        DatumType::U8 => levels!(u8),
        DatumType::I8 => levels!(i8),
        DatumType::U16 => levels!(u16),
        _ => levels!(i16),
    }
}

fn dequantized(x: &Tensor, layout: ChannelLayout, params: &[QuantParams]) -> TractResult<Tensor> {
    macro_rules! values {
        ($t:ty) => {{
            let levels = x.try_as_plain_ram()?.as_slice::<$t>()?;
            let mut out: Vec<f32> = Vec::with_capacity(levels.len());
            for (run, p) in runs(levels, layout, params) {
                out.extend(run.iter().map(|q| affine::dequantize(i32::from(*q), p.scale, p.zero_point)));
            }
            Tensor::from_shape(x.shape(), &out)
        }};
    }
    match x.datum_type() {
        DatumType::U8 => values!(u8),
        DatumType::I8 => values!(i8),
        DatumType::U16 => values!(u16),
        DatumType::I16 => values!(i16),
        DatumType::I32 => values!(i32),
        FLOAT8 => {
            let numbers = elements(x)?;
            let out: Vec<f32> = runs(&numbers, layout, params)
                .flat_map(|(run, p)| run.iter().map(move |x| x * p.scale))
                .collect();
            Tensor::from_shape(x.shape(), &out)
        }
        other => bail!("dequantization of {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::Tract;
    use squint_ir::execute::Execute;
    use squint_ir::{DType, Dim, Model, OpSpec, Tensor, Type};

    /// Quantizes and dequantizes `data`, of shape `[2, n]`, with parameters of these dimensions.
    fn round_trip(data: &[f32], dims: &[usize], scales: &[f32], zeros: Tensor, axis: i64) -> Vec<f32> {
        let mut model = Model::new("g", 21);
        let g = model.main_mut();
        let shape = [2, data.len() as u64 / 2].map(Dim::Known).to_vec();
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(shape))));
        let s = g.add_const("s", Tensor::from_f32(dims, scales));
        let z = g.add_const("z", zeros);
        let q = OpSpec::new("QuantizeLinear").attr("axis", axis).operands([x, s, z]);
        let q = g.emit(q, "q", None);
        let d = OpSpec::new("DequantizeLinear").attr("axis", axis).operands([q, s, z]);
        let d = g.emit(d, "d", Some(Type::tensor(DType::Float, None)));
        (g.inputs, g.outputs) = (vec![x], vec![d]);
        let sample = vec![("x".to_owned(), Tensor::from_f32(&[2, data.len() / 2], data))];
        let session = Tract.prepare(&model, &[]).unwrap();
        session.run(&sample, &mut |_, _, _| None).unwrap()[0].to_f32s()
    }

    #[test]
    fn eight_bit_floats_are_rounded_and_saturate() {
        let mut model = Model::new("g", 23);
        let g = model.main_mut();
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(vec![Dim::Known(4)]))));
        let s = g.add_const("s", Tensor::scalar_f32(0.5));
        let code = i64::from(DType::Float8e4m3fn.code());
        let q = OpSpec::new("QuantizeLinear").attr("output_dtype", code).operands([x, s]);
        let q = g.emit(q, "q", None);
        let d = g.emit(
            OpSpec::new("DequantizeLinear").operands([q, s]),
            "d",
            Some(Type::tensor(DType::Float, None)),
        );
        (g.inputs, g.outputs) = (vec![x], vec![d]);
        let sample = vec![("x".to_owned(), Tensor::from_f32(&[4], &[1000.0, -0.53, 0.0, 8.6]))];
        let session = Tract.prepare(&model, &[]).unwrap();
        // 17.2 lies between 16 and 18, -1.06 between -1 and -1.125.
        let y = session.run(&sample, &mut |_, _, _| None).unwrap()[0].to_f32s();
        assert_eq!(y, [224.0, -0.5, 0.0, 9.0]);
    }

    #[test]
    fn ties_go_to_even_and_infinities_saturate() {
        let data = [0.5, 1.5, -0.5, f32::INFINITY, f32::NEG_INFINITY, 1e30];
        let y = round_trip(&data, &[], &[1.0], Tensor::from_u8(&[], &[3]), 1);
        assert_eq!(y, [0.0, 2.0, 0.0, 252.0, -3.0, 252.0]);
    }

    #[test]
    fn scales_lie_along_any_axis() {
        let data = [1.2, 12.0, -1.2, -12.0];
        let zeros = || Tensor::from_i8(&[2], &[0, 0]);
        assert_eq!(round_trip(&data, &[2], &[1.0, 10.0], zeros(), 1), [1.0, 10.0, -1.0, -10.0]);
        assert_eq!(round_trip(&data, &[2], &[1.0, 10.0], zeros(), 0), [1.0, 12.0, 0.0, -10.0]);
        assert_eq!(round_trip(&data, &[2], &[1.0, 10.0], zeros(), -2), [1.0, 12.0, 0.0, -10.0]);
    }

    #[test]
    fn sixteen_bits_are_a_finer_grid() {
        let zero = Tensor::raw(DType::Uint16, &[], vec![0, 0x80].into()).unwrap();
        let y = round_trip(&[1.0, -0.25, 3.0, 1e9], &[], &[1.0 / 1024.0], zero, 1);
        assert_eq!(y, [1.0, -0.25, 3.0, 32767.0 / 1024.0]);
    }
}
