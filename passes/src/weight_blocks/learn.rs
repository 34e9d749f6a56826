//! What is learnt about weights in blocks on samples: factors of channels before planning, levels after it.
//!
//! Both look at some samples. [`BlockRounding::Auto`] keeps each of them only if the outputs come closer to those of the
//! float graph on other samples; what is asked for by name is done in any case.
//!
//! Levels are found layer by layer: a layer's moments are those of what it reads from layers that are rounded already,
//! so that it can make up for their errors, too. All layers that are not behind one another could be rounded after one
//! run of the samples; as many rounds are made as [`WORK`] allows, and the layers in between share one.

use super::moments::{Moments, Watched, collect};
use super::{Kernels, absorb, awq, gptq};
use crate::calibrate::{prepare, threads};
use crate::config::BlockRounding;
use crate::equalize::SCALED;
use crate::float_graph::FloatGraph;
use crate::infer_types::{InferTypes, dims_of_first};
use crate::pass::{Pass, PassCx, PassError};
use crate::plan::{QuantPlan, sites};
use crate::plan_weight_blocks::{PlanWeightBlocks, matrix};
use crate::simulate::{Errors, Simulator, affordable, spread};
use crate::weights::rounded;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, OpId, ValueId};

/// Names of the stages, as reports have them.
pub(crate) const NAME_OF_SCALING: &str = "awq";
/// See there.
pub(crate) const NAME_OF_ROUNDING: &str = "gptq";

/// Samples that are looked at; at most half of those there are.
const LOOKED_AT: usize = 32;

/// Samples, others, that decide.
const HELD_BACK: std::ops::RangeInclusive<usize> = 6..=24;

/// What is learnt is kept if the error is smaller by so many decibels.
const CLEARLY: f64 = 0.1;

/// Bytes of moments that are kept at once.
const MEMORY: usize = 512 << 20;

/// Multiply–accumulates of all rounds, each of which runs the samples that are looked at; and how many there are at most.
const WORK: u64 = 1 << 39;
/// See there.
const ROUNDS: u64 = 8;

/// Scales the channels that products read.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn scale(
    model: &mut Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<(), PassError> {
    in_pool(cx, |cx| scaled(model, cx, executor, samples))
}

/// Improves the levels of `cx.plan`.
///
/// # Errors
/// As [`scale`].
pub(crate) fn round(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<(), PassError> {
    in_pool(cx, |cx| improved(model, cx, executor, samples))
}

fn in_pool<R: Send>(
    cx: &mut PassCx<'_>,
    work: impl FnOnce(&mut PassCx<'_>) -> Result<R, PassError> + Send,
) -> Result<R, PassError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(cx.config)).build();
    let pool = pool.map_err(|e| PassError::Config(format!("threads for weights in blocks: {e}")))?;
    pool.install(|| work(cx))
}

