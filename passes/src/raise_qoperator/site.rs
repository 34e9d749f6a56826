//! An operator being raised: what is read of it, and the edits that all families share.

use super::Miss;
use crate::pass::PassCx;
use rustc_hash::FxHashMap;
use squint_ir::{
    DType, Dim, Graph, GraphId, Model, Op, OpId, OpSpec, Shape, Tensor, Type, ValueId, ValueTable,
};
use std::sync::Arc;

/// Integers with the grid that they are levels of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Levels {
    /// The integers.
    pub(super) data: ValueId,
    /// The scale, or scales.
    pub(super) scale: ValueId,
    /// The zero point of the same shape; `None` for 0.
    pub(super) zero_point: Option<ValueId>,
}

/// What has been learnt of a graph on the way.
pub(super) struct Known {
    /// Scale and zero point of values whose grid is that of a whole tensor.
    grids: ValueTable<(ValueId, Option<ValueId>)>,
    /// The float form of levels, so that all readers share it. Never iterated.
    floats: FxHashMap<(Levels, Option<i64>), ValueId>,
}

impl Known {
    /// What the DequantizeLinear operators of the file say.
    pub(super) fn new(g: &Graph, order: &[OpId]) -> Known {
        let mut known = Known { grids: ValueTable::new(), floats: FxHashMap::default() };
        for op in order.iter().filter(|op| g.op(**op).is("DequantizeLinear")) {
            let operands = g.operands(*op);
            if let ([Some(data), Some(scale), ..], Some(y)) = (operands.as_slice(), g.result(*op, 0)) {
                let zero_point = operands.get(2).copied().flatten();
                let plain = g.op(*op).attributes.iter().all(|a| a.name == "axis");
                let one = g.konst(*scale).is_some_and(|t| t.len() == 1);
                if plain && one {
                    let levels = Levels { data: *data, scale: *scale, zero_point };
                    known.floats.entry((levels, None)).or_insert(y);
                }
            }
        }
        known
    }

    /// Notes the grid of what a quantizing operator makes.
    pub(super) fn learn(&mut self, g: &Graph, op: OpId) {
        if !g.has_op(op) {
            return;
        }
        let (node, result) = (g.op(op), |slot| g.result(op, slot));
        if node.is("QuantizeLinear") {
            self.learn_quantized(g, op);
        } else if node.is("Clip")
            && let (Some(x), Some(y)) = (g.operand(op, 0), result(0))
            && let Some(grid) = self.grids.get(x).copied()
        {
            // Integers that are kept within limits stand on the same grid.
            self.grids.insert(y, grid);
        } else if node.is("DynamicQuantizeLinear")
            && let (Some(q), Some(scale), zero_point) = (result(0), result(1), result(2))
        {
            self.grids.insert(q, (scale, zero_point));
        }
    }

    fn learn_quantized(&mut self, g: &Graph, op: OpId) {
        if let (Some(q), Some(scale)) = (g.result(op, 0), g.operand(op, 1))
            && g.konst(scale).is_none_or(|t| t.len() == 1)
        {
            self.grids.insert(q, (scale, g.operand(op, 2)));
        }
    }
}

/// An operator in its graph.
pub(super) struct Site<'a, 'c> {
    model: &'a mut Model,
    cx: &'a mut PassCx<'c>,
    graph: GraphId,
    /// The operator.
    pub(super) id: OpId,
    known: &'a mut Known,
}

impl<'a, 'c> Site<'a, 'c> {
    pub(super) fn new(
        model: &'a mut Model,
        cx: &'a mut PassCx<'c>,
        graph: GraphId,
        id: OpId,
        known: &'a mut Known,
    ) -> Site<'a, 'c> {
        Site { model, cx, graph, id, known }
    }

    pub(super) fn g(&self) -> &Graph {
        self.model.graph(self.graph)
    }

    pub(super) fn g_mut(&mut self) -> &mut Graph {
        self.model.graph_mut(self.graph)
    }

    pub(super) fn op(&self) -> &Op {
        self.g().op(self.id)
    }

