//! Units: an operator with the clamps that vanish into it, decided together.

use super::{dynamic, islands};
use crate::config::{Quantized, Scheme};
use crate::overrides::of_node;
use crate::pass::PassCx;
use crate::reach::BEYOND;
use squint_ir::{Graph, Model, OpId, OpTable, ValueId};
use squint_ops::Class;
use squint_targets::{DynamicKernel, FloatResult, Operand, Params, Placement, Site, Support, Target};

/// An operator and the clamps it absorbs.
pub(crate) struct Unit {
    /// Position of the operator in the list of sites.
    pub(crate) site: usize,
    /// Absorbed Relu and Clip operators, in order.
    pub(crate) clamps: Vec<OpId>,
    /// Activations it reads.
    pub(crate) reads: Vec<ValueId>,
    /// Values it makes, after the clamps.
    pub(crate) makes: Vec<ValueId>,
    /// What the target does with it.
    pub(crate) support: Support,
    /// True if it can run in integers and still leave its result in float.
    pub(crate) float_result: bool,
    /// True for a QuantizeLinear or DequantizeLinear of the model: its float side is quantized whatever is planned.
    pub(crate) border: bool,
    /// Why it is not quantized by planned scales, whatever that saves; `None` if it may be.
    pub(crate) fixed: Option<String>,
    /// The kernel in which it could quantize its activations in every run.
    pub(crate) dynamic: Option<DynamicKernel>,
    /// True if the user wants no other quantization than that.
    pub(crate) dynamic_only: bool,
}

