//! The compiler from top to bottom: read this to know what squint does.

use crate::calibration::Counting;
use crate::config::{Config, OperatorFormat, Scheme};
use crate::evidence::{Evidence, Known};
use crate::float_graph::FloatGraph;
use crate::pass::{Changed, Pass, PassCx, PassError};
use crate::reach::Reach;
use crate::recording::{DataRecord, Recording};
use crate::report::{Note, Notes, Report};
use crate::runner::{Hooks, run};
use crate::*;
use squint_ir::execute::{Execute, Samples};
use squint_ir::fingerprint::Fingerprint;
use squint_ir::{Model, ValueId};
use std::borrow::Cow;
use std::time::{Duration, Instant};

mod planned;

use planned::plan_until;

/// The float graph made canonical, typed and small.
const OPTIMIZE: &[&dyn Pass] = &[
    // First, so that no other pass, no target and no executor has to know functions; nothing is lost, as a
    // call means exactly its body.
    &inline_functions::InlineFunctions,
    // Everything later assumes one spelling of each operator and an operator set that can say what the
    // target needs.
    &canonicalize::Canonicalize,
    &raise_opset::RaiseOpset,
    // Folding and fusing ask for types and constants.
    &infer_types::InferTypes,
    &fold_constants::FoldConstants,
    // Ranks that a branch would have may be ruled out by what stands behind.
    &rule_out_branches::RuleOutBranches,
    // Folding decides conditions on ranks and options.
    &inline_branches::InlineBranches,
    // Folding turns computed weights and shapes into constants, which lets more be inferred.
    &infer_types::InferTypes,
    // Patterns share what is equal: a second copy of a part would be a use outside of the match.
    &merge_common_subexpressions::MergeCommonSubexpressions,
    &fuse::Fuse,
    // Fusing finds lookups, too.
    &fold_lookups::FoldLookups,
    // Folding and fusing make weights, too.
    &flush_denormals::FlushDenormals,
    // What is known outside of bodies is known now. What they no longer capture is dead below.
    &optimize_bodies::OptimizeBodies,
    // Equal work after fusing is found once.
    &merge_common_subexpressions::MergeCommonSubexpressions,
    &eliminate_dead_code::EliminateDeadCode,
    &infer_types::InferTypes,
];

/// What only a model that is quantized needs, before all else.
const PREPARE: &[&dyn Pass] = &[
    // Functions hide element types, and so do inputs with defaults.
    &inline_functions::InlineFunctions,
    &canonicalize::Canonicalize,
    // Before folding and fusing, whose rules are for float32.
    &compute_in_float32::ComputeInFloat32,
];

/// The final float graph in operators that have integer kernels, and which of its values are watched while it runs.
/// (Calibration follows, outside the list,
/// because it needs an executor and data.)
const OBSERVE: &[&dyn Pass] = &[
    // Whatever the target, so that one calibration serves them all; and when all that goes into weights is in them.
    &subpixel_convolutions::SubpixelConvolutions,
    &infer_types::InferTypes,
    &insert_observers::InsertObservers,
];

/// From statistics to the quantized graph.
const QUANTIZE: &[&dyn Pass] = &[
    // Decides everything and changes nothing.
    &plan::PlanQuantization,
    // Reads only the plan.
    &emit_qdq::EmitQdq,
    // Reads and leaves float values, whichever way those before and behind it went.
    &emit_dynamic::EmitDynamic,
    // [`OperatorFormat::Qoperator`] is made of it here, by `lower-qoperator`.
    &eliminate_dead_code::EliminateDeadCode,
    &finish::Finish,
];

/// What is left in float, as the target's float kernels want it.
const TAILOR: &[&dyn Pass] = &[
    &infer_types::InferTypes,
    // Before others write on what it looks for.
    &tailor::restore_transposed::PASS,
    &infer_types::InferTypes,
    &tailor::avoid_denormals::PASS,
    &tailor::expand_hard_swish::PASS,
    &tailor::expand_prelu::PASS,
    &tailor::expand_activations::PASS,
    &tailor::expand_lrn::PASS,
    &tailor::fuse_gelu::PASS,
    &tailor::fuse_silu::PASS,
    &eliminate_dead_code::EliminateDeadCode,
    &infer_types::InferTypes,
    &tailor::move_softmax_axis::PASS,
    // Pictures are what the next passes know.
    &tailor::lift_convolutions::PASS,
    &infer_types::InferTypes,
    &tailor::pack_narrow_convolutions::PASS,
    &infer_types::InferTypes,
    &tailor::scale_in_blocks::PASS,
    &tailor::floor_nearest::PASS,
    &tailor::resize_in_blocks::PASS,
    &tailor::hold_quantizers::PASS,
    &tailor::enter_layout::PASS,
    &infer_types::InferTypes,
    &tailor::sum_before_normalization::PASS,
    &tailor::part_transposes::PASS,
    // Last, as it changes shapes.
    &tailor::align_channels::PASS,
    // Nothing looks at dequantized values any more.
    &tailor::hold_transposes::PASS,
    &eliminate_dead_code::EliminateDeadCode,
];