    pub(super) fn op_mut(&mut self) -> &mut Op {
        let id = self.id;
        self.g_mut().op_mut(id)
    }

    pub(super) fn opset(&self) -> i64 {
        self.model.onnx_opset()
    }

    pub(super) fn optional(&self, slot: u32) -> Option<ValueId> {
        self.g().operand(self.id, slot)
    }

    /// The operand at a slot.
    pub(super) fn operand(&self, slot: u32) -> Result<ValueId, Miss> {
        self.optional(slot).ok_or_else(|| Miss(format!("operand {slot} is missing")))
    }

    /// The first result.
    pub(super) fn result(&self) -> Result<ValueId, Miss> {
        self.g().result(self.id, 0).ok_or_else(|| Miss::from("it has no result"))
    }

    /// Data with scale and zero point at three slots.
    pub(super) fn levels(&self, [data, scale, zero_point]: [u32; 3]) -> Result<Levels, Miss> {
        let (data, scale) = (self.operand(data)?, self.operand(scale)?);
        if self.dtype(scale).is_some_and(|d| d != DType::Float) {
            return Err(format!("the scale of `{}` is not float32", self.name(data)).into());
        }
        Ok(Levels { data, scale, zero_point: self.optional(zero_point) })
    }

    /// The grid of a value, if it is one for the whole tensor and known.
    pub(super) fn grid(&self, data: ValueId) -> Option<Levels> {
        let (scale, zero_point) = *self.known.grids.get(data)?;
        Some(Levels { data, scale, zero_point })
    }

    /// The constant of a value, also where it is captured from around a body.
    pub(super) fn konst(&self, v: ValueId) -> Option<&Arc<Tensor>> {
        let (graph, v) = self.model.resolve(self.graph, v);
        let g = self.model.graph(graph);
        g.konst(v).filter(|_| !g.is_input(v))
    }

    fn ty(&self, v: ValueId) -> Option<Type> {
        let declared = || self.g().ty(v).cloned();
        match self.konst(v) {
            Some(t) => Some(Type::tensor(t.dtype(), Some(t.dims().iter().map(|d| Dim::from(*d)).collect()))),
            None if self.graph == self.model.main_id() => {
                self.cx.fact(self.model, v).to_type().or_else(declared)
            }
            None => declared(),
        }
    }

    /// The element type of a value, if known.
    pub(super) fn dtype(&self, v: ValueId) -> Option<DType> {
        self.ty(v)?.dtype()
    }

    /// The shape of a value, if known.
    pub(super) fn shape(&self, v: ValueId) -> Option<Shape> {
        self.ty(v)?.shape().cloned()
    }

    /// The rank of a value.
    pub(super) fn rank(&self, v: ValueId) -> Result<usize, Miss> {
        let shape = self.shape(v);
        shape.map(|s| s.len()).ok_or_else(|| Miss(format!("the rank of `{}` is unknown", self.name(v))))
    }

    pub(super) fn name(&self, v: ValueId) -> &str {
        self.g().value(v).name()
    }

    /// Number of scales: 1 for the whole tensor, and so for what is not known (a computed scale).
    pub(super) fn scales(&self, scale: ValueId) -> Result<usize, Miss> {
        let Some(shape) = self.shape(scale) else { return Ok(1) };
        match shape.as_slice() {
            [] => Ok(1),
            [n] => Ok(n.known().map_or(1, |n| n as usize)),
            s if s.iter().all(|d| d.known() == Some(1)) => Ok(1),
            _ => Err("scales for each row of a stack of matrices have no float form".into()),
        }
    }

    /// The axis that a vector of scales is for, `None` for one scale.
    pub(super) fn along(&self, scale: ValueId, axis: i64) -> Result<Option<i64>, Miss> {
        Ok((self.scales(scale)? > 1).then_some(axis))
    }

    /// A miss unless the grid of levels is one for the whole tensor.
    pub(super) fn expect_one_scale(&self, levels: Levels) -> Result<(), Miss> {
        match self.scales(levels.scale)? {
            1 => Ok(()),
            n => Err(format!("`{}` has {n} scales", self.name(levels.data)).into()),
        }
    }

