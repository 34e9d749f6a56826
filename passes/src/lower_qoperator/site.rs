//! An operator that may be lowered: what stands before and behind it, and the edits that all families share.

use super::{MICROSOFT, Miss};
use squint_ir::affine::quantize;
use squint_ir::{DType, Graph, Op, OpId, Tensor, Type, ValueId};
use std::sync::Arc;

/// An operator in its graph.
pub(super) struct Site<'a> {
    pub(super) g: &'a mut Graph,
    pub(super) id: OpId,
    /// Version of the default operator set.
    pub(super) opset: i64,
}

/// What an operand is dequantized from: constants scale and zero point, and integers.
#[derive(Clone)]
pub(super) struct Levels {
    pub(super) data: ValueId,
    pub(super) dtype: DType,
    pub(super) scale: ValueId,
    pub(super) scales: Vec<f32>,
    /// `None` stands for 0.
    zero_point: Option<ValueId>,
    zero_points: Vec<i64>,
    /// The axis that several scales are for.
    pub(super) axis: Option<i64>,
}

/// What the result is quantized to.
pub(super) struct Target {
    /// The quantized result.
    pub(super) levels: Levels,
    /// The operators between, which go: clamps and the QuantizeLinear.
    chain: Vec<OpId>,
}

impl Levels {
    /// True if two grids are the same.
    pub(super) fn same_grid(&self, other: &Levels) -> bool {
        let bits = |l: &Levels| l.scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
        self.dtype == other.dtype && bits(self) == bits(other) && self.zero() == other.zero()
    }

    fn zero(&self) -> i64 {
        self.zero_points.first().copied().unwrap_or(0)
    }
}

