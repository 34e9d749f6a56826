//! Classes of channels that can only be scaled together.
//!
//! A channel of a value may be multiplied with a positive factor if whatever makes the value can multiply
//! its result, and whatever reads it can divide: a contraction does both in its weights. Operators between
//! that commute with positive factors (Relu, pools, moves of elements, sums of equally scaled channels)
//! tie channels of their operands to channels of their results. What commutes with nothing pins its channels
//! to the factor 1.
//!
//! Channels are numbers; a union-find structure over them holds the classes. Through moves of elements the
//! numbers are moved like the elements themselves, by the operators' own kernels, so that shuffles, splits
//! and reshapes need no rules of their own.

use super::coordinates::Coordinates;
use squint_ir::{Graph, Model, OpId, Tensor, ValueId, ValueTable};
use squint_ops::{Class, EvalCx};

/// The channels of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channels {
    /// The axis that they lie along.
    pub(super) axis: usize,
    /// Number of each.
    pub(super) ids: Vec<u32>,
}

/// An operator that can take factors into its constants.
pub(super) struct Absorber {
    /// The operator.
    pub(super) op: OpId,
    /// Which constants.
    pub(super) kind: Kind,
}

/// How an operator takes factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// The weight at slot 1 by those of data and result, the bias at slot 2 by those of the result.
    Contraction,
    /// The constant at this slot, which is added, by those of the result: of this rank, along this axis.
    Addend { slot: u32, axis: usize, rank: usize },
    /// Scale and bias of a LayerNormalization, at slots 1 and 2, by those of the result.
    Norm,
}

/// A Clip: factors must not change what it clips.
pub(super) struct Limit {
    /// Its result.
    pub(super) value: ValueId,
    /// Lower bound.
    pub(super) lo: f32,
    /// Upper bound.
    pub(super) hi: f32,
}

/// All classes of a graph.
pub(super) struct Classes {
    parent: Vec<u32>,
    channels: ValueTable<Labels>,
    /// Operators that take factors.
    pub(super) absorbers: Vec<Absorber>,
    /// Clips on the way.
    pub(super) limits: Vec<Limit>,
}

/// Where in a value which channel lies.
#[derive(Clone)]
enum Labels {
    Along(Channels),
    /// A number for each element.
    Dense(Tensor),
}

/// The class of all channels whose factor is 1.
const PINNED: u32 = 0;

/// Elements of the largest value whose channels are followed through moves.
const MAX_ELEMENTS: usize = 1 << 24;

impl Classes {
    /// The classes of the main graph. `dims` has the dimensions of its values in a typical run.
    pub(super) fn new(model: &Model, order: &[OpId], dims: &ValueTable<Vec<usize>>) -> Classes {
        let classes = Classes {
            parent: vec![PINNED],
            channels: ValueTable::new(),
            absorbers: Vec::new(),
            limits: Vec::new(),
        };
        let mut walk = Walk { model, g: model.main(), dims, classes };
        for op in order {
            walk.step(*op);
        }
        for v in &model.main().outputs {
            walk.pin(*v);
        }
        walk.classes
    }

    /// The channels of a value, unless they lie in no order that an operator could scale.
    pub(super) fn of(&self, v: ValueId) -> Option<&Channels> {
        match self.channels.get(v)? {
            Labels::Along(c) => Some(c),
            Labels::Dense(_) => None,
        }
    }

    /// The values that have a channel with another factor than 1.
    pub(super) fn scaled(&self, factors: &[f64]) -> Vec<ValueId> {
        let changes = |id: u32| factors[self.class(id)] != 1.0;
        let scaled = |labels: &Labels| match labels {
            Labels::Along(c) => c.ids.iter().any(|id| changes(*id)),
            Labels::Dense(t) => t.to_i64s().unwrap_or_default().iter().any(|id| changes(*id as u32)),
        };
        self.channels.iter().filter(|(_, labels)| scaled(labels)).map(|(v, _)| v).collect()
    }

    /// The number that stands for the class of a channel.
    pub(super) fn class(&self, mut id: u32) -> usize {
        while self.parent[id as usize] != id {
            id = self.parent[id as usize];
        }
        id as usize
    }

    /// Upper bound of the numbers of classes.
    pub(super) fn len(&self) -> usize {
        self.parent.len()
    }

    /// True if the factor of a class must be 1.
    pub(super) fn pinned(&self, class: usize) -> bool {
        class == PINNED as usize
    }

    /// Fixes the factors of all channels of a value to 1.
    pub(super) fn pin(&mut self, v: ValueId) {
        let ids: Vec<u32> = match self.channels.get(v) {
            Some(Labels::Along(c)) => c.ids.clone(),
            Some(Labels::Dense(t)) => {
                let mut ids: Vec<u32> = t.to_i64s().unwrap_or_default().iter().map(|i| *i as u32).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            }
            None => return,
        };
        for id in ids {
            self.tie(PINNED, id);
        }
    }

