//! `plan-quantization`: decides everything, and changes nothing.
//!
//! 1. [`sites`]: each operator with what is known of its operands.
//! 2. [`units`]: an operator and the clamps it absorbs are decided together; the target says which units
//!    have an integer kernel, and some are fixed to float beforehand, each with its reason.
//! 3. [`place`]: which units run in integers, all at once, as a minimum cut; and which of the others are faster if
//!    they quantize their activations in every run.
//! 4. [`params`]: scales and zero points of the values between them, and of the weights ([`dynamic`] where scales of
//!    activations are not planned).
//!
//! The result, a [`QuantPlan`], prints as text, so that decisions are tested without graph surgery.

mod cut;
mod dynamic;
mod equal_scales;
mod float8;
pub(crate) mod islands;
mod params;
mod place;
mod predict;
mod units;

pub(crate) use dynamic::{reads as dynamic_reads, rows};
pub(crate) use units::{NOT_COVERED, units};

use crate::calibration::saturation::weight_levels;
use crate::calibration::{Method, Range, RangeNote, solve};
use crate::config::{Quantized, Scheme};
use crate::frozen::Frozen;
use crate::infer_types::infer_concrete;
use crate::overrides;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::report::{Fate, NodeReport};
use rayon::prelude::*;
use squint_ir::affine::{ChannelLayout, QuantParams};
use squint_ir::types::known_dims;
use squint_ir::{DType, Graph, Model, OpId, OpTable, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::{Costs, Operand, Pairs, Placement, Site, Target, target};
use std::fmt::Write as _;
use std::sync::Arc;

/// What is to be done with every operator and value of the main graph.
#[derive(Clone, Debug, Default)]
pub struct QuantPlan {
    /// Decision of each operator.
    pub ops: OpTable<OpPlan>,
    /// Quantized values: those that get a QuantizeLinear and a DequantizeLinear.
    pub values: ValueTable<ValuePlan>,
    /// Quantized weights and biases of integer contractions.
    pub weights: OpTable<WeightPlan>,
    /// Operators that quantize their activations in every run.
    pub dynamic: OpTable<DynamicPlan>,
    /// Weights that are quantized block by block, for operators on float activations.
    pub blocks: OpTable<BlockPlan>,
    /// The same for the user, in order of execution.
    pub report: Vec<NodeReport>,
    /// What the target's cost model says of a run as planned, and of one in float.
    pub costs: Costs,
}

/// The decision on an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum OpPlan {
    /// Runs in this integer kernel.
    Integer(&'static str),
    /// Runs in this integer kernel, between float values: its activations are quantized in every run.
    Dynamic(&'static str),
    /// Disappears into the integer operator before it.
    Absorbed(OpId),
    /// Runs in float, for this reason.
    Float(String),
    /// Not an operator of activations.
    Plain,
}

/// The decision on a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValuePlan {
    /// Element type.
    pub dtype: DType,
    /// Scale and zero point.
    pub params: QuantParams,
    /// The codes that occur, where the element type has more of them: a Clip keeps the quantizer's result there.
    pub codes: Option<(i32, i32)>,
    /// True if these codes are what absorbed clamps leave: without them the value is the same.
    pub saturates: bool,
    /// True if an integer operator makes the value: then every reader takes it dequantized. Otherwise it
    /// exists in float, and only integer operators read the quantized form.
    pub made_by_integer: bool,
    /// How the parameters were found.
    pub why: String,
    /// What the parameters depend on.
    pub tie: Tie,
    /// What is remarkable about the range.
    pub note: Option<RangeNote>,
}

/// What the parameters of a value depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// They are its own.
    Own,
    /// They are those of this value, always.
    As(ValueId),
    /// They follow from the operator that makes it.
    Fixed,
}

/// The decision on the weight of a contraction.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightPlan {
    /// Operand slot of the weight.
    pub slot: u32,
    /// Element type.
    pub dtype: DType,
    /// Channel axis; `None` for one scale for the whole tensor.
    pub axis: Option<usize>,
    /// The largest level; the smallest is its negative.
    pub qmax: i8,
    /// One scale for each channel.
    pub params: Vec<QuantParams>,
    /// Scales of the bias, products of activation and weight scales; empty without a bias.
    pub bias_scales: Vec<f32>,
    /// Pairs of levels that must not saturate.
    pub pairs: Option<Pairs>,
    /// The levels, in the order of the elements; `None` for the nearest ones.
    pub chosen: Option<Arc<[i8]>>,
    /// The bias before it is rounded; `None` for that of the graph.
    pub bias: Option<Arc<[f32]>>,
}