impl<'a> Site<'a> {
    pub(super) fn new(g: &'a mut Graph, id: OpId, opset: i64) -> Site<'a> {
        Site { g, id, opset }
    }

    pub(super) fn op(&self) -> &Op {
        self.g.op(self.id)
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.g.operand(self.id, slot).is_some()
    }

    /// What the operand at a slot is dequantized from.
    pub(super) fn levels(&self, slot: u32) -> Result<Levels, Miss> {
        let v = self.g.operand(self.id, slot).ok_or("an operand is missing")?;
        let (op, _) = self.g.producer(v).ok_or("an operand is not dequantized")?;
        if !is_linear(self.g.op(op), "DequantizeLinear") {
            return Err("an operand is not dequantized".into());
        }
        let data = self.g.operand(op, 0).ok_or("an operand is missing")?;
        self.grid(op, data)
    }

    /// As [`levels`](Self::levels), with one scale for the whole tensor and 8 bits.
    pub(super) fn activation(&self, slot: u32) -> Result<Levels, Miss> {
        let levels = self.levels(slot)?;
        match (levels.axis, levels.dtype) {
            (None, DType::Uint8 | DType::Int8) => Ok(levels),
            _ => Err("an operand has several scales, or not 8 bits".into()),
        }
    }

    /// The parameters of a QuantizeLinear or DequantizeLinear, whose integers are `data`.
    fn grid(&self, op: OpId, data: ValueId) -> Result<Levels, Miss> {
        let konst = |slot| self.g.operand(op, slot).map(|v| (v, self.konst(v)));
        let Some((scale, Some(scales))) = konst(1) else { return Err("a scale is computed".into()) };
        if scales.dtype() != DType::Float || scales.rank() > 1 || self.g.op(op).attr("block_size").is_some() {
            return Err("scales are not float32, or in blocks".into());
        }
        let zero_point = match konst(2) {
            None => None,
            Some((v, Some(t))) => Some((v, t.to_i64s().ok_or("a zero point is no integer")?, t.dtype())),
            Some((_, None)) => return Err("a zero point is computed".into()),
        };
        let declared = self.konst(data).map(|t| t.dtype()).or_else(|| self.g.ty(data).and_then(Type::dtype));
        let dtype = zero_point.as_ref().map(|(.., d)| *d).or(declared).unwrap_or(DType::Uint8);
        let several = scales.len() > 1;
        Ok(Levels {
            data,
            dtype,
            scale,
            axis: several.then(|| self.g.op(op).int("axis").unwrap_or(1)),
            scales: scales.to_f32s(),
            zero_points: zero_point.as_ref().map_or_else(Vec::new, |(_, z, _)| z.clone()),
            zero_point: zero_point.map(|(v, ..)| v),
        })
    }

    /// What a QuantizeLinear makes, with its grid.
    pub(super) fn quantized(&self, op: OpId) -> Result<Levels, Miss> {
        if !is_linear(self.g.op(op), "QuantizeLinear") {
            return Err("a result is not quantized".into());
        }
        let y = self.g.result(op, 0).ok_or("a result is not quantized")?;
        self.grid(op, y)
    }

    /// The constant of a value.
    pub(super) fn konst(&self, v: ValueId) -> Option<&Arc<Tensor>> {
        self.g.konst(v).filter(|_| !self.g.is_input(v))
    }

    /// The QuantizeLinear that is all that reads the result, perhaps through clamps that its grid makes needless.
    pub(super) fn target(&self) -> Result<Target, Miss> {
        let mut v = self.g.result(self.id, 0).ok_or("it has no result")?;
        let (mut chain, mut clamps) = (Vec::new(), Vec::new());
        loop {
            let user = self.g.only_use(v).ok_or("its result is not only quantized")?;
            let next = self.g.op(user.op);
            if user.slot != 0 {
                return Err("its result is not only quantized".into());
            }
            chain.push(user.op);
            let y = self.g.result(user.op, 0).ok_or("its result is not quantized")?;
            if let Ok(levels) = self.quantized(user.op) {
                if levels.axis.is_some() || !matches!(levels.dtype, DType::Uint8 | DType::Int8) {
                    return Err("its result has several scales, or not 8 bits".into());
                }
                if clamps.iter().any(|c| !self.ends_at_limits(*c, &levels)) {
                    return Err("a clamp behind it is narrower than the grid".into());
                }
                return Ok(Target { levels, chain });
            }
            if !next.is("Relu") && !next.is("Clip") {
                return Err("its result is not quantized".into());
            }
            clamps.push(user.op);
            v = y;
        }
    }

    /// True if saturating to the grid does all that a clamp does.
    fn ends_at_limits(&self, clamp: OpId, levels: &Levels) -> bool {
        let limit = |slot: u32, open: f32| match self.g.operand(clamp, slot) {
            None => Some(open),
            Some(v) => self.konst(v).and_then(|t| Some(t.scalar_value()? as f32)),
        };
        let (lo, hi) = match self.g.op(clamp).op_type.as_str() {
            "Relu" => (Some(0.0), Some(f32::INFINITY)),
            _ if self.opset < 11 => (None, None),
            _ => (limit(1, f32::NEG_INFINITY), limit(2, f32::INFINITY)),
        };
        let (Some(lo), Some(hi), Some((qmin, qmax))) = (lo, hi, levels.dtype.int_range()) else {
            return false;
        };
        let (qmin, qmax) = (qmin as i32, qmax as i32);
        let level = |x| quantize(x, levels.scales[0], levels.zero() as i32, qmin, qmax);
        level(lo) == qmin && level(hi) == qmax
    }

    /// The zero point as an operand that is there, of the shape of the scales.
    pub(super) fn zero_point(&mut self, levels: &Levels) -> ValueId {
        if let Some(v) = levels.zero_point {
            return v;
        }
        let dims = self.konst(levels.scale).map_or(Vec::new(), |t| t.dims().to_vec());
        let bytes = vec![0u8; levels.scales.len() * levels.dtype.bits() / 8];
        let zeros = Tensor::raw(levels.dtype, &dims, bytes.into());
        let zeros = zeros.unwrap_or_else(|_| Tensor::from_u8(&[], &[0]));
        let name = format!("{}_zero_point", self.g.value(levels.data).name());
        self.g.add_const(&name, zeros)
    }

    /// Data, scale and zero point, as operands.
    pub(super) fn triple(&mut self, levels: &Levels) -> [Option<ValueId>; 3] {
        [Some(levels.data), Some(levels.scale), Some(self.zero_point(levels))]
    }

    /// Scale and zero point, as operands.
    pub(super) fn pair(&mut self, levels: &Levels) -> [Option<ValueId>; 2] {
        [Some(levels.scale), Some(self.zero_point(levels))]
    }

    /// Turns the operator into another on these operands. Attributes stay.
    pub(super) fn become_op(&mut self, microsoft: bool, op_type: &str, operands: &[Option<ValueId>]) {
        for slot in 0..self.g.operands(self.id).len() as u32 {
            self.g.set_operand(self.id, slot, None);
        }
        for (slot, v) in (0u32..).zip(operands) {
            self.g.set_operand(self.id, slot, *v);
        }
        let op = self.g.op_mut(self.id);
        op.op_type = op_type.into();
        op.domain = if microsoft { MICROSOFT.into() } else { String::new() };
    }

    /// The operator makes the quantized result itself; what stood between goes.
    pub(super) fn take_over(&mut self, target: Target) {
        let y = target.levels.data;
        let old = self.g.result(self.id, 0);
        for op in target.chain.into_iter().rev() {
            let between = self.g.result(op, 0).filter(|v| *v != y);
            self.g.remove_op(op);
            if let Some(v) = between {
                self.g.remove_value(v);
            }
        }
        self.g.set_result(self.id, 0, Some(y));
        if let Some(v) = old {
            self.g.remove_value(v);
        }
        if self.g.ty(y).is_none() {
            self.g.set_type(y, Some(Type::tensor(target.levels.dtype, None)));
        }
    }
}

/// True for an operator of this name, ONNX's or ONNX Runtime's.
fn is_linear(op: &Op, op_type: &str) -> bool {
    op.op_type == op_type && (op.is_onnx() || op.domain == MICROSOFT)
}