    /// A name made from another, new in every graph of the model: bodies must not hide names from around them.
    pub(super) fn fresh(&self, base: &str) -> String {
        let taken =
            |name: &str| self.model.graph_ids().any(|id| self.model.graph(id).value_named(name).is_some());
        let numbered = (1u64..).map(|n| format!("{base}_{n}"));
        let mut names = std::iter::once(base.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).expect("invariant: a model has finitely many names")
    }

    /// An operator made for this one.
    pub(super) fn beside(&self, spec: OpSpec) -> OpSpec {
        spec.near(self.id).origin(format!("raise-qoperator({})", self.g().label(self.id)))
    }

    /// Adds a constant.
    pub(super) fn add_const(&mut self, base: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh(base);
        self.g_mut().add_const(&name, tensor)
    }

    /// Adds an operator with one new result; its node is named after the result, without `_Output`.
    pub(super) fn emit(&mut self, spec: OpSpec, base: &str, ty: Option<Type>) -> ValueId {
        let name = self.fresh(base);
        let spec = self.beside(spec).name(name.replace("_Output", ""));
        self.g_mut().emit(spec, &name, ty)
    }

    /// The float form of levels; all readers share one DequantizeLinear.
    pub(super) fn dequantize(&mut self, levels: Levels, axis: Option<i64>) -> ValueId {
        if let Some(v) = self.known.floats.get(&(levels, axis)) {
            return *v;
        }
        let Levels { data, scale, zero_point } = levels;
        let mut spec = OpSpec::new("DequantizeLinear").operands([
            Some(data),
            Some(scale),
            self.fitted(zero_point, scale),
        ]);
        if let Some(axis) = axis {
            spec = spec.attr("axis", axis);
        }
        let ty = Some(Type::tensor(DType::Float, self.shape(data)));
        let name = format!("{}_DequantizeLinear_Output", self.name(data));
        let v = self.emit(spec, &name, ty);
        self.known.floats.insert((levels, axis), v);
        v
    }

    /// A zero point of the shape of its scales: `QLinear*` take one beside several scales.
    fn fitted(&mut self, zero_point: Option<ValueId>, scale: ValueId) -> Option<ValueId> {
        let v = zero_point?;
        let (Some(z), Some(scales)) = (self.konst(v), self.konst(scale)) else { return zero_point };
        let (dims, n) = (scales.dims().to_vec(), scales.len());
        if z.len() != 1 || n == 1 {
            return zero_point;
        }
        let bytes: Vec<u8> = z.bytes().iter().copied().cycle().take(z.bytes().len() * n).collect();
        let Ok(z) = Tensor::raw(z.dtype(), &dims, bytes.into()) else { return zero_point };
        let name = self.name(v).to_owned();
        Some(self.add_const(&name, z))
    }

    /// Turns the operator into `op_type` of ONNX on these operands. Attributes stay.
    pub(super) fn become_op(&mut self, op_type: &str, operands: &[Option<ValueId>]) {
        let origin = format!("raise-qoperator({})", self.g().label(self.id));
        let id = self.id;
        let g = self.g_mut();
        for slot in 0..g.operands(id).len() as u32 {
            g.set_operand(id, slot, None);
        }
        for (slot, v) in (0u32..).zip(operands) {
            g.set_operand(id, slot, *v);
        }
        let op = g.op_mut(id);
        op.op_type = op_type.into();
        op.domain = String::new();
        op.origin.push(origin);
    }

    /// Gives the operator a new float value to make at a result slot; returns it. The old value, its type kept, is
    /// made by nothing now.
    pub(super) fn move_result(&mut self, slot: u32, suffix: &str) -> Result<ValueId, Miss> {
        let y = self.g().result(self.id, slot).ok_or_else(|| Miss::from("it has no result"))?;
        let ty = Some(Type::tensor(DType::Float, self.shape(y)));
        let name = self.fresh(&format!("{}_{suffix}", self.name(y)));
        let id = self.id;
        let v = self.g_mut().add_value(&name, ty);
        self.g_mut().set_result(id, slot, Some(v));
        Ok(v)
    }