impl WeightPlan {
    /// How the channels of the weight lie in its elements.
    pub(crate) fn layout(&self, weight: &Tensor) -> Option<ChannelLayout> {
        ChannelLayout::along(weight.dims(), self.axis)
    }

    /// The levels of the weight; `None` if the plan does not fit it.
    pub fn levels(&self, weight: &Tensor) -> Option<Vec<i8>> {
        match &self.chosen {
            Some(levels) => (levels.len() == weight.len()).then(|| levels.to_vec()),
            None => weight_levels(&weight.f32s(), self.layout(weight)?, &self.params, self.pairs, self.qmax),
        }
    }
}

/// The decision on a weight matrix of which blocks have scales of their own. A table is one in which each row is an output,
/// as in a Gemm that transposes.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockPlan {
    /// Operand slot of the matrix.
    pub slot: u32,
    /// Whether the matrix of the graph is transposed: with one row for each output.
    pub transposed: bool,
    /// Element type of the levels, and of the zero points if there are any.
    pub dtype: DType,
    /// Weights in a column that share a scale.
    pub size: usize,
    /// Rows of the matrix: its inner length.
    pub inner: usize,
    /// Columns: outputs.
    pub outputs: usize,
    /// The levels, row by row.
    pub levels: Vec<i16>,
    /// A scale for each block and column, block by block.
    pub scales: Vec<f32>,
    /// The zero points in the same order; empty if they are 0.
    pub zeros: Vec<i16>,
}

/// The decision on an operator that quantizes its activations in every run.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicPlan {
    /// The activations it quantizes.
    pub reads: Vec<ValueId>,
    /// Its weights, each as a matrix whose axis 0 or 1 counts channels.
    pub weights: Vec<WeightPlan>,
}

/// The pass.
pub(crate) struct PlanQuantization;

impl Pass for PlanQuantization {
    fn name(&self) -> &'static str {
        "plan-quantization"
    }

    fn needs(&self) -> Phase {
        Phase::Observed
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Planned)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let draft = Draft::new(model, cx)?;
        cx.plan = draft.plan(cx, &cx.steering, true);
        if cx.config.quantized == Quantized::Float8 {
            float8::convert(model.main(), cx.config, draft.target, &mut cx.plan)?;
        }
        cx.plan.report = report(model, &cx.plan, &draft.sites)?;
        cx.plan.costs = draft.costs(&cx.plan);
        for (v, plan) in cx.plan.values.iter() {
            if let Some(note) = plan.note {
                cx.notes.add(model.main().value(v).name(), note.to_string());
            }
        }
        Ok(Changed::No)
    }
}

/// What has been learnt about accuracy, and steers planning.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    /// The method for activation ranges, with what it found, instead of the configured one.
    pub ranges: Option<(Method, Arc<ValueTable<Range>>)>,
    /// Error at the outputs from quantizing each value alone.
    pub errors: ValueTable<f64>,
    /// The same from quantizing it in every run.
    pub dynamic_errors: ValueTable<f64>,
    /// Nanoseconds that a unit of that error is worth.
    pub price: f64,
}

/// All that a plan is made from besides steering, so that several can be made.
pub(crate) struct Draft<'m> {
    model: &'m Model,
    target: &'static dyn Target,
    sites: Vec<(OpId, Site<'m>)>,
    units: Vec<units::Unit>,
    /// What quantizing values costs in accuracy, in nanoseconds, where that is known beforehand.
    guide: ValueTable<f64>,
}