/// All that is not quantized in a type of 16 bits, if that is asked for: when quantizers are there, whose scales have the
/// type of what is around them.
const NARROW: &[&dyn Pass] = &[
    &compute_in_half::ComputeInHalf,
    // Constants in the type that they had.
    &eliminate_dead_code::EliminateDeadCode,
];

/// To a model of which only weights are quantized, without statistics.
const WEIGHTS: &[&dyn Pass] = &[
    &plan_weight_blocks::PlanWeightBlocks,
    // Reads only the plan.
    &emit_weight_blocks::EmitWeightBlocks,
    &eliminate_dead_code::EliminateDeadCode,
    &finish::Finish,
];

/// From statistics to a float graph with quantizers that can be trained.
const EXPORT: &[&dyn Pass] = &[
    &plan::PlanQuantization,
    // Reads only the plan.
    &emit_fake_quant::EmitFakeQuant,
    &eliminate_dead_code::EliminateDeadCode,
    &finish::Finish,
];

/// A quantized model as the float model that computes the same: for executing it where the runtime is not
/// there, never for writing it.
const LOWER: &[&dyn Pass] = &[
    &inline_functions::InlineFunctions,
    // Integer operators become float operators between quantizers, with the same arithmetic.
    &raise_qoperator::RaiseQoperator,
    // Recurrent ones that quantize in every run have no such form: all but the rounding of their states is kept.
    &dequantize_recurrent::DequantizeRecurrent,
    &raise_fake_quant::RaiseFakeQuant,
    // Weights and biases become the numbers that their codes stand for; the quantizers of data stay.
    &dequantize_constants::DequantizeConstants,
    // Those of data to 8-bit floats, which executors do not have.
    &widen_float8::WidenFloat8,
    // Some tools write a DequantizeLinear for each reader of a value.
    &merge_common_subexpressions::MergeCommonSubexpressions,
    &eliminate_dead_code::EliminateDeadCode,
];

/// What is told of a quantized model, whoever wrote it: before all else.
const FREEZE: &[&dyn Pass] = &[
    // Functions hide element types, and exporters put quantizers into them.
    &inline_functions::InlineFunctions,
    &canonicalize::Canonicalize,
    // One spelling of quantizers: before constants are folded, in which those of weights would vanish.
    &raise_qoperator::RaiseQoperator,
    &raise_fake_quant::RaiseFakeQuant,
    // What is computed in half precision between quantizers is computed in float now, as everything is below.
    &compute_in_float32::ComputeInFloat32,
    // Scales that lie along an axis, and that exporters compute.
    &raise_opset::RaiseOpset,
    &infer_types::InferTypes,
    &fold_constants::FoldConstants,
    &infer_types::InferTypes,
    // Its line is said by a scale, which is no other grid.
    &raise_hard_sigmoid::RaiseHardSigmoid,
    &freeze_quantizers::FreezeQuantizers,
    // What only served quantizers hides that values have one reader.
    &eliminate_dead_code::EliminateDeadCode,
];

/// From the grids of a quantized model to what planning asks for: nothing is run.
const SPREAD: &[&dyn Pass] = &[&spread_grids::SpreadGrids];

/// What other parts of the compiler call on: no part of every compilation.
const ON_DEMAND: &[&dyn Pass] = &[
    // One form for all who read models that are quantized already.
    &raise_qoperator::RaiseQoperator,
    // The other form, for runtimes that are told to optimize nothing, and for tools that read no other.
    &lower_qoperator::LowerQoperator,
];

/// Stages that run the model on data, as reports name them, in their order.
pub const RUNNING: [&str; 6] = [
    equalize::NAME,
    calibrate::NAME,
    refine::NAME,
    repair::NAME,
    weight_blocks::NAME_OF_SCALING,
    weight_blocks::NAME_OF_ROUNDING,
];