/// The units of a graph, in order of execution, with nothing fixed yet.
pub(crate) fn units(
    g: &Graph,
    cx: &PassCx<'_>,
    target: &dyn Target,
    sites: &[(OpId, Site<'_>)],
) -> Vec<Unit> {
    let mut by_op: OpTable<usize> = OpTable::new();
    let mut units: Vec<Unit> = Vec::new();
    for (i, (op, site)) in sites.iter().enumerate() {
        let inside = islands::is_inside(g, *op, site);
        let support = match target.support(site) {
            Support::Integer { .. } | Support::Float { .. } if inside => {
                Support::Float { reason: "quantized already" }
            }
            support => support,
        };
        // What will be folded into its contraction after training is a part of it already.
        let folds = cx.config.keeps_batch_normalization() && folds_later(g, *op, site);
        if (support == Support::Absorbed || folds)
            && let Some(unit) = absorber(g, *op, site, &by_op, &units)
        {
            by_op.insert(*op, unit);
            units[unit].clamps.push(*op);
            units[unit].float_result = false;
            units[unit].makes = g.results(*op).into_iter().flatten().collect();
            continue;
        }
        by_op.insert(*op, units.len());
        let reads = target.quantized_operands(site).into_iter().filter_map(|s| site.operand(s as usize));
        let mut reads: Vec<ValueId> = reads.filter(|o| o.konst().is_none()).map(|o| o.value).collect();
        let mut makes: Vec<ValueId> = site.results.iter().flatten().map(|o| o.value).collect();
        let border = islands::is_border(g, *op);
        if border {
            // The integers beyond it are not for us.
            if site.op.op_type == "QuantizeLinear" { makes.clear() } else { reads.clear() }
        }
        let float_result = leaves_float(g, *op, &support);
        units.push(Unit {
            site: i,
            clamps: Vec::new(),
            reads,
            makes,
            support,
            float_result,
            border,
            fixed: None,
            dynamic: dynamic::kernel(target, site).ok().filter(|_| !inside),
            dynamic_only: false,
        });
    }
    units
}

/// Fixes to float what cannot run in integers or should not, each with its reason.
pub(super) fn fix(
    model: &Model,
    cx: &PassCx<'_>,
    target: &dyn Target,
    sites: &[(OpId, Site<'_>)],
    units: &mut [Unit],
) {
    let g = model.main();
    for unit in units.iter_mut() {
        let (op, site) = &sites[unit.site];
        let never = never_reason(g, cx, *op, site, unit);
        if never.is_some() || cx.config.scheme == Scheme::Static {
            unit.dynamic = None;
        }
        unit.fixed = match (&unit.support, cx.config.scheme) {
            (Support::Plain, _) => Some(String::new()),
            (_, Scheme::Dynamic) => {
                unit.dynamic_only = true;
                let no_kernel = dynamic::kernel(target, site).err().map(str::to_owned);
                Some(no_kernel.or(never).unwrap_or_default())
            }
            _ => unsupported_reason(cx, target, site, unit)
                .or(never)
                .or_else(|| unseen_reason(g, cx, target, site, unit)),
        };
    }
    // Where results are not quantized, nothing is quantized that no weighted operator reads.
    if target.placement() == Placement::Regions {
        keep_tail_in_float(cx, sites, units);
    }
}

/// Why an operator of a model that was quantized stays in float, where the target would have it in integers.
pub(crate) const NOT_COVERED: &str = "its weight, or a value that it reads or makes, was not quantized";

fn leaves_float(g: &Graph, op: OpId, support: &Support) -> bool {
    let Support::Integer { float_result, .. } = support else { return false };
    match float_result {
        FloatResult::Never => false,
        FloatResult::Always => true,
        FloatResult::UnlessReadBy(reader) => {
            let mut uses = g.results(op).into_iter().flatten().flat_map(|v| g.uses(v));
            !uses.any(|u| g.op(u.op).is(reader))
        }
    }
}

/// The unit whose result a clamp clips, if the clamp can vanish into it: the value between is used for
/// nothing else, and zero is not clipped away.
fn absorber(g: &Graph, op: OpId, site: &Site<'_>, by_op: &OpTable<usize>, units: &[Unit]) -> Option<usize> {
    let x = g.operand(op, 0)?;
    let (producer, 0) = g.producer(x)? else { return None };
    g.only_use(x)?;
    let unit = *by_op.get(producer)?;
    let own = matches!(units[unit].support, Support::Integer { params: Params::Own, .. });
    let is_clamp = site.row.class == Class::Clamp;
    (own && (!is_clamp || clamps_around_zero(site))).then_some(unit)
}

/// True for a BatchNormalization that can be folded into the contraction before it.
fn folds_later(g: &Graph, op: OpId, site: &Site<'_>) -> bool {
    let node = g.op(op);
    let parameters = (1..5).all(|slot| site.operand(slot).is_some_and(|o| o.konst().is_some()));
    let maker = g.operand(op, 0).and_then(|x| g.producer(x)).map(|(op, _)| g.op(op));
    node.is("BatchNormalization")
        && g.results(op).into_iter().flatten().count() == 1
        && parameters
        && maker.is_some_and(|m| ["Conv", "ConvTranspose", "Gemm"].iter().any(|t| m.is(t)))
}

/// True if the limits of a Relu or Clip are constant and contain zero, so that an integer grid that ends
/// at the limits does the same.
fn clamps_around_zero(site: &Site<'_>) -> bool {
    if site.op.op_type == "Relu" {
        return true;
    }
    let limit = |slot: usize, open: f64| match site.operand(slot) {
        None => Some(open),
        Some(o) => o.konst().and_then(|t| t.scalar_value()),
    };
    match (site.op.op_type.as_str(), limit(1, f64::NEG_INFINITY), limit(2, f64::INFINITY)) {
        ("Clip", Some(lo), Some(hi)) => lo <= 0.0 && hi > 0.0,
        _ => false,
    }
}

fn unsupported_reason(cx: &PassCx<'_>, target: &dyn Target, site: &Site<'_>, unit: &Unit) -> Option<String> {
    match &unit.support {
        Support::Integer { .. } if cx.config.quantized == Quantized::Float8 => {
            target.float8(site).err().map(str::to_owned)
        }
        Support::Integer { .. } => None,
        Support::Float { reason } => Some((*reason).into()),
        Support::Absorbed => Some("a clamp that follows no integer operator".into()),
        Support::Plain => Some(String::new()),
    }
}

/// Why an operator is not quantized in any way.
fn never_reason(g: &Graph, cx: &PassCx<'_>, op: OpId, site: &Site<'_>, unit: &Unit) -> Option<String> {
    let (name, op_type) = (g.label(op), g.op(op).qualified_type());
    if cx.config.keeps_float(&name) || of_node(&cx.config.overrides, &name, &op_type).float == Some(true) {
        return Some("kept in float by request".into());
    }
    if cx.beyond.contains(op) {
        return Some(BEYOND.into());
    }
    let infinite = |v: &&ValueId| cx.statistics.sketch(**v).is_some_and(|s| s.n_non_finite() > 0);
    if let Some(v) = unit.reads.iter().chain(&unit.makes).find(infinite) {
        return Some(format!("calibration saw infinite or NaN elements in `{}`", g.value(*v).name()));
    }
    let bad_weight = |o: &&Operand| o.konst().is_some_and(|t| t.f32s().iter().any(|x| !x.is_finite()));
    if unit.dynamic.is_none() && !matches!(unit.support, Support::Integer { .. }) {
        return None;
    }
    let bad = site.operands.iter().flatten().find(bad_weight)?;
    Some(format!("constant `{}` has infinite or NaN elements", g.value(bad.value).name()))
}

/// Why the range of an activation is not known.
fn unseen_reason(
    g: &Graph,
    cx: &PassCx<'_>,
    target: &dyn Target,
    site: &Site<'_>,
    unit: &Unit,
) -> Option<String> {
    let unseen = |v: &ValueId| cx.statistics.sketch(*v).is_none_or(|s| s.n_finite() == 0);
    let makes = match target.placement() {
        Placement::Regions => &unit.makes[..],
        Placement::Inputs => &[],
    };
    if let Some(frozen) = &cx.frozen {
        // Nor is a weight rounded that was not.
        let weight = site.weight().is_some_and(|(_, w, _)| !frozen.weights.contains(w.value));
        // A result that may stay in float needs no grid.
        let makes = if unit.float_result { &[][..] } else { makes };
        let unseen = weight || unit.reads.iter().chain(makes).any(&unseen);
        return unseen.then(|| NOT_COVERED.into());
    }
    let v = unit.reads.iter().chain(makes).find(|v| unseen(v))?;
    Some(format!("calibration saw no finite element of `{}`", g.value(*v).name()))
}

/// Operators behind the last contraction stay float: integers there save little and round what the user
/// reads.
fn keep_tail_in_float(cx: &PassCx<'_>, sites: &[(OpId, Site<'_>)], units: &mut [Unit]) {
    // What was quantized behind it stays so.
    let given = |v: &ValueId| {
        cx.frozen.as_ref().is_some_and(|f| f.values.get(*v).is_some_and(|f| f.inherited.is_none()))
    };
    let mut leads_to_contraction: squint_ir::ValueTable<()> = squint_ir::ValueTable::new();
    for unit in units.iter_mut().rev() {
        let (_, site) = &sites[unit.site];
        let contraction =
            site.row.class == Class::Contraction && matches!(unit.support, Support::Integer { .. });
        let leads = contraction
            || unit.border
            || unit.makes.iter().any(|v| leads_to_contraction.contains(*v) || given(v));
        if leads {
            for v in &unit.reads {
                leads_to_contraction.insert(*v, ());
            }
        } else if unit.fixed.is_none() {
            unit.fixed = Some("behind the last contraction".into());
        }
    }
}