impl<'m> Draft<'m> {
    pub(crate) fn new(model: &'m Model, cx: &PassCx<'_>) -> Result<Draft<'m>, PassError> {
        let target = resolve_target(&cx.config.target)?;
        types_asked_for(model.main(), target, &cx.config.overrides)?;
        let sites = sites(model, cx)?;
        let mut units = units::units(model.main(), cx, target, &sites);
        units::fix(model, cx, target, &sites, &mut units);
        let mut guide = ValueTable::new();
        if let Some(known) = &cx.config.guide {
            for (name, error) in &known.errors {
                if let Some(v) = model.main().value_named(name) {
                    guide.insert(v, error * known.price);
                }
            }
        }
        Ok(Draft { model, target, sites, units, guide })
    }

    /// A plan, without its report. Scales of weights, which take longest, only on request.
    pub(crate) fn plan(&self, cx: &PassCx<'_>, steering: &Steering, weights: bool) -> QuantPlan {
        let placed = self.place(cx, steering, Priced::All);
        let (method, ranges) = match &steering.ranges {
            Some((method, ranges)) => (*method, ranges.clone()),
            None => (cx.config.method, self.solve(cx, cx.config.method)),
        };
        let choice = |otherwise| params::Choice { method, ranges: ranges.clone(), weights, otherwise };
        let make = |placed: &[place::Placement], choice| {
            params::plan(self.model, cx, self.target, &self.sites, &self.units, placed, choice)
        };
        // Who tries plans does not read reasons.
        let why = if weights { self.reasons(cx, steering, &placed) } else { vec![FASTER; placed.len()] };
        let plan = make(&placed, choice(why));
        if self.is_worth_it(cx, &plan) {
            return plan;
        }
        let float = vec![place::Placement::Float; self.units.len()];
        let why = "integers would save less than 5 % of the time of the whole model";
        make(&float, choice(vec![why; float.len()]))
    }

    /// Where each unit runs, with regard to these prices.
    fn place(&self, cx: &PassCx<'_>, steering: &Steering, priced: Priced) -> Vec<place::Placement> {
        let (overrides, g) = (&cx.config.overrides, self.model.main());
        let price = |errors: &ValueTable<f64>, v| {
            if priced != Priced::All {
                return 0;
            }
            let learnt = errors.get(v).map_or(0.0, |e| e * steering.price);
            (learnt + self.guide.get(v).copied().unwrap_or(0.0)).min(MAX_PRICE) as u64
        };
        let wish = |v| match priced {
            Priced::Nothing => overrides::Wish::default(),
            Priced::Wishes | Priced::All => overrides::of_tensor(overrides, g, v),
        };
        let prices = place::Prices {
            planned: &|v| match (wish(v).float, wish(v).dynamic) {
                (Some(true), _) | (None, Some(true)) => MAX_PRICE as u64,
                (Some(false), _) => 0,
                (None, _) => price(&steering.errors, v),
            },
            dynamic: &|v| match (wish(v).float, wish(v).dynamic) {
                (Some(true), _) | (None, Some(false)) => MAX_PRICE as u64,
                (Some(false), _) | (None, Some(true)) => 0,
                (None, None) => price(&steering.dynamic_errors, v),
            },
            given: &|v| {
                let given = |f: &Frozen| f.values.get(v).is_some_and(|f| f.inherited.is_none());
                cx.config.faithful && cx.frozen.as_ref().is_some_and(given)
            },
        };
        place::place(g, self.target, &self.sites, &self.units, &prices)
    }

    /// Why each unit stays in float that does, though it could run in integers: by what would be placed otherwise if
    /// prices were left out.
    fn reasons(
        &self,
        cx: &PassCx<'_>,
        steering: &Steering,
        placed: &[place::Placement],
    ) -> Vec<&'static str> {
        let float = place::Placement::Float;
        let mut why = vec![FASTER; placed.len()];
        let mut otherwise = |priced, reason: &dyn Fn(usize) -> &'static str| {
            let free = self.place(cx, steering, priced);
            for (i, (placed, free)) in placed.iter().zip(free).enumerate() {
                if *placed == float && free != float {
                    why[i] = reason(i);
                }
            }
        };
        if cx.config.overrides.iter().any(|o| o.wish.float.is_some() || o.wish.dynamic.is_some()) {
            otherwise(Priced::Nothing, &|_| "what it reads or makes is not to be quantized, by request");
        }
        let priced = |errors: &ValueTable<f64>| errors.iter().any(|(_, e)| e * steering.price > 0.0);
        if priced(&steering.errors) || priced(&steering.dynamic_errors) || self.guide.iter().next().is_some()
        {
            let endless = |v: &ValueId| steering.errors.get(*v).is_some_and(|e| e.is_infinite());
            otherwise(Priced::Wishes, &|i| {
                let unit = &self.units[i];
                if unit.reads.iter().chain(&unit.makes).any(endless) {
                    "the model is given its own states: errors of planned scales would add up"
                } else {
                    "it would cost more accuracy than its speed is worth"
                }
            });
        }
        why
    }

    /// False if a plan is predicted to save so little that another processor than those measured may lose by it, while
    /// accuracy is lost on all.
    fn is_worth_it(&self, cx: &PassCx<'_>, plan: &QuantPlan) -> bool {
        const TIME_LEFT: f64 = 0.95;
        let whole = self.target.placement() == Placement::Inputs
            || cx.config.scheme != Scheme::Auto
            // What is integers already is to stay so.
            || cx.frozen.is_some()
            || cx.config.overrides.iter().any(|o| o.wish.float == Some(false))
            || self.units.iter().any(|u| u.border);
        let costs = self.costs(plan);
        whole || plan.is_float() || costs.integer as f64 <= TIME_LEFT * costs.float as f64
    }

    /// What a plan costs.
    pub(crate) fn costs(&self, plan: &QuantPlan) -> Costs {
        predict::predict(self.model.main(), self.target, &self.sites, plan)
    }

    /// Multiply–accumulates of a run.
    pub(crate) fn macs(&self) -> u64 {
        self.sites.iter().map(|(_, site)| site.macs()).fold(0, u64::saturating_add)
    }

    /// The values that operators could quantize in every run, in order of execution.
    pub(crate) fn dynamic_reads(&self) -> Vec<ValueId> {
        let mut seen = ValueTable::new();
        let all = self.units.iter().filter_map(|u| Some((u, u.dynamic.as_ref()?)));
        let reads = all.flat_map(|(unit, d)| dynamic::reads(&self.sites[unit.site].1, d));
        reads.filter(|v| seen.insert(*v, ()).is_none()).collect()
    }

    /// The ranges of all observed values by a method.
    pub(crate) fn solve(&self, cx: &PassCx<'_>, method: Method) -> Arc<ValueTable<Range>> {
        let grid = self.target.activations().grid;
        let sketches: Vec<_> = cx.statistics.sketches.iter().collect();
        let solved: Vec<_> = sketches.par_iter().map(|(v, s)| (*v, solve(s, method, &grid))).collect();
        let mut ranges = ValueTable::new();
        for (v, range) in solved {
            ranges.insert(v, range);
        }
        Arc::new(ranges)
    }
}