/// The passes of [`QUANTIZE`] for the format that is asked for, or of [`EXPORT`] for a model that is to be trained.
fn quantize_passes(config: &Config) -> Vec<&'static dyn Pass> {
    if config.training.is_some() {
        return EXPORT.to_vec();
    }
    let base = if config.scheme == Scheme::WeightOnly { WEIGHTS } else { QUANTIZE };
    let lower: &[&dyn Pass] = match config.format {
        OperatorFormat::Qdq => &[],
        OperatorFormat::Qoperator => &[&lower_qoperator::LowerQoperator],
    };
    let before = |name: &str| base.iter().position(|p| p.name() == name).unwrap_or(base.len());
    let (emitted, end) = (before("eliminate-dead-code"), before("finish"));
    [&base[..emitted], lower, &base[emitted..end], TAILOR, NARROW, &base[end..]].concat()
}

/// Writes the quantized operators of any model in one format, and changes nothing else. Whether anything changed; what
/// stays in the other, with the reason, is in `notes`.
///
/// # Errors
/// If the model is not well-formed, or its operator set is too old to say it.
pub fn convert(model: &mut Model, format: OperatorFormat, notes: &mut Notes) -> Result<bool, PassError> {
    let config = Config::new("cpu-vnni");
    let mut cx = PassCx::new(&config);
    let pass: &dyn Pass = match format {
        OperatorFormat::Qdq => &raise_qoperator::RaiseQoperator,
        OperatorFormat::Qoperator => &lower_qoperator::LowerQoperator,
    };
    let changed = pass.run(model, &mut cx)? == Changed::Yes;
    if changed {
        eliminate_dead_code::EliminateDeadCode.run(model, &mut cx)?;
    }
    cx.notes.iter().for_each(|n| notes.add(n.place.clone(), n.message.clone()));
    Ok(changed)
}

/// A configuration with what follows from the numbers that it asks for, as every compilation begins.
///
/// # Errors
/// If the target does not compute with them.
pub fn settled(config: &Config) -> Result<Config, PassError> {
    numbers::settled(Cow::Borrowed(config)).map(Cow::into_owned)
}

/// Passes that can be named on their own, in tests and by `run-passes`: those of the pipeline, those that
/// run on demand, and each rule of `fuse` under its own name.
pub fn pass_named(name: &str) -> Option<Box<dyn Pass>> {
    let listed = PREPARE
        .iter()
        .chain(OPTIMIZE)
        .chain(OBSERVE)
        .chain(QUANTIZE)
        .chain(TAILOR)
        .chain(NARROW)
        .chain(EXPORT)
        .chain(WEIGHTS)
        .chain(ON_DEMAND)
        .chain(LOWER)
        .chain(FREEZE)
        .chain(SPREAD)
        .find(|p| p.name() == name);
    match listed {
        Some(p) => Some(Box::new(Listed(*p))),
        None => fuse::rule_named(name).map(|r| Box::new(r) as Box<dyn Pass>),
    }
}

