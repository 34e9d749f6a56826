//! Models that are quantized already, compiled for a target: what is kept of their grids, and what is not.

use crate::config::{Config, Scheme};
use crate::frozen::{Difference, DifferenceKind, Frozen, Levels};
use crate::pass::{PassCx, PassError};
use crate::plan::{NOT_COVERED, OpPlan, resolve_target};
use crate::raise_fake_quant::is_quant_node;
use crate::raise_qoperator;
use crate::report::Report;
use squint_ir::{Graph, Model, OpId, ValueId};
use squint_ops::Class;
use squint_targets::Placement;

/// What became of a quantized model.
#[derive(Clone, Debug, Default)]
pub struct Retargeted {
    /// What became of its operators.
    pub report: Report,
    /// Values and weights on the grids that they had.
    pub kept: Kept,
    /// Everything else.
    pub differences: Vec<Difference>,
    /// Operators that stay in float because a value was not quantized, by name.
    pub uncovered: Vec<String>,
}

/// How much is as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Activations on exactly the grid that they had.
    pub values: usize,
    /// Activations that had a grid.
    pub of_values: usize,
    /// Weights with exactly the integers and scales that they had.
    pub weights: usize,
    /// Weights in integers.
    pub of_weights: usize,
}

/// The configuration without what needs statistics.
pub(crate) fn settled(config: &Config) -> Config {
    Config { scheme: Scheme::Static, effort: 0, guide: None, ..config.clone() }
}

/// Fails unless the model holds quantizers in some form.
pub(crate) fn expect_quantizers(model: &Model) -> Result<(), PassError> {
    if is_quantized(model) {
        return Ok(());
    }
    Err(PassError::Model(
        "there is nothing quantized in this model; a float model is quantized by `squint quantize`".into(),
    ))
}