    fn fresh(&mut self, axis: usize, n: usize) -> Labels {
        let first = self.parent.len() as u32;
        self.parent.extend(first..first + n as u32);
        Labels::Along(Channels { axis, ids: (first..first + n as u32).collect() })
    }

    fn tie(&mut self, a: u32, b: u32) {
        let (a, b) = (self.shorten(a), self.shorten(b));
        // The lower number stands for the class: the pinned ones are 0.
        self.parent[a.max(b) as usize] = a.min(b);
    }

    fn shorten(&mut self, mut id: u32) -> u32 {
        while self.parent[id as usize] != id {
            let up = self.parent[id as usize];
            self.parent[id as usize] = self.parent[up as usize];
            id = up;
        }
        id
    }
}

struct Walk<'m> {
    model: &'m Model,
    g: &'m Graph,
    dims: &'m ValueTable<Vec<usize>>,
    classes: Classes,
}

impl<'m> Walk<'m> {
    fn step(&mut self, op: OpId) {
        let node = self.g.op(op);
        let done = match node.op_type.as_str() {
            _ if !node.is_onnx() || node.bodies().next().is_some() => None,
            "Conv" | "Gemm" | "MatMul" => self.contraction(op),
            "Relu" | "LeakyRelu" => self.pass(op, 0),
            "PRelu" if self.operand(op, 1).is_some_and(|v| self.konst(v).is_some()) => self.pass(op, 0),
            "Clip" => self.clip(op),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "Resize" | "Upsample"
            | "Pad" => self.spatial(op),
            "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" => self.reduce(op),
            "Add" | "Sub" => self.sum(op),
            "Mul" | "Div" => self.product(op),
            "Concat" => self.concat(op),
            "LayerNormalization" => self.norm(op),
            _ => self.movement(op),
        };
        if done.is_none() {
            for v in self.g.operands(op).into_iter().chain(self.g.captures(op)).flatten() {
                self.pin(v);
            }
        }
    }

    /// A contraction: the channels of its result are new.
    fn contraction(&mut self, op: OpId) -> Option<()> {
        let (node, x, w) = (self.g.op(op), self.operand(op, 0)?, self.operand(op, 1)?);
        let weight = self.konst(w)?;
        // A weight that others use cannot take the factors of one.
        self.g.only_use(w)?;
        let outputs = Coordinates::new(node, weight.dims())?.outputs;
        if let Some(b) = self.g.operand(op, 2) {
            let dims = self.konst(b)?.dims();
            let per_output = dims.last() == Some(&outputs) && dims.iter().product::<usize>() == outputs;
            (per_output && self.g.only_use(b).is_some()).then_some(())?;
        }
        let last = self.dims.get(x)?.len().checked_sub(1)?;
        let axis = if node.op_type == "MatMul" { last } else { 1 };
        let inputs = Coordinates::new(node, weight.dims())?.inputs;
        if self.along(x, axis).is_none_or(|c| c.ids.len() != inputs) {
            self.pin(x);
        }
        let labels = self.classes.fresh(axis, outputs);
        self.result(op, labels);
        self.classes.absorbers.push(Absorber { op, kind: Kind::Contraction });
        Some(())
    }

    /// A result with the channels of an operand.
    fn pass(&mut self, op: OpId, slot: u32) -> Option<()> {
        if let Some(labels) = self.classes.channels.get(self.operand(op, slot)?).cloned() {
            self.result(op, labels);
        }
        Some(())
    }

    fn clip(&mut self, op: OpId) -> Option<()> {
        let bound = |slot: u32, name: &str, open: f32| match self.g.operand(op, slot) {
            Some(v) => self.konst(v)?.scalar_value().map(|x| x as f32),
            None => Some(self.g.op(op).float(name).unwrap_or(open)),
        };
        let (lo, hi) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        self.classes.limits.push(Limit { value: self.g.result(op, 0)?, lo, hi });
        self.pass(op, 0)
    }

    /// An operator that works on each channel of axis 1 by itself and commutes with factors.
    fn spatial(&mut self, op: OpId) -> Option<()> {
        let (node, x) = (self.g.op(op), self.operand(op, 0)?);
        let n = self.along(x, 1)?.ids.len();
        let y = self.g.result(op, 0)?;
        // What is filled in beside the data must be zero.
        let filled = match node.op_type.as_str() {
            "Resize" => node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize"),
            "Pad" if node.string("mode").unwrap_or("constant") == "constant" => {
                let fill = self.g.operand(op, 2);
                let zero = |v| self.konst(v).and_then(|t| t.scalar_value()) == Some(0.0);
                fill.is_some_and(|v| !zero(v)) || node.float("value").unwrap_or(0.0) != 0.0
            }
            _ => false,
        };
        (!filled && self.dims.get(y)?.get(1) == Some(&n)).then_some(())?;
        self.pass(op, 0)
    }