/// Which prices placement regards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Priced {
    /// None: speed alone counts.
    Nothing,
    /// What the user asked for.
    Wishes,
    /// Those, and what quantizing values was found to cost in accuracy.
    All,
}

/// Why a unit stays in float whose integer kernel, with what it needs around it, is slower.
const FASTER: &str = "float is faster here";

/// Refuses element types that the target has no integer kernel for.
fn types_asked_for(
    g: &Graph,
    target: &dyn Target,
    overrides: &[overrides::Override],
) -> Result<(), PassError> {
    let (activations, weights) = (target.activations().dtype, target.weights().dtype);
    for o in overrides {
        let Some(dtype) = o.wish.dtype else { continue };
        // Of a node both may be meant, of a tensor only what it is.
        let of_activation = |v: &ValueId| g.konst(*v).is_none() && o.pattern.fits_tensor(g.value(*v).name());
        let meant = o.pattern.is_about_tensors() && g.values().any(|v| of_activation(&v));
        if dtype == activations || dtype == weights && !meant {
            continue;
        }
        let wide = matches!(dtype, DType::Int16 | DType::Uint16);
        let why = if wide { format!(": {}", target.without_16_bits()) } else { String::new() };
        return Err(PassError::Config(format!(
            "override `{o}`: target {} takes {activations} activations and {weights} weights{why}",
            target.name(),
        )));
    }
    Ok(())
}

/// An hour: no gain in speed is worth more.
const MAX_PRICE: f64 = 3.6e12;

/// The target of a name, or an error that lists those there are.
pub(crate) fn resolve_target(name: &str) -> Result<&'static dyn Target, PassError> {
    target(name).ok_or_else(|| {
        let known: Vec<_> = squint_targets::targets().map(|t| format!("`{}`", t.name())).collect();
        PassError::Config(format!("unknown target `{name}`; there are {}", known.join(", ")))
    })
}

/// Every operator of the main graph that has a row, in order of execution.
pub(crate) fn sites<'m>(model: &'m Model, cx: &PassCx<'_>) -> Result<Vec<(OpId, Site<'m>)>, PassError> {
    sites_where(model, cx, &cx.statistics.dims)
}