/// Rewrites the float graph only, at last for the float kernels of the target.
///
/// # Errors
/// If the model is not well-formed.
pub fn optimize(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Report, PassError> {
    let mut cx = PassCx::new(config);
    let mut report = optimize_in(model, &mut cx, hooks)?;
    report.timing.extend(run(TAILOR, model, &mut cx, hooks)?);
    report.ops_fused = op_count(model);
    Ok(report)
}

/// As [`optimize`], and where a rule of fusion applied, or why it did not.
///
/// # Errors
/// As [`optimize`]; and if there is no rule of this name.
pub fn optimize_traced(
    model: &mut Model,
    rule: &str,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, RuleTrace), PassError> {
    fuse::rule_named(rule).ok_or_else(|| fuse::no_such_rule(rule))?;
    let mut cx = PassCx::new(config);
    let report = optimize_in(model, &mut cx, hooks)?;
    let applied = cx.rewrites.get(rule).copied().unwrap_or_default();
    Ok((report, RuleTrace { applied, missed: fuse::near_misses(rule, model, &mut cx)? }))
}

/// What became of a rule of fusion.
pub struct RuleTrace {
    /// How often it applied.
    pub applied: usize,
    /// Operators of the optimized graph, bodies included, at which its pattern begins to fit, each with the
    /// reason why it did not apply there.
    pub missed: Vec<Note>,
}

fn optimize_in(model: &mut Model, cx: &mut PassCx<'_>, hooks: &Hooks<'_>) -> Result<Report, PassError> {
    let ops_before = op_count(model);
    let timing = run(OPTIMIZE, model, cx, hooks)?;
    let notes = cx.notes.iter().cloned().collect();
    let rewrites = cx.rewrites.iter().map(|(rule, n)| (*rule, *n)).collect();
    Ok(Report { notes, ops_before, ops_fused: op_count(model), timing, rewrites, ..Report::default() })
}

/// Operators of a model, those of bodies included.
fn op_count(model: &Model) -> usize {
    let functions: Vec<_> = model.functions.iter().map(|f| f.graph).collect();
    let outermost = |mut id| {
        while let Some((around, _)) = model.graph(id).owner {
            id = around;
        }
        id
    };
    let graphs = model.graph_ids().filter(|id| !functions.contains(&outermost(*id)));
    graphs.map(|id| model.graph(id).op_count()).sum()
}

/// Brings a quantized model, written by whatever tool, into the form that executors of float models run: what
/// it computes stays the same, rounding included. Values that stay keep their ids.
///
/// # Errors
/// If the model is not well-formed.
pub fn lower_quantized(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<(), PassError> {
    let mut cx = PassCx::new(config);
    let (functions, rest) = LOWER.split_at(1);
    run(functions, model, &mut cx, hooks)?;
    // Executors of float models compute in float32; half precision is not rounded to.
    compute_in_float32::widen(model, &mut cx)?;
    run(rest, model, &mut cx, hooks).map(drop)
}

/// Quantizes a model statically.
///
/// # Errors
/// If the model is not well-formed, the evidence does not fit it, or the executor cannot run it.
pub fn quantize(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Report, PassError> {
    Ok(plan_until(model, evidence, config, hooks, &quantize_passes(config))?.0)
}

/// Compiles a model that is quantized already, by whatever tool or by training, for a target: its grids are kept where
/// the target can express them. Ranges of values that have none, where the target wants some, come from the evidence; without
/// any none is measured.
///
/// # Errors
/// If the model is not well-formed, or has no quantizers to take grids from; and as [`quantize`].
pub fn retarget(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<retarget::Retargeted, PassError> {
    let config = retarget::settled(&evidence.settled(config));
    let mut cx = PassCx::new(&config);
    let ops_before = op_count(model);
    retarget::expect_quantizers(model)?;
    if let Some(Known::Recording(recording)) = evidence.known {
        expect_recorded(model, recording, &config)?;
    }
    let mut timing = run(FREEZE, model, &mut cx, hooks)?;
    retarget::expect_grids(model, &cx)?;
    timing.extend(run(OPTIMIZE, model, &mut cx, hooks)?);
    let ops_fused = op_count(model);
    timing.extend(run(OBSERVE, model, &mut cx, hooks)?);
    if evidence.known.is_some() || evidence.samples.is_some() {
        hooks.progress.pass(calibrate::NAME);
        let start = Instant::now();
        match evidence.known {
            Some(Known::Recording(recording)) => {
                cx.statistics = recording.statistics_by_name(model, &cx.observed);
            }
            _ => drop(evidence.learn(model, &mut cx, None, hooks.progress)?),
        }
        timing.push((calibrate::NAME, start.elapsed().as_secs_f64()));
    }
    timing.extend(run(SPREAD, model, &mut cx, hooks)?);
    let passes = quantize_passes(&config);
    timing.extend(run(&passes[..1], model, &mut cx, hooks)?);
    let found = retarget::compare(model, &cx)?;
    timing.extend(run(&passes[1..], model, &mut cx, hooks)?);
    let notes = cx.notes.iter().cloned().collect();
    let (costs, nodes) = (cx.plan.costs, cx.plan.report.clone());
    let rewrites = cx.rewrites.iter().map(|(rule, n)| (*rule, *n)).collect();
    let samples = cx.statistics.samples;
    let report = Report { nodes, notes, samples, costs, ops_before, ops_fused, rewrites, timing };
    Ok(retarget::Retargeted { report, ..found })
}

/// Fails unless statistics were measured on a quantized model as it stands: [`record`] leaves its quantizers in.
fn expect_recorded(model: &Model, recording: &Recording, config: &Config) -> Result<(), PassError> {
    let mut recorded = model.clone();
    observe(&mut recorded, config, &Hooks::default())?;
    recording.expect(&recorded)
}

/// Does all that [`quantize`] does up to the plan, and leaves the fused float graph in `model`.
///
/// # Errors
/// As [`quantize`].
pub fn plan(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, plan::QuantPlan), PassError> {
    let planning = if config.scheme == Scheme::WeightOnly { WEIGHTS } else { QUANTIZE };
    plan_until(model, evidence, config, hooks, &planning[..1])
}

/// Brings a float model into the form that calibration runs. Returns the values that it observes.
///
/// # Errors
/// If the model is not well-formed.
pub fn observe(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Vec<ValueId>, PassError> {
    let mut cx = PassCx::new(config);
    for passes in [PREPARE, OPTIMIZE, OBSERVE] {
        run(passes, model, &mut cx, hooks)?;
    }
    Ok(cx.observed)
}

/// Measures the float graph on samples, and keeps the result under the names of values.
///
/// # Errors
/// As [`quantize`]; and if what is to be continued belongs to another calibration.
pub fn record(
    model: &mut Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    part: Part<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Recording, PassError> {
    let observed = observe(model, config, hooks)?;
    let g = model.main();
    let axes = calibrate::channel_axes(g, &observed, part.channels)?;
    let mut recording = Recording {
        graph: Fingerprint::of(model).map_err(|c| PassError::Model(c.to_string()))?,
        data: part.data,
        names: observed.iter().map(|v| g.value(*v).name().to_owned()).collect(),
        tally: calibrate::Tally::new(observed.len(), part.each).counting(part.counting).by_channel(&axes),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if let Some(begun) = part.begun {
        recording.merge(begun).map_err(|why| {
            PassError::Config(format!("what is to be continued is no part of this calibration: {why}"))
        })?;
    }
    let done = recording.tally.done();
    let left: Vec<usize> = part.indices.iter().copied().filter(|i| !done.contains(i)).collect();
    hooks.progress.pass(calibrate::NAME);
    let begun = recording.tally.clone();
    let mut measure = |reach: &Reach<'_>| {
        let (float, threads) = (FloatGraph::new(model, &observed, reach)?, calibrate::threads(config));
        let run = calibrate::Run { float: &float, samples, threads, progress: hooks.progress, hash: true };
        let mut tally = begun.clone();
        let mut save = |tally: &calibrate::Tally| {
            recording.tally = tally.clone();
            (part.save)(&recording).map_err(PassError::Data)
        };
        let checkpoint = part.every.map(|every| calibrate::Checkpoint { every, save: &mut save });
        run.take(&left, &mut tally, checkpoint)?;
        Ok((tally, reach.note()))
    };
    let reach = Reach::over(model, executor, samples)?;
    let measured = measure(&reach).or_else(|failure| measure(&reach.after(model, failure)?));
    let (tally, note) = measured?;
    if let Some(note) = note {
        hooks.progress.note(&note);
    }
    recording.tally = tally;
    Ok(recording)
}

/// Which part of a calibration is measured, and how unfinished work is kept.
pub struct Part<'a> {
    /// What is said about the data.
    pub data: DataRecord,
    /// Numbers of the samples.
    pub indices: Vec<usize>,
    /// Whether the extremes of each sample are kept, for methods that depend on the order of samples.
    pub each: bool,
    /// Which elements of large samples are counted.
    pub counting: Counting,
    /// Names of values, with `*` for any characters, whose channels are told apart.
    pub channels: &'a [String],
    /// What an earlier run got done: its samples are not run again.
    pub begun: Option<&'a Recording>,
    /// Time between checkpoints; `None` for no checkpoints.
    pub every: Option<Duration>,
    /// Stores a checkpoint.
    pub save: &'a dyn Fn(&Recording) -> Result<(), String>,
}

struct Listed(&'static dyn Pass);

impl Pass for Listed {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn needs(&self) -> pass::Phase {
        self.0.needs()
    }
    fn reaches(&self) -> Option<pass::Phase> {
        self.0.reaches()
    }
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<pass::Changed, PassError> {
        self.0.run(model, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_can_be_named_and_names_are_kebab_case() {
        let stages = [PREPARE, OPTIMIZE, OBSERVE, QUANTIZE, WEIGHTS, NARROW, TAILOR, EXPORT, ON_DEMAND];
        for p in stages.into_iter().flatten() {
            assert!(pass_named(p.name()).is_some());
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(p.name().chars().all(kebab), "{}", p.name());
        }
        assert!(pass_named("no-such-pass").is_none());
    }

    #[test]
    fn each_pass_runs_at_a_phase_that_is_reached() {
        let mut phase = pass::Phase::Imported;
        for p in OPTIMIZE.iter().chain(OBSERVE) {
            assert!(p.needs() <= phase, "{}", p.name());
            phase = p.reaches().unwrap_or(phase).max(phase);
        }
        let calibrated = pass::Phase::Calibrated;
        for stage in [QUANTIZE, WEIGHTS, EXPORT] {
            phase = calibrated;
            for p in stage {
                assert!(p.needs() <= phase, "{}", p.name());
                phase = p.reaches().unwrap_or(phase).max(phase);
            }
        }
    }
}
