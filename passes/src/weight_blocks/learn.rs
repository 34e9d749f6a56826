//! What is learnt about weights in blocks on samples: factors of channels before planning, levels after it.
//!
//! Both look at some samples. [`BlockRounding::Auto`] keeps each of them only if the outputs come closer to those of the
//! float graph on other samples; what is asked for by name is done in any case.
//!
//! Levels are found layer by layer: the moments of a layer are those of what it reads from layers that are rounded already,
//! so that it makes up for their errors, too. That takes a run of the samples for each layer; as many rounds are made as
//! [`WORK`] allows, [`ROUNDS`] at most, and the layers of a round share its run.

use super::moments::{Moments, Watched, collect, wanted_rows};
use super::trial::Trial;
use super::{Kernels, Matrix, absorb, awq, gptq};
use crate::calibrate::{prepare, threads};
use crate::config::BlockRounding;
use crate::equalize::SCALED;
use crate::infer_types::InferTypes;
use crate::pass::{Pass, PassCx, PassError};
use crate::plan::{BlockPlan, QuantPlan, sites_where};
use crate::plan_weight_blocks::matrix;
use crate::trials::spread;
use crate::weights::rounded;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, OpId, Tensor, ValueId, ValueTable};
use squint_targets::Site;

/// Name of the stage that scales channels, as reports have it.
pub(crate) const NAME_OF_SCALING: &str = "awq";

/// Name of the stage that chooses levels.
pub(crate) const NAME_OF_ROUNDING: &str = "gptq";

/// Samples that are looked at, as many as have the rows that moments are made from; at most half of those there are.
const LOOKED_AT: std::ops::RangeInclusive<usize> = 32..=64;

/// What is learnt is kept if the error is smaller by so many decibels.
const CLEARLY: f64 = 0.1;

/// Bytes of moments that are kept at once.
const MEMORY: usize = 512 << 20;

/// Multiply–accumulates of all rounds, each of which runs the samples that are looked at.
const WORK: u64 = 1 << 39;

/// Rounds at most.
const ROUNDS: u64 = 8;

/// Columns of a weight that decide whether chosen levels are better than the nearest.
const COLUMNS: usize = 256;

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
    let Some((mut scaled, what)) = in_pool(cx, || scaled(model, cx, executor, samples))? else {
        return Ok(());
    };
    let mut of_scaled = PassCx { observed: cx.observed.clone(), ..PassCx::new(cx.config) };
    InferTypes.run(&mut scaled, &mut of_scaled)?;
    let gain = in_pool(cx, || {
        let trial = Trial::new(model, cx, executor, samples, &may_be_looked_at(samples.len()))?;
        Ok(trial.nearest(&scaled, &of_scaled)?.gain_over(&trial.nearest(model, cx)?))
    })?;
    if kept(cx, &what, gain) {
        *model = scaled;
        cx.facts = of_scaled.facts;
    }
    Ok(())
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
    let Some((plan, what)) = in_pool(cx, || chosen(model, cx, executor, samples))? else { return Ok(()) };
    let gain = in_pool(cx, || {
        let trial = Trial::new(model, cx, executor, samples, &may_be_looked_at(samples.len()))?;
        Ok(trial.errors(model, &plan)?.gain_over(&trial.errors(model, &cx.plan)?))
    })?;
    if kept(cx, &what, gain) {
        cx.plan = plan;
    }
    Ok(())
}

/// Whether what was learnt is kept, which is noted.
fn kept(cx: &mut PassCx<'_>, what: &str, gain: f64) -> bool {
    let kept = cx.config.blocks.rounding != BlockRounding::Auto || gain > CLEARLY;
    if kept {
        cx.notes.add("", format!("{what}: {gain:.1} dB less error on samples held back"));
    }
    kept
}

fn in_pool<R: Send>(
    cx: &PassCx<'_>,
    work: impl FnOnce() -> Result<R, PassError> + Send,
) -> Result<R, PassError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(cx.config)).build();
    let pool = pool.map_err(|e| PassError::Config(format!("threads for weights in blocks: {e}")))?;
    pool.install(work)
}