    fn reduce(&mut self, op: OpId) -> Option<()> {
        let (node, x) = (self.g.op(op), self.operand(op, 0)?);
        let rank = self.dims.get(x)?.len() as i64;
        let Channels { axis, ids } = self.channels(x)?.clone();
        let axes = match self.g.operand(op, 1) {
            Some(v) => self.konst(v)?.to_i64s()?,
            None => node.ints("axes")?.to_vec(),
        };
        let axes: Vec<usize> = axes.iter().map(|a| (if *a < 0 { a + rank } else { *a }) as usize).collect();
        (!axes.is_empty() && !axes.contains(&axis)).then_some(())?;
        let gone =
            if node.int("keepdims") == Some(0) { axes.iter().filter(|a| **a < axis).count() } else { 0 };
        self.result(op, Labels::Along(Channels { axis: axis - gone, ids }));
        Some(())
    }

    fn sum(&mut self, op: OpId) -> Option<()> {
        let (a, b) = (self.operand(op, 0)?, self.operand(op, 1)?);
        let rank = self.dims.get(self.g.result(op, 0)?)?.len();
        match (self.konst(a), self.konst(b)) {
            (None, None) => {
                let (ca, cb) = (self.aligned(a, rank)?, self.aligned(b, rank)?);
                (ca.axis == cb.axis && ca.ids.len() == cb.ids.len()).then_some(())?;
                for (i, j) in ca.ids.iter().zip(&cb.ids) {
                    self.classes.tie(*i, *j);
                }
                self.result(op, Labels::Along(ca));
            }
            (None, Some(c)) | (Some(c), None) => {
                let (x, slot) = if self.konst(a).is_none() { (a, 1) } else { (b, 0) };
                let channels = self.aligned(x, rank)?;
                (c.rank() <= rank && self.dims.get(x)?.len() == rank).then_some(())?;
                let n = channels.ids.len();
                let lengths = c.dims().iter().rev().nth(rank - channels.axis - 1);
                (lengths.is_none_or(|l| *l == 1 || *l == n)).then_some(())?;
                self.classes
                    .absorbers
                    .push(Absorber { op, kind: Kind::Addend { slot, axis: channels.axis, rank } });
                self.result(op, Labels::Along(channels));
            }
            _ => return None,
        }
        Some(())
    }

    /// One factor passes, the other is pinned: that with fewer elements, which is a gate.
    fn product(&mut self, op: OpId) -> Option<()> {
        let (a, b) = (self.operand(op, 0)?, self.operand(op, 1)?);
        let rank = self.dims.get(self.g.result(op, 0)?)?.len();
        let size = |v: ValueId| self.dims.get(v).map(|d| d.iter().product::<usize>());
        let division = self.g.op(op).op_type == "Div";
        let (x, gate) = match (self.konst(a), self.konst(b)) {
            (None, Some(_)) => (a, b),
            (Some(_), None) if !division => (b, a),
            (None, None) if a == b => return None,
            (None, None) if division || size(a)? > size(b)? => (a, b),
            (None, None) if size(a)? < size(b)? => (b, a),
            _ => return None,
        };
        let channels = self.aligned(x, rank)?;
        self.pin(gate);
        self.result(op, Labels::Along(channels));
        Some(())
    }

    fn concat(&mut self, op: OpId) -> Option<()> {
        let operands: Vec<ValueId> = self.g.operands(op).into_iter().flatten().collect();
        let rank = self.dims.get(*operands.first()?)?.len() as i64;
        let axis = self.g.op(op).int("axis")?;
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        if operands.iter().all(|v| self.channels(*v).is_none_or(|c| c.axis == axis)) {
            let ids = operands.iter().map(|v| match self.channels(*v) {
                Some(c) => Some(c.ids.clone()),
                None if self.classes.channels.contains(*v) => None,
                None => Some(vec![PINNED; *self.dims.get(*v)?.get(axis)?]),
            });
            let ids = ids.collect::<Option<Vec<_>>>()?.concat();
            self.result(op, Labels::Along(Channels { axis, ids }));
            return Some(());
        }
        let all: Option<Vec<Channels>> = operands.iter().map(|v| self.channels(*v).cloned()).collect();
        let all = all?;
        let first = all.first()?.clone();
        all.iter().all(|c| c.axis == first.axis && c.ids.len() == first.ids.len()).then_some(())?;
        for (i, j) in all.iter().flat_map(|c| first.ids.iter().zip(&c.ids)) {
            self.classes.tie(*i, *j);
        }
        self.result(op, Labels::Along(first));
        Some(())
    }