/// The same where values have these dimensions.
pub(crate) fn sites_where<'m>(
    model: &'m Model,
    cx: &PassCx<'_>,
    dims: &ValueTable<Vec<usize>>,
) -> Result<Vec<(OpId, Site<'m>)>, PassError> {
    let g = model.main();
    // Costs need lengths, so symbols stand for what the first sample had.
    let concrete = infer_concrete(model, dims)?;
    let operand = |value: ValueId| {
        let fact = cx.fact(model, value);
        let inferred = |f: &Fact| f.shape.as_deref().and_then(known_dims);
        let seen = dims.get(value).cloned();
        let dims = seen.or_else(|| inferred(&fact)).or_else(|| concrete.get(value).and_then(inferred));
        Operand { value, fact, dims }
    };
    let opset = model.onnx_opset();
    let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
    Ok(order.into_iter().filter_map(|op| Some((op, Site::new(g, op, opset, operand)?))).collect())
}

pub(crate) fn report(
    model: &Model,
    plan: &QuantPlan,
    sites: &[(OpId, Site<'_>)],
) -> Result<Vec<NodeReport>, PassError> {
    let g = model.main();
    let mut macs = OpTable::new();
    for (op, site) in sites {
        macs.insert(*op, site.macs());
    }
    let row = |op: OpId| {
        let fate = match plan.ops.get(op) {
            Some(OpPlan::Integer(kernel) | OpPlan::Dynamic(kernel)) => Fate::Integer(kernel),
            Some(OpPlan::Absorbed(into)) => match plan.ops.get(*into) {
                Some(OpPlan::Integer(kernel)) => Fate::Integer(kernel),
                _ => Fate::Float("follows an operator that leaves its result in float".into()),
            },
            Some(OpPlan::Float(why)) => Fate::Float(why.clone()),
            Some(OpPlan::Plain) => Fate::Plain,
            None => Fate::Float("squint does not know this operator".into()),
        };
        let macs = macs.get(op).copied().unwrap_or(0);
        NodeReport { node: g.label(op), op_type: g.op(op).qualified_type(), macs, fate }
    };
    Ok(g.topo().map_err(|c| PassError::Model(c.to_string()))?.into_iter().map(row).collect())
}

impl QuantPlan {
    /// True if nothing is quantized.
    pub fn is_float(&self) -> bool {
        self.values.iter().next().is_none()
            && self.dynamic.iter().next().is_none()
            && self.blocks.iter().next().is_none()
    }

    /// True if an operator runs in integers, by itself or within another one.
    pub(crate) fn in_integers(&self, op: OpId) -> bool {
        matches!(self.ops.get(op), Some(OpPlan::Integer(_) | OpPlan::Absorbed(_)))
    }

    /// The plan as text: one line for each operator, followed by the values it quantizes.
    pub fn to_text(&self, g: &Graph) -> String {
        let mut out = String::new();
        for v in &g.inputs {
            self.value_line(g, *v, &mut out);
        }
        for op in g.topo().unwrap_or_default() {
            let decision = match self.ops.get(op) {
                Some(OpPlan::Integer(kernel)) => format!("integer {kernel}"),
                Some(OpPlan::Dynamic(kernel)) => format!("dynamic {kernel}"),
                Some(OpPlan::Absorbed(into)) => format!("absorbed by {}", g.label(*into)),
                Some(OpPlan::Float(why)) => format!("float: {why}"),
                Some(OpPlan::Plain) => "plain".into(),
                None => "float: unknown operator".into(),
            };
            let _ = writeln!(out, "{} {}: {decision}", g.op(op).qualified_type(), g.label(op));
            let dynamic = self.dynamic.get(op).map_or(&[][..], |d| &d.weights);
            if let Some(b) = self.blocks.get(op) {
                let zeros = if b.zeros.is_empty() { "" } else { " and zero points" };
                let n = b.scales.len();
                let _ = writeln!(out, "  weight {} in blocks of {}, {n} scales{zeros}", b.dtype, b.size);
            }
            for w in self.weights.get(op).into_iter().chain(dynamic) {
                let per =
                    w.axis.map_or("per tensor".into(), |a| format!("axis {a}, {} channels", w.params.len()));
                let _ = writeln!(out, "  weight {} {per}", w.dtype);
            }
            for v in g.results(op).into_iter().flatten() {
                self.value_line(g, v, &mut out);
            }
        }
        out
    }

    fn value_line(&self, g: &Graph, v: ValueId, out: &mut String) {
        if let Some(p) = self.values.get(v) {
            let QuantParams { scale, zero_point } = p.params;
            let name = g.value(v).name();
            let codes = p.codes.map_or(String::new(), |(lo, hi)| format!(" in {lo}..{hi}"));
            let _ = writeln!(out, "  {name} {} s={scale:.6} z={zero_point}{codes} [{}]", p.dtype, p.why);
        }
    }
}