fn scaled(
    model: &mut Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<(), PassError> {
    let kernels = Kernels::new(cx)?;
    let choice = kernels.choice(cx);
    let groups = groups(model, cx, &kernels)?;
    if groups.is_empty() {
        return Ok(());
    }
    let mut out = model.clone();
    let (mut n_scaled, mut n_multiplied, mut names) = (0, 0, Vec::new());
    let sites = sites(model, cx)?;
    for part in by_memory(&groups) {
        let moments = moments(model, executor, samples, &kernels, part)?;
        for (group, moments) in part.iter().zip(moments) {
            let Some(moments) = moments.filter(|m| m.count() > 0) else { continue };
            let of = |op: &OpId| {
                let (op, site) = sites.iter().find(|(other, _)| other == op)?;
                matrix(model, cx, &kernels, *op, site).ok()
            };
            let matrices: Vec<_> = group.products.iter().filter_map(of).collect();
            let Some(factors) = awq::factors(&kernels, choice, &matrices, &moments) else { continue };
            for op in &group.products {
                multiply(&mut out, *op, &factors);
            }
            n_scaled += 1;
            match absorb::divide(&mut out, group.value, &group.products, &factors) {
                true => names.push(model.main().value(group.value).name()),
                false => n_multiplied += 1,
            }
        }
    }
    if n_scaled == 0 {
        return Ok(());
    }
    let mut what = format!("channels of {n_scaled} of {} values scaled by their magnitudes", groups.len());
    if n_multiplied > 0 {
        what += &format!(", {n_multiplied} of them by a Mul");
    }
    let known = model.metadata_value(SCALED).map(|all| format!("{all}\n")).unwrap_or_default();
    let names = known + &names.join("\n");
    if !names.is_empty() {
        out.set_metadata(SCALED, &names);
    }
    drop(sites);
    InferTypes.run(&mut out, cx)?;
    let trial = Trial::new(model, cx, executor, samples)?;
    let before = trial.errors(model, cx, None)?;
    let after = trial.errors(&out, cx, None)?;
    let gain = after.gain_over(&before);
    if cx.config.blocks.rounding != BlockRounding::Auto || gain > CLEARLY {
        cx.notes.add("", format!("{what}: {gain:.1} dB less error on samples held back"));
        *model = out;
    } else {
        InferTypes.run(model, cx)?;
    }
    Ok(())
}

fn improved(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<(), PassError> {
    let kernels = Kernels::new(cx)?;
    let choice = kernels.choice(cx);
    let groups = groups(model, cx, &kernels)?;
    if groups.is_empty() {
        return Ok(());
    }
    let sites = sites(model, cx)?;
    let mut plan = cx.plan.clone();
    let mut settled = QuantPlan::default();
    let mut n_better = 0;
    for part in rounds(cx, &groups, samples, model)? {
        let before = rounded(model, &settled)?;
        let moments = moments(&before, executor, samples, &kernels, part)?;
        for (group, moments) in part.iter().zip(moments) {
            let Some(moments) = moments.filter(|m| m.count() > 0) else { continue };
            for op in &group.products {
                let Some((_, site)) = sites.iter().find(|(other, _)| other == op) else { continue };
                let Ok(matrix) = matrix(model, cx, &kernels, *op, site) else { continue };
                let Some(nearest) = plan.blocks.get(*op) else { continue };
                let Some(chosen) = gptq::round(&kernels, choice, &matrix, &moments) else { continue };
                const COLUMNS: usize = 256;
                if moments.error(&matrix.changes(&chosen, COLUMNS))
                    < moments.error(&matrix.changes(nearest, COLUMNS))
                {
                    plan.blocks.insert(*op, chosen);
                    n_better += 1;
                }
            }
        }
        for op in part.iter().flat_map(|g| &g.products) {
            if let Some(blocks) = plan.blocks.get(*op) {
                settled.blocks.insert(*op, blocks.clone());
            }
        }
    }
    if n_better == 0 {
        return Ok(());
    }
    let n = groups.iter().map(|g| g.products.len()).sum::<usize>();
    let trial = Trial::new(model, cx, executor, samples)?;
    let gain = trial.errors(model, cx, Some(&plan))?.gain_over(&trial.errors(model, cx, Some(&cx.plan))?);
    if cx.config.blocks.rounding != BlockRounding::Auto || gain > CLEARLY {
        cx.notes.add(
            "",
            format!("{n_better} of {n} weights rounded by the results of their products: {gain:.1} dB less error on samples held back"),
        );
        cx.plan = plan;
    }
    Ok(())
}

/// A value, and the products with quantized weights that read it.
struct Group {
    value: ValueId,
    /// Length of its rows.
    len: usize,
    products: Vec<OpId>,
}

/// All of them, in the order of execution.
fn groups(model: &Model, cx: &PassCx<'_>, kernels: &Kernels) -> Result<Vec<Group>, PassError> {
    let g = model.main();
    let mut groups: Vec<Group> = Vec::new();
    for (op, site) in &sites(model, cx)? {
        let (Ok(matrix), Some(value)) = (matrix(model, cx, kernels, *op, site), g.operand(*op, 0)) else {
            continue;
        };
        match groups.iter_mut().find(|g| g.value == value && g.len == matrix.inner) {
            Some(group) => group.products.push(*op),
            None => groups.push(Group { value, len: matrix.inner, products: vec![*op] }),
        }
    }
    Ok(groups)
}

/// Runs of groups whose moments fit the memory.
fn by_memory(groups: &[Group]) -> Vec<&[Group]> {
    let mut parts = Vec::new();
    let mut rest = groups;
    while !rest.is_empty() {
        let mut size = 0;
        let fits = rest.iter().take_while(|g| {
            size += Moments::size(g.len);
            size <= MEMORY
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        parts.push(now);
        rest = later;
    }
    parts
}

/// The groups of each round.
fn rounds<'g>(
    cx: &PassCx<'_>,
    groups: &'g [Group],
    samples: &dyn Samples,
    model: &Model,
) -> Result<Vec<&'g [Group]>, PassError> {
    let dims = dims_of_first(model, samples)?;
    let known = PassCx {
        statistics: crate::statistics::Statistics { dims, ..Default::default() },
        ..PassCx::new(cx.config)
    };
    let macs: u64 = sites(model, &known)?.iter().map(|(_, site)| site.macs()).fold(0, u64::saturating_add);
    let each = macs.saturating_mul(looked_at(samples).len() as u64).max(1);
    let affordable = (WORK / each).clamp(1, ROUNDS) as usize;
    let together = groups.len().div_ceil(affordable);
    Ok(groups.chunks(together).flat_map(by_memory).collect())
}

/// The moments of what groups read.
fn moments(
    model: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    kernels: &Kernels,
    groups: &[Group],
) -> Result<Vec<Option<Moments>>, PassError> {
    let watched: Vec<Watched> =
        groups.iter().map(|g| Watched { value: g.value, len: g.len, block: kernels.size() }).collect();
    let values: Vec<ValueId> = watched.iter().map(|w| w.value).collect();
    let session = prepare(model, &values, executor)?;
    collect(session.as_ref(), &watched, samples, &looked_at(samples))
}

/// Numbers of the samples that are looked at.
fn looked_at(samples: &dyn Samples) -> Vec<usize> {
    spread(samples.len(), LOOKED_AT.min(samples.len().div_ceil(2)), 0.0)
}

/// Multiplies the rows of a weight with factors.
fn multiply(model: &mut Model, op: OpId, factors: &[f32]) {
    let g = model.main_mut();
    let by_columns = g.op(op).is("Gemm") && g.op(op).int("transB").unwrap_or(0) != 0;
    let Some(old) = g.operand(op, 1) else { return };
    let Some(t) = g.konst(old) else { return };
    let inner = if by_columns { 1 } else { t.len() / factors.len().max(1) };
    let data: Vec<f32> =
        t.f32s().iter().enumerate().map(|(i, x)| x * factors[i / inner.max(1) % factors.len()]).collect();
    let (name, t) = (format!("{}_scaled", g.value(old).name()), squint_ir::Tensor::from_f32(t.dims(), &data));
    let new = g.add_const(&name, t);
    g.set_operand(op, 1, Some(new));
}

/// Samples that decide, with what the float graph makes of them.
struct Trial<'a> {
    float: FloatGraph<'a>,
    executor: &'a dyn Execute,
    samples: &'a dyn Samples,
    observed: Vec<ValueId>,
    held_back: Vec<usize>,
    model: Model,
}

impl<'a> Trial<'a> {
    fn new(
        model: &Model,
        cx: &PassCx<'_>,
        executor: &'a dyn Execute,
        samples: &'a dyn Samples,
    ) -> Result<Trial<'a>, PassError> {
        let (n, dims) = (samples.len(), dims_of_first(model, samples)?);
        let looked_at = looked_at(samples);
        let sizes = cx.observed.iter().filter_map(|v| dims.get(*v));
        let mut held_back = spread(n, affordable(sizes, HELD_BACK), 0.5);
        held_back.retain(|i| !looked_at.contains(i));
        if held_back.is_empty() {
            held_back = looked_at;
        }
        let mut float = FloatGraph::new(model, &cx.observed, executor)?;
        float.keep(&held_back);
        Ok(Trial { float, executor, samples, observed: cx.observed.clone(), held_back, model: model.clone() })
    }

    /// The errors of a plan for a graph, or of one that rounds its weights to the nearest levels.
    fn errors(&self, model: &Model, cx: &PassCx<'_>, plan: Option<&QuantPlan>) -> Result<Errors, PassError> {
        let nearest = match plan {
            Some(_) => None,
            None => {
                let mut cx = PassCx { facts: cx.facts.clone(), ..PassCx::new(cx.config) };
                PlanWeightBlocks.run(&mut model.clone(), &mut cx)?;
                Some(cx.plan)
            }
        };
        let Some(plan) = plan.or(nearest.as_ref()) else { return Ok(Errors::default()) };
        let session = prepare(&rounded(model, plan)?, &self.observed, self.executor)?;
        let (config, samples) = (cx.config, self.samples);
        let simulator =
            Simulator::on(&self.model, &self.float, &self.observed, samples, &self.held_back, config)?;
        simulator.errors_in(session.as_ref(), plan)
    }
}