    /// Quantizes what the operator makes at a result slot: the value that it made before is the quantized form.
    /// `like` are integers of the same type, for operators that omit the zero point.
    pub(super) fn quantize_result(
        &mut self,
        slot: u32,
        scale: ValueId,
        zero_point: Option<ValueId>,
        axis: Option<i64>,
        like: ValueId,
    ) -> Result<(), Miss> {
        let y = self.g().result(self.id, slot).ok_or_else(|| Miss::from("it has no result"))?;
        let float = self.move_result(slot, "QuantizeLinear_Input")?;
        self.quantize_to(float, y, scale, zero_point, axis, like);
        Ok(())
    }

    /// Adds the QuantizeLinear that makes `y` from `float`.
    pub(super) fn quantize_to(
        &mut self,
        float: ValueId,
        y: ValueId,
        scale: ValueId,
        zero_point: Option<ValueId>,
        axis: Option<i64>,
        like: ValueId,
    ) {
        let zero_point = match (zero_point, self.dtype(like)) {
            (None, Some(DType::Int8)) => {
                // Without a zero point QuantizeLinear would make unsigned integers.
                let name = format!("{}_zero_point", self.name(y));
                Some(self.add_const(&name, Tensor::from_i8(&[], &[0])))
            }
            (z, _) => self.fitted(z, scale),
        };
        let name = format!("{}_QuantizeLinear", self.name(y));
        let mut spec =
            OpSpec::new("QuantizeLinear").name(name).operands([Some(float), Some(scale), zero_point]);
        if let Some(axis) = axis {
            spec = spec.attr("axis", axis);
        } else {
            self.known.grids.insert(y, (scale, zero_point));
        }
        let spec = self.beside(spec).results([y]);
        self.g_mut().add_op(spec);
    }

    /// The scale of an accumulator, `factor · a · b`: a constant of the shape of `b` if both are, else computed.
    /// The product of two single precision numbers is rounded once, as a Mul would.
    pub(super) fn product(&mut self, base: &str, a: ValueId, b: ValueId, factor: f32) -> ValueId {
        let name = format!("{base}_scale");
        if let (Some(x), Some(y)) = (self.konst(a), self.konst(b)) {
            let x = f64::from(x.f32s().first().copied().unwrap_or(1.0)) * f64::from(factor);
            let scales: Vec<f32> = y.f32s().iter().map(|y| (x * f64::from(*y)) as f32).collect();
            let dims = y.dims().to_vec();
            return self.add_const(&name, Tensor::from_f32(&dims, &scales));
        }
        let ty = self.ty(b);
        let v = self.emit(OpSpec::new("Mul").operands([a, b]), &name, ty.clone());
        if factor == 1.0 {
            return v;
        }
        let factor = self.add_const(&format!("{base}_factor"), Tensor::scalar_f32(factor));
        self.emit(OpSpec::new("Mul").operands([v, factor]), &name, ty)
    }

    /// Puts a Transpose before operand 0 and another behind the result, for an operator that was told to take its
    /// channels last: `to_first` of data of this rank, and back.
    pub(super) fn channels_first(&mut self, rank: usize) -> Result<(), Miss> {
        let first: Vec<i64> = [0, rank as i64 - 1].into_iter().chain(1..rank as i64 - 1).collect();
        let last: Vec<i64> = [0].into_iter().chain(2..rank as i64).chain([1]).collect();
        let (x, id) = (self.operand(0)?, self.id);
        let name = format!("{}_channels_first", self.name(x));
        let x = self.emit(OpSpec::new("Transpose").attr("perm", first).operands([x]), &name, None);
        self.g_mut().set_operand(id, 0, Some(x));
        let y = self.result()?;
        let inner = self.move_result(0, "channels_first")?;
        let name = self.fresh(&format!("{}_channels_last", self.name(y)));
        let spec = OpSpec::new("Transpose").name(name).attr("perm", last).operands([inner]);
        let spec = self.beside(spec).results([y]);
        self.g_mut().set_type(inner, Some(Type::tensor(DType::Float, None)));
        self.g_mut().add_op(spec);
        Ok(())
    }
}