/// The graph with scaled channels, and what was done; `None` if no factors do better than 1.
fn scaled(
    model: &Model,
    cx: &PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<Option<(Model, String)>, PassError> {
    let work = Work::new(model, cx, executor, samples)?;
    let choice = work.kernels.choice(cx);
    let mut out = model.clone();
    let (mut n_scaled, mut n_multiplied, mut names) = (0, 0, Vec::new());
    for part in by_memory(&work.groups) {
        for (group, moments) in part.iter().zip(work.moments(model, part)?) {
            let Some(moments) = moments.filter(|m| m.count() > 0) else { continue };
            let matrices: Vec<Matrix<'_>> =
                group.products.iter().filter_map(|(_, site)| work.matrix(cx, *site)).collect();
            let Some(factors) = awq::factors(&work.kernels, choice, &matrices, &moments) else { continue };
            let products: Vec<OpId> = group.products.iter().map(|(op, _)| *op).collect();
            for op in &products {
                multiply(&mut out, *op, &factors);
            }
            n_scaled += 1;
            match absorb::divide(&mut out, group.value, &products, &factors) {
                true => names.push(model.main().value(group.value).name()),
                false => n_multiplied += 1,
            }
        }
    }
    if n_scaled == 0 {
        return Ok(None);
    }
    if !names.is_empty() {
        let known = model.metadata_value(SCALED).into_iter();
        let names: Vec<&str> = known.chain(names).collect();
        out.set_metadata(SCALED, &names.join("\n"));
    }
    let by_product =
        if n_multiplied > 0 { format!(", {n_multiplied} of them by a Mul") } else { String::new() };
    let n = work.groups.len();
    Ok(Some((out, format!("channels of {n_scaled} of {n} values scaled by their magnitudes{by_product}"))))
}

/// A plan with levels by the results of products, and what was done; `None` if the nearest ones are as good.
fn chosen(
    model: &Model,
    cx: &PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<Option<(QuantPlan, String)>, PassError> {
    let work = Work::new(model, cx, executor, samples)?;
    let choice = work.kernels.choice(cx);
    let mut plan = cx.plan.clone();
    let mut settled = QuantPlan::default();
    let (mut n, mut n_better) = (0, 0);
    for part in work.rounds() {
        let moments = work.moments(&rounded(model, &settled)?, part)?;
        for (group, moments) in part.iter().zip(moments) {
            for (op, site) in &group.products {
                let Some(nearest) = plan.blocks.get(*op) else { continue };
                n += 1;
                let better = moments.as_ref().filter(|m| m.count() > 0).and_then(|moments| {
                    let matrix = work.matrix(cx, *site)?;
                    let chosen = gptq::round(&work.kernels, choice, &matrix, moments)?;
                    let error = |plan: &BlockPlan| moments.error(&matrix.changes(plan, COLUMNS));
                    (error(&chosen) < error(nearest)).then_some(chosen)
                });
                n_better += usize::from(better.is_some());
                let blocks = better.unwrap_or_else(|| nearest.clone());
                settled.blocks.insert(*op, blocks.clone());
                plan.blocks.insert(*op, blocks);
            }
        }
    }
    let what = format!("{n_better} of {n} weights rounded by the results of their products");
    Ok((n_better > 0).then_some((plan, what)))
}

/// A value, and the products with quantized weights that read it, each with the position of its site.
struct Group {
    value: ValueId,
    /// Length of its rows.
    len: usize,
    products: Vec<(OpId, usize)>,
}

/// What both learn from.
struct Work<'a> {
    model: &'a Model,
    executor: &'a dyn Execute,
    samples: &'a dyn Samples,
    kernels: Kernels,
    sites: Vec<(OpId, Site<'a>)>,
    /// In the order of execution.
    groups: Vec<Group>,
    /// The samples that are looked at.
    numbers: Vec<usize>,
    /// Multiply–accumulates of a run.
    macs: u64,
}

impl<'a> Work<'a> {
    fn new(
        model: &'a Model,
        cx: &PassCx<'_>,
        executor: &'a dyn Execute,
        samples: &'a dyn Samples,
    ) -> Result<Work<'a>, PassError> {
        let (kernels, dims) = (Kernels::new(cx)?, &cx.trials.dims);
        let sites = sites_where(model, cx, dims)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut of_value: ValueTable<usize> = ValueTable::new();
        for (i, (op, site)) in sites.iter().enumerate() {
            let Ok(matrix) = matrix(model, cx, &kernels, *op, site) else { continue };
            let Some(value) = model.main().operand(*op, 0) else { continue };
            match of_value.get(value) {
                Some(group) if groups[*group].len == matrix.inner => groups[*group].products.push((*op, i)),
                _ => {
                    of_value.insert(value, groups.len());
                    groups.push(Group { value, len: matrix.inner, products: vec![(*op, i)] });
                }
            }
        }
        let numbers = looked_at(samples.len(), &groups, dims);
        Ok(Work { model, executor, samples, kernels, sites, groups, numbers, macs: cx.trials.macs })
    }

    fn matrix(&self, cx: &PassCx<'_>, site: usize) -> Option<Matrix<'_>> {
        let (op, site) = &self.sites[site];
        matrix(self.model, cx, &self.kernels, *op, site).ok()
    }

    /// The groups of each round.
    fn rounds(&self) -> Vec<&[Group]> {
        let each = self.macs.saturating_mul(self.numbers.len() as u64).max(1);
        let affordable = (WORK / each).clamp(1, ROUNDS) as usize;
        let together = self.groups.len().div_ceil(affordable).max(1);
        self.groups.chunks(together).flat_map(by_memory).collect()
    }

    /// The moments of what groups read, in a graph with the same values.
    fn moments(&self, model: &Model, groups: &[Group]) -> Result<Vec<Option<Moments>>, PassError> {
        let watched: Vec<Watched> = groups
            .iter()
            .map(|g| Watched { value: g.value, len: g.len, block: self.kernels.size() })
            .collect();
        let values: Vec<ValueId> = watched.iter().map(|w| w.value).collect();
        let session = prepare(model, &values, self.executor)?;
        collect(session.as_ref(), &watched, self.samples, &self.numbers)
    }
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

/// Numbers of the samples that are looked at, of `n`, where values have these dimensions.
fn looked_at(n: usize, groups: &[Group], dims: &ValueTable<Vec<usize>>) -> Vec<usize> {
    let enough = |group: &Group| {
        let elements: usize = dims.get(group.value).map_or(0, |d| d.iter().product());
        wanted_rows(group.len).div_ceil((elements / group.len.max(1)).max(1))
    };
    let enough = groups.iter().map(enough).max().unwrap_or(1).clamp(*LOOKED_AT.start(), *LOOKED_AT.end());
    let all = may_be_looked_at(n);
    spread(all.len(), enough, 0.0).into_iter().map(|i| all[i]).collect()
}

/// The samples of `n` that may be looked at: others decide.
fn may_be_looked_at(n: usize) -> Vec<usize> {
    spread(n, (*LOOKED_AT.end()).min(n.div_ceil(2)), 0.0)
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
    let (name, t) = (format!("{}_scaled", g.value(old).name()), Tensor::from_f32(t.dims(), &data));
    let new = g.add_const(&name, t);
    g.set_operand(op, 1, Some(new));
}
