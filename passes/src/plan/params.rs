//! Scales and zero points, once it is decided what runs in integers.

use super::dynamic;
use super::equal_scales::equalize;
use super::islands;
use super::place::Placement;
use super::units::Unit;
use super::{OpPlan, QuantPlan, Tie, ValuePlan, WeightPlan};
use crate::calibration::saturation::raise_scales;
use crate::calibration::weights::channel_params;
use crate::calibration::{Method, Range, solve};
use crate::config::WeightBits;
use crate::frozen::{Expressed, FrozenValue, Levels};
use crate::overrides::{of_node, of_tensor};
use crate::pass::PassCx;
use crate::spread_grids::clamp;
use squint_ir::affine::{ChannelLayout, QuantParams, bias_scale, weight_scale_for_bias};
use squint_ir::{Model, Op, OpId, Tensor, ValueId, ValueTable};
use squint_ops::Port;
use squint_targets::{DynamicKernel, Format, Operand, Pairs, Params, Site, Support, Target};
use std::sync::Arc;

/// The ranges to use, and how much to plan.
pub(super) struct Choice {
    /// Method that found the ranges.
    pub(super) method: Method,
    /// Ranges of observed values.
    pub(super) ranges: Arc<ValueTable<Range>>,
    /// Whether scales of weights are wanted.
    pub(super) weights: bool,
    /// Of each unit, why it stays in float if it could run in integers.
    pub(super) otherwise: Vec<&'static str>,
}

