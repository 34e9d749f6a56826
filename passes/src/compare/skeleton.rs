//! The float graph inside a quantized one.
//!
//! A quantizer passes its data on, only rounded; so the graph without its quantizers is the float network that
//! was quantized, up to what the tool that did it fused on the way. Ids of values stay what they are, and each
//! value that was rounded remembers the form that its readers see.

use squint_ir::affine::QuantParams;
use squint_ir::{DType, Graph, Model, OpId, ValueId, ValueTable};

/// A quantized graph without its quantizers.
pub(super) struct Skeleton {
    /// The graph; ids of values are those of the quantized graph.
    pub(super) model: Model,
    /// For a value that is rounded: the dequantized form, and the grid.
    pub(super) rounded: ValueTable<(ValueId, Option<Rounding>)>,
}

/// A grid with one scale, as a quantizer applies it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Element type of the levels.
    pub dtype: DType,
    /// Scale and zero point.
    pub params: QuantParams,
}

impl Rounding {
    /// Smallest and largest number that the grid has.
    pub fn range(self) -> (f32, f32) {
        let (lo, hi) = self.dtype.int_range().unwrap_or((0, 0));
        let real = |level: i64| (level - i64::from(self.params.zero_point)) as f32 * self.params.scale;
        (real(lo), real(hi))
    }
}

impl Skeleton {
    /// Takes the quantizers out of a model whose constants are dequantized.
    pub(super) fn new(quantized: &Model) -> Skeleton {
        let mut model = quantized.clone();
        let mut rounded: ValueTable<(ValueId, Option<Rounding>)> = ValueTable::new();
        let order = model.main().topo().unwrap_or_default();
        let g = model.main_mut();
        for op in order {
            let kind = g.op(op).op_type.as_str();
            if !matches!(kind, "QuantizeLinear" | "DequantizeLinear") {
                continue;
            }
            let (Some(data), Some(result)) = (g.operand(op, 0), g.result(op, 0)) else { continue };
            if g.konst(data).is_some() {
                continue;
            }
            if kind == "DequantizeLinear" && !rounded.contains(data) {
                let grid = rounding(g, op);
                rounded.insert(data, (result, grid));
            }
            g.replace_uses(result, data);
            g.remove_op(op);
            if !g.is_input(result) {
                g.remove_value(result);
            }
        }
        // What was integer between two quantizers is float now.
        for v in g.values().collect::<Vec<_>>() {
            if !g.is_input(v) && g.konst(v).is_none() && !g.is_output(v) {
                g.set_type(v, None);
            }
        }
        Skeleton { model, rounded }
    }
}

/// The grid of a quantizer with one constant scale.
fn rounding(g: &Graph, op: OpId) -> Option<Rounding> {
    let scale = g.konst(g.operand(op, 1)?)?;
    let zero = g.operand(op, 2).and_then(|z| g.konst(z));
    let dtype = zero.map_or(DType::Uint8, |z| z.dtype());
    let zero_point = zero.map_or(Some(0), |z| z.scalar_value().map(|x| x as i32))?;
    let params = QuantParams { scale: scale.scalar_value()? as f32, zero_point };
    Some(Rounding { dtype, params })
}