    /// LayerNormalization over the last axis: its own scale and bias make new channels.
    fn norm(&mut self, op: OpId) -> Option<()> {
        let x = self.operand(op, 0)?;
        let rank = self.dims.get(x)?.len();
        let scale = self.konst(self.operand(op, 1)?)?;
        let axis = self.g.op(op).int("axis").unwrap_or(-1);
        let biased =
            self.g.operand(op, 2).is_none_or(|b| self.konst(b).is_some_and(|b| b.dims() == scale.dims()));
        (scale.rank() == 1 && (axis == -1 || axis + 1 == rank as i64) && biased).then_some(())?;
        let n = scale.len();
        self.pin(x);
        let labels = self.classes.fresh(rank - 1, n);
        self.result(op, labels);
        self.classes.absorbers.push(Absorber { op, kind: Kind::Norm });
        Some(())
    }

    /// An operator that moves elements: the numbers of channels are moved by its kernel.
    fn movement(&mut self, op: OpId) -> Option<()> {
        let node = self.g.op(op);
        let row = squint_ops::row(&node.domain, &node.op_type)?;
        let x = self.operand(op, 0)?;
        (row.class == Class::Movement).then_some(())?;
        let Some(labels) = self.classes.channels.get(x) else { return Some(()) };
        let numbers = labels.dense(self.dims.get(x)?)?;
        let mut inputs: Vec<Option<&Tensor>> = vec![Some(&numbers)];
        for v in self.g.operands(op).into_iter().skip(1) {
            inputs.push(match v {
                Some(v) => Some(self.konst(v)?),
                None => None,
            });
        }
        let results = self.g.results(op);
        let opset = self.model.onnx_opset();
        let moved =
            (row.eval?)(&EvalCx { op: node, opset, inputs: &inputs, n_results: results.len() }).ok()?;
        for (v, t) in results.into_iter().zip(moved) {
            if let Some(v) = v {
                self.classes.channels.insert(v, Labels::of(t)?);
            }
        }
        Some(())
    }

    fn pin(&mut self, v: ValueId) {
        self.classes.pin(v);
    }

    fn result(&mut self, op: OpId, labels: Labels) {
        if let Some(y) = self.g.result(op, 0) {
            self.classes.channels.insert(y, labels);
        }
    }

    fn operand(&self, op: OpId, slot: u32) -> Option<ValueId> {
        self.g.operand(op, slot)
    }

    /// A constant, unless users of the model may put something else in its place.
    fn konst(&self, v: ValueId) -> Option<&'m Tensor> {
        if self.g.is_input(v) { None } else { self.g.konst(v).map(AsRef::as_ref) }
    }

    fn channels(&self, v: ValueId) -> Option<&Channels> {
        self.classes.of(v)
    }

    fn along(&self, v: ValueId, axis: usize) -> Option<&Channels> {
        self.channels(v).filter(|c| c.axis == axis)
    }

    /// The channels of an operand that is broadcast to a rank.
    fn aligned(&self, v: ValueId, rank: usize) -> Option<Channels> {
        let Channels { axis, ids } = self.channels(v)?.clone();
        Some(Channels { axis: axis + rank - self.dims.get(v)?.len(), ids })
    }
}

impl Labels {
    /// A number for each element of a value of these dimensions.
    fn dense(&self, dims: &[usize]) -> Option<Tensor> {
        match self {
            Labels::Dense(t) => Some(t.clone()),
            Labels::Along(Channels { axis, ids }) => {
                let n =
                    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_ELEMENTS)?;
                (dims.get(*axis) == Some(&ids.len())).then_some(())?;
                let inner: usize = dims[axis + 1..].iter().product();
                let numbers: Vec<i64> =
                    (0..n).map(|i| i64::from(ids[i / inner.max(1) % ids.len().max(1)])).collect();
                Some(Tensor::from_i64(dims, &numbers))
            }
        }
    }

    /// The labels that a tensor of numbers amounts to.
    fn of(t: Tensor) -> Option<Labels> {
        let numbers = t.to_i64s()?;
        let dims = t.dims();
        // Axis 1 first: that is where channels usually lie, also where there is one only.
        let axes = (1..dims.len()).chain(0..dims.len().min(1));
        for axis in axes {
            let inner: usize = dims[axis + 1..].iter().product();
            let stride = |c: usize| c * inner;
            let ids: Vec<i64> = (0..dims[axis]).filter_map(|c| numbers.get(stride(c)).copied()).collect();
            if ids.len() == dims[axis]
                && numbers.iter().enumerate().all(|(i, n)| *n == ids[i / inner.max(1) % ids.len().max(1)])
            {
                return Some(Labels::Along(Channels { axis, ids: ids.iter().map(|i| *i as u32).collect() }));
            }
        }
        Some(Labels::Dense(t))
    }
}