/// True if a graph of the model, functions included, holds quantizers or operators on integers.
pub fn is_quantized(model: &Model) -> bool {
    let quantizes = |g: &Graph, id: OpId| {
        let op = g.op(id);
        let linear =
            matches!(op.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear");
        linear || is_quant_node(op) || is_chain(g, id)
    };
    let any = |id| {
        let g = model.graph(id);
        g.ops().any(|op| quantizes(g, op))
    };
    raise_qoperator::occurs(model) || model.graph_ids().any(any)
}

/// Contractions on integers, by their types.
const INTEGER: &[&str] = &[
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
];

/// Contractions of the main graph whose weights are quantized already, and all of them.
pub(crate) fn quantized_contractions(model: &Model) -> (usize, usize) {
    let g = model.main();
    let made_by_quantizer = |v: ValueId| {
        let maker = g.producer(v).map(|(op, _)| g.op(op));
        maker.is_some_and(|op| op.op_type == "DequantizeLinear" || is_quant_node(op))
    };
    let (mut quantized, mut all) = (0, 0);
    for id in g.ops() {
        let op = g.op(id);
        let integer = INTEGER.contains(&op.op_type.as_str());
        let row = squint_ops::row(&op.domain, &op.op_type);
        if integer || row.is_some_and(|r| r.class == Class::Contraction) {
            all += 1;
            quantized += usize::from(integer || g.operand(id, 1).is_some_and(made_by_quantizer));
        }
    }
    (quantized, all)
}

/// Fails if nothing is left that could be quantized; notes what is quantized already.
pub(crate) fn expect_float(model: &Model, cx: &mut PassCx<'_>) -> Result<(), PassError> {
    match quantized_contractions(model) {
        (0, _) => Ok(()),
        (n, all) if n == all => Err(PassError::Model(format!(
            "this model is quantized already: of its {all} contractions none is in float; `squint retarget` compiles it \
             for a target, `squint qat convert` does so after training, `squint explain` shows how it runs"
        ))),
        (n, all) => {
            let message = format!(
                "{n} of {all} contractions are quantized already: they stay as they are, and the others take over \
                 their scales where they meet"
            );
            cx.notes.add("", message);
            Ok(())
        }
    }
}

/// Rounding between factors: somebody's own quantizer, or at least worth a closer look.
fn is_chain(g: &Graph, id: OpId) -> bool {
    g.op(id).is("Round")
}

/// Fails unless some activation is on a grid.
pub(crate) fn expect_grids(model: &Model, cx: &PassCx<'_>) -> Result<(), PassError> {
    if cx.frozen.as_ref().is_some_and(|f| f.values.iter().next().is_some()) {
        return Ok(());
    }
    let dynamic = model.main().ops().any(|op| model.main().op(op).op_type == "DynamicQuantizeLinear");
    let why = match (dynamic, cx.frozen.as_ref().is_some_and(|f| !f.is_empty())) {
        (true, _) => {
            "its activations are quantized in every run, so that no scale of them is there to be kept"
        }
        (false, true) => {
            "only its weights are quantized, so that no scale of an activation is there to be kept"
        }
        (false, false) => "nothing in it is quantized with a constant scale and at most 8 bits",
    };
    Err(PassError::Model(format!(
        "{why}: the model runs as it is; for planned scales, quantize the float model with `squint quantize`"
    )))
}

/// Compares the plan with the grids that were there.
///
/// # Errors
/// If there is no such target.
pub(crate) fn compare(model: &Model, cx: &PassCx<'_>) -> Result<Retargeted, PassError> {
    let target = resolve_target(&cx.config.target)?;
    let g = model.main();
    let Some(frozen) = &cx.frozen else { return Ok(Retargeted::default()) };
    let mut out = Retargeted { differences: frozen.differences.clone(), ..Retargeted::default() };
    let inputs_only = target.placement() == Placement::Inputs;
    for v in g.values() {
        compare_value(g, cx, frozen, v, inputs_only, &mut out);
    }
    for (op, plan) in cx.plan.weights.iter() {
        let Some(v) = g.operand(op, plan.slot) else { continue };
        out.kept.of_weights += 1;
        let given = frozen.weights.get(v);
        if let (Some(w), Some(chosen)) = (given, &plan.chosen) {
            let zero = plan.params.first().map_or(0, |p| p.zero_point);
            let codes = chosen.iter().map(|q| i32::from(*q) - zero);
            let n = w.levels.iter().zip(codes).filter(|(k, q)| i32::from(**k) != *q).count();
            if n > 0 {
                out.differences.push(Difference {
                    value: g.value(v).name().into(),
                    kind: DifferenceKind::Weight,
                    was: format!("{n} of its integers are 128 or -128"),
                    is: "127 or -127: a symmetric grid of 8 bits ends there".into(),
                });
            } else {
                out.kept.weights += 1;
            }
            continue;
        }
        let was = match given {
            Some(w) => format!("integers with {} scales", w.scales.len()),
            None => "float".into(),
        };
        let is = match frozen.weights.contains(v) {
            true => {
                format!("rounded again: the kernel of `{}` cannot compute with these integers", g.label(op))
            }
            false => "rounded: its integers were not given".into(),
        };
        out.differences.push(Difference {
            value: g.value(v).name().into(),
            kind: DifferenceKind::Weight,
            was,
            is,
        });
    }
    for (op, plan) in cx.plan.ops.iter() {
        let row = squint_ops::row(&g.op(op).domain, &g.op(op).op_type);
        let counts = row.is_some_and(|r| matches!(r.class, Class::Contraction | Class::Binary));
        if counts && matches!(plan, OpPlan::Float(why) if why == NOT_COVERED) {
            out.uncovered.push(g.label(op));
        }
    }
    Ok(out)
}

fn compare_value(
    g: &Graph,
    cx: &PassCx<'_>,
    frozen: &Frozen,
    v: ValueId,
    inputs_only: bool,
    out: &mut Retargeted,
) {
    let Some(was) = frozen.values.get(v) else {
        if let Some(plan) = cx.plan.values.get(v).filter(|_| g.konst(v).is_none()) {
            let is = format!(
                "{} s={:.6} z={}: {}",
                plan.dtype, plan.params.scale, plan.params.zero_point, plan.why
            );
            let (value, kind) = (g.value(v).name().into(), DifferenceKind::Measured);
            out.differences.push(Difference { value, kind, was: "float".into(), is });
        }
        return;
    };
    let given = was.inherited.is_none();
    let text = |levels: Levels| {
        let (lo, hi) = levels.range();
        format!("{} levels of {:.6}, {lo:.4}..{hi:.4}", levels.count(), levels.scale)
    };
    if given {
        out.kept.of_values += 1;
    }
    let mut differ = |kind, is: String| {
        let difference = Difference { value: g.value(v).name().into(), kind, was: text(was.levels), is };
        out.differences.push(difference);
    };
    let Some(plan) = cx.plan.values.get(v).filter(|p| !g.is_output(v) || p.made_by_integer) else {
        if given {
            let absorbed = |u: squint_ir::Use| matches!(cx.plan.ops.get(u.op), Some(OpPlan::Absorbed(_)));
            let is = match inputs_only {
                _ if g.only_use(v).is_some_and(absorbed) => "rounded once, behind the clamp that follows",
                true => "not rounded: this target quantizes what operators read, not what they make",
                false => "not rounded: an operator in float makes it",
            };
            differ(DifferenceKind::Unquantized, is.into());
        }
        return;
    };
    let same = plan.params.scale == was.levels.scale;
    if same && given {
        out.kept.values += 1;
    } else if !given {
        if !plan.why.starts_with("as ") {
            differ(
                DifferenceKind::Inherited,
                format!("s={:.6} z={}", plan.params.scale, plan.params.zero_point),
            );
        }
    } else {
        differ(
            DifferenceKind::Regridded,
            format!("{} s={:.6} z={}: {}", plan.dtype, plan.params.scale, plan.params.zero_point, plan.why),
        );
    }
}