/// The plan for a placement.
pub(super) fn plan(
    model: &Model,
    cx: &PassCx<'_>,
    target: &dyn Target,
    sites: &[(OpId, Site<'_>)],
    units: &[Unit],
    placed: &[Placement],
    choice: Choice,
) -> QuantPlan {
    let plan = QuantPlan::default();
    let mut planner = Planner { model, cx, target, choice, plan, read_in_integers: ValueTable::new() };
    for (unit, placed) in units.iter().zip(placed) {
        if *placed == Placement::Integer {
            for v in &unit.reads {
                planner.read_in_integers.insert(*v, ());
            }
        }
    }
    for (i, (unit, placed)) in units.iter().zip(placed).enumerate() {
        let (op, site) = &sites[unit.site];
        let decision = match (placed, &unit.support, &unit.dynamic) {
            (Placement::Integer, Support::Integer { kernel, params, .. }, _) => {
                planner.integer_unit(*op, site, unit, *params);
                OpPlan::Integer(kernel)
            }
            (Placement::Dynamic, _, Some(kernel)) => planner.dynamic_unit(*op, site, kernel),
            (_, Support::Plain, _) => OpPlan::Plain,
            _ => {
                let fixed = unit.fixed.clone().filter(|why| !why.is_empty());
                OpPlan::Float(fixed.unwrap_or_else(|| planner.choice.otherwise[i].into()))
            }
        };
        for clamp in &unit.clamps {
            let decision = match decision {
                OpPlan::Integer(_) => OpPlan::Absorbed(*op),
                _ => OpPlan::Float("follows an operator that leaves its result in float".into()),
            };
            planner.plan.ops.insert(*clamp, decision);
        }
        planner.plan.ops.insert(*op, decision);
    }
    if target.placement() == squint_targets::Placement::Inputs {
        equalize(model.main(), sites, &mut planner.plan);
    }
    planner.plan
}

struct Planner<'a, 'c> {
    model: &'a Model,
    cx: &'a PassCx<'c>,
    target: &'a dyn Target,
    choice: Choice,
    plan: QuantPlan,
    read_in_integers: ValueTable<()>,
}

impl Planner<'_, '_> {
    fn integer_unit(&mut self, op: OpId, site: &Site<'_>, unit: &Unit, params: Params) {
        let format = self.target.activations();
        // What comes from outside a region is quantized with a range of its own.
        for v in &unit.reads {
            if !self.plan.values.contains(*v) {
                let mut solved = self.solve(*v, format, &[]);
                let g = self.model.main();
                if g.producer(*v).is_some_and(|(op, _)| clamp(g, op).is_some()) {
                    // An operator in float keeps it within its levels.
                    solved.codes = None;
                }
                self.set(*v, format, solved, false);
            }
        }
        let inputs_only = self.target.placement() == squint_targets::Placement::Inputs;
        for (slot, o) in (0u32..).zip(&site.operands) {
            if let Some(o) = o
                && !inputs_only
                && site.row.port(slot) == Port::Act
                && let Some(t) = o.konst()
            {
                let solved = self.frozen_constant(o.value, format).unwrap_or_else(|| {
                    let (lo, hi) = t.f32s().iter().fold((0f32, 0f32), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
                    Solved::new(self.params(format, lo, hi), "constant")
                });
                self.set(o.value, format, solved, false);
            }
        }
        for v in unit.makes.iter().filter(|_| !inputs_only) {
            let given = self.cx.config.faithful && self.frozen(*v).is_some_and(|f| f.inherited.is_none());
            if unit.float_result && !given && !self.read_in_integers.contains(*v) {
                continue;
            }
            let given = islands::given(self.model.main(), *v, format);
            let given = given.is_some() || self.frozen(*v).is_some();
            let solved = match params {
                Params::Fixed { .. } if given => self.solve(*v, format, &unit.clamps),
                Params::Own => self.solve(*v, format, &unit.clamps),
                Params::Fixed { lo, hi } => {
                    Solved { tie: Tie::Fixed, ..Solved::new(self.params(format, lo, hi), "fixed") }
                }
                Params::SameAsInput => {
                    let source = unit.reads.first().and_then(|r| Some((r, self.plan.values.get(*r)?)));
                    match source {
                        Some((r, p)) => {
                            let name = self.model.main().value(*r).name();
                            Solved { tie: Tie::As(*r), ..Solved::new(p.params, &format!("as {name}")) }
                        }
                        None => self.solve(*v, format, &[]),
                    }
                }
            };
            self.set(*v, format, solved, true);
        }
        if self.choice.weights
            && let Some((slot, weight, axis)) = site.weight()
        {
            let g = self.model.main();
            let wish = of_node(&self.cx.config.overrides, &g.label(op), &g.op(op).qualified_type());
            let axis = axis.filter(|_| wish.per_channel != Some(false));
            let input = unit.reads.first().and_then(|v| self.plan.values.get(*v)).map(|p| p.params.scale);
            let bias = site.operands.iter().zip(0u32..).find(|(_, s)| site.row.port(*s) == Port::Bias);
            let bias = bias.and_then(|(o, _)| o.as_ref()).filter(|_| !inputs_only);
            if let Some(w) = input.and_then(|input| self.weight(site.op, slot, weight, axis, input, bias)) {
                self.plan.weights.insert(op, w);
            }
        }
    }

    fn dynamic_unit(&mut self, op: OpId, site: &Site<'_>, kernel: &DynamicKernel) -> OpPlan {
        match dynamic::plan(self.cx, self.target, site, kernel, self.choice.weights) {
            Some(plan) => {
                self.plan.dynamic.insert(op, plan);
                OpPlan::Dynamic(kernel.name)
            }
            None => OpPlan::Float("the shape of its weight does not fit it".into()),
        }
    }

    fn params(&self, format: Format, lo: f32, hi: f32) -> QuantParams {
        self.cx.config.constraints.params(format.grid, lo, hi)
    }

    /// The grid that a value has already.
    fn frozen(&self, v: ValueId) -> Option<&FrozenValue> {
        self.cx.frozen.as_ref()?.values.get(v)
    }

    /// The grid of a constant operand, if its integers are given.
    fn frozen_constant(&self, v: ValueId, format: Format) -> Option<Solved> {
        let w = self.cx.frozen.as_ref()?.weights.get(v)?;
        let &[scale] = &*w.scales else { return None };
        let there = w.levels.iter().fold((0i16, 0i16), |(lo, hi), k| (lo.min(*k), hi.max(*k)));
        let fits = i32::from(there.0) >= w.bounds.0 && i32::from(there.1) <= w.bounds.1;
        let levels = Levels { scale, lowest: w.bounds.0.min(0), highest: w.bounds.1.max(0) };
        // Its elements are levels, so that none needs to be kept from a code.
        fits.then(|| Solved::new(levels.express(format).params, "as it was"))
    }

    /// Scale and zero point of a value that clamps may limit further.
    fn solve(&self, v: ValueId, format: Format, clamps: &[OpId]) -> Solved {
        if let Some(frozen) = self.frozen(v) {
            let g = self.model.main();
            let limits = clamps.iter().filter_map(|c| clamp(g, *c));
            let levels = limits.fold(frozen.levels, |levels, (lo, hi)| levels.clamped(lo, hi));
            let Expressed { params, codes, exact } = levels.express(format);
            let (lo, hi) = levels.range();
            let why = match (exact, frozen.inherited) {
                (false, _) => format!("for the given range {lo:.4}..{hi:.4}"),
                (true, Some(from)) if g.has_value(from) => format!("follows from {}", g.value(from).name()),
                (true, _) => "as it was".into(),
            };
            return Solved { params, codes, saturates: exact && !clamps.is_empty(), why, tie: Tie::Own };
        }
        let (params, why) = self.choose(v, format);
        Solved { params, codes: None, saturates: false, why, tie: Tie::Own }
    }

    fn choose(&self, v: ValueId, format: Format) -> (QuantParams, String) {
        let wish = of_tensor(&self.cx.config.overrides, self.model.main(), v);
        let own = wish.method.zip(self.cx.statistics.sketch(v)).map(|(m, s)| solve(s, m, &format.grid));
        if wish.range.is_none()
            && let Some(params) = islands::given(self.model.main(), v, format)
        {
            return (params, "as the model has it".into());
        }
        let range = match wish.range {
            Some(range) => Some((range, "asked for".to_owned())),
            None => own.or(self.choice.ranges.get(v).copied()).map(|r| {
                let method = wish.method.unwrap_or(self.choice.method);
                (self.cx.config.constraints.widen(r.lo, r.hi), method.to_string())
            }),
        };
        let Some(((mut lo, mut hi), why)) = range else {
            return (format.grid.params(0.0, 0.0), "not observed".into());
        };
        if wish.symmetric == Some(true) {
            hi = hi.max(-lo);
            lo = -hi;
        }
        (self.params(format, lo, hi), format!("{why} {lo:.4}..{hi:.4}"))
    }

    fn set(&mut self, v: ValueId, format: Format, solved: Solved, made_by_integer: bool) {
        let note = self.choice.ranges.get(v).and_then(|r| r.note).filter(|_| self.frozen(v).is_none());
        let Solved { params, codes, saturates, why, tie } = solved;
        let plan =
            ValuePlan { dtype: format.dtype, params, codes, saturates, made_by_integer, why, tie, note };
        self.plan.values.insert(v, plan);
    }

    /// The plan of a weight whose integers are given; `None` if they are not, or the target cannot compute with them.
    fn frozen_weight(
        &self,
        op: &Op,
        slot: u32,
        weight: &Operand,
        axis: Option<usize>,
        input_scale: f32,
        bias: Option<&Operand>,
    ) -> Option<WeightPlan> {
        let frozen = self.cx.frozen.as_ref()?.weights.get(weight.value)?;
        let t = weight.konst()?;
        // The kernel for stacked matrices takes one scale: per-channel scales fail when it runs.
        let axis = axis.filter(|a| t.rank() <= 2 || *a + 1 != t.rank());
        if frozen.axis.is_some() && frozen.axis != axis {
            return None;
        }
        let (mut codes, zero_point) = frozen.codes()?;
        if zero_point != 0 && self.target.weights().grid.symmetric && self.target.activations().grid.symmetric
        {
            return None;
        }
        if self.target.placement() == squint_targets::Placement::Inputs {
            // The grid of TensorRT's weights ends at -127.
            codes.iter_mut().for_each(|q| *q = (*q).max(-i8::MAX));
        }
        let params: Vec<QuantParams> =
            frozen.scales.iter().map(|s| QuantParams { scale: *s, zero_point }).collect();
        let pairs = self.target.saturating_pairs(op, t.dims());
        if let Some(pairs) = pairs {
            // Levels that the kernel would add wrongly have to become others.
            let layout = ChannelLayout::along(t.dims(), axis)?;
            let exact = |c: usize| {
                let mut levels: Vec<i8> = layout.channel(&codes, c).flatten().copied().collect();
                !pairs.limit(&mut levels)
            };
            if zero_point != 0 || !(0..layout.channels).all(exact) {
                return None;
            }
        }
        let scales = params.iter().map(|p| bias_scale(input_scale, p.scale));
        let bias_scales = if bias.and_then(Operand::konst).is_some() { scales.collect() } else { Vec::new() };
        Some(WeightPlan {
            slot,
            dtype: self.target.weights().dtype,
            axis: frozen.axis,
            qmax: i8::MAX,
            params,
            bias_scales,
            pairs,
            chosen: Some(codes.into()),
            bias: None,
        })
    }

    /// Scales of a weight, raised where the bias would not fit its 32-bit grid, and of the bias.
    fn weight(
        &self,
        op: &Op,
        slot: u32,
        weight: &Operand,
        axis: Option<usize>,
        input_scale: f32,
        bias: Option<&Operand>,
    ) -> Option<WeightPlan> {
        let t = weight.konst()?;
        if let Some(plan) = self.frozen_weight(op, slot, weight, axis, input_scale, bias) {
            return Some(plan);
        }
        // The kernel for stacked matrices takes one scale: per-channel scales fail when it runs.
        let axis = axis.filter(|a| t.rank() <= 2 || *a + 1 != t.rank());
        let (mut params, pairs, qmax) = weight_params(self.cx, self.target, op, t, axis)?;
        let bias = bias.and_then(Operand::konst);
        if let Some(b) = bias {
            for (i, b) in b.f32s().iter().enumerate() {
                let p = if params.len() == 1 { &mut params[0] } else { params.get_mut(i)? };
                p.scale = weight_scale_for_bias(p.scale, input_scale, *b);
            }
        }
        for p in &mut params {
            p.scale = self.cx.config.constraints.scale(p.scale);
        }
        let bias_scales = match bias {
            Some(_) => params.iter().map(|p| bias_scale(input_scale, p.scale)).collect(),
            None => Vec::new(),
        };
        let dtype = self.target.weights().dtype;
        Some(WeightPlan { slot, dtype, axis, qmax, params, bias_scales, pairs, chosen: None, bias: None })
    }
}

/// Scale and zero point of a value, and how they were found.
struct Solved {
    params: QuantParams,
    codes: Option<(i32, i32)>,
    saturates: bool,
    why: String,
    tie: Tie,
}

impl Solved {
    fn new(params: QuantParams, why: &str) -> Solved {
        Solved { params, codes: None, saturates: false, why: why.into(), tie: Tie::Own }
    }
}

/// Scales of the weight of an operator, one for each channel of an axis or one for all of it, the pairs of levels that
/// they are chosen for, and the largest level; `None` if there is no such axis.
pub(super) fn weight_params(
    cx: &PassCx<'_>,
    target: &dyn Target,
    op: &Op,
    t: &Tensor,
    axis: Option<usize>,
) -> Option<(Vec<QuantParams>, Option<Pairs>, i8)> {
    let mut pairs = target.saturating_pairs(op, t.dims());
    let mut qmax = target.weights().grid.qmax;
    if let Some(training) = cx.config.training {
        // What is trained moves: levels are limited so that no pair can come to saturate.
        if pairs.take().is_some() {
            qmax = Pairs::LIMIT / 2;
        }
        if training.weight_bits == WeightBits::Four {
            qmax = 7;
        }
    }
    let data = t.f32s();
    let layout = ChannelLayout::along(t.dims(), axis)?;
    let mut params = channel_params(&data, layout, cx.config.weight_method, qmax)?;
    if let Some(pairs) = pairs {
        raise_scales(&data, layout, &mut params, pairs, qmax);
    }
    for p in &mut params {
        p.scale = cx.config.constraints.scale(p.scale);
    }
    Some((params, pairs, qmax as i8))
}
