//! Weights rounded by what their layer computes.
//!
//! The nearest integers are the best ones for each weight, but not for their sum: errors of weights that
//! multiply related data add up, or cancel. For a row `w` of the weight and data `x`, rounded as the plan says,
//! the scale `s` and the integers `q` are chosen such that the layer computes what it should:
//!
//! ```text
//! min  E[(w·x - s q·x)²] + λ |w - s q|²   =   (w - s q) H (w - s q)ᵀ,   H = E[x xᵀ] + λ
//! ```
//!
//! This is the layer-wise objective of AdaRound (Nagel et al., 2020). It is quadratic, so no training is needed: one
//! integer after another is moved by the whole number of steps that lowers the objective most, in closed form,
//! starting from the nearest integers, until none moves (coordinate descent, as in COMQ, Zhang et al., 2024).
//! Each move only lowers the objective. Scales are tried before: a smaller one clips the largest weights and
//! is finer for the others. `λ` keeps weights near their values as far as there are too few data to tell.

use super::Work;
use super::moments::{Moments, Patches};
use crate::calibrate::prepare;
use crate::pass::PassError;
use crate::plan::{QuantPlan, WeightPlan, resolve_target};
use crate::simulate::Rounding;
use crate::weights;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use squint_ir::affine::{bias_scale, weight_scale_for_bias};
use squint_ir::{Graph, OpId, ValueId};
use squint_targets::Pairs;

/// Bytes of moments that are kept at once.
const MEMORY: usize = 256 << 20;

/// Patches that moments are made from: four times the length of a patch, within these limits.
const PATCHES: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Times that all integers of a row are visited.
const SWEEPS: usize = 8;

/// A contraction whose integers are chosen.
struct Layer {
    op: OpId,
    data: ValueId,
    patches: Patches,
    rounding: Rounding,
}

/// The plan with integers of weights.
pub(super) fn round(work: &Work<'_>, plan: &QuantPlan) -> Result<QuantPlan, PassError> {
    let g = work.model.main();
    let layers: Vec<Layer> = plan.weights.iter().filter_map(|(op, w)| layer(g, plan, op, w)).collect();
    let target = resolve_target(&work.config.target)?;
    let choice = Choice {
        g,
        plan,
        qmax: target.weights().grid.qmax as f32,
        // Where scales must be powers of two, they stay as they are.
        shrink: if work.config.constraints.power_of_two { &SHRINK[..1] } else { &SHRINK },
    };
    let mut out = plan.clone();
    let mut rest = layers.as_slice();
    while !rest.is_empty() {
        // At least one layer, and as many as fit.
        let mut size = 0;
        let fits = rest.iter().take_while(|l| {
            size += Moments::size(&l.patches);
            size <= MEMORY
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        let moments = moments(work, now)?;
        let chosen: Vec<Option<WeightPlan>> =
            now.par_iter().zip(&moments).map(|(l, m)| choice.weight(l, m)).collect();
        for (layer, w) in now.iter().zip(chosen) {
            if let Some(w) = w {
                out.weights.insert(layer.op, w);
            }
        }
        rest = later;
    }
    Ok(out)
}

fn layer(g: &Graph, plan: &QuantPlan, op: OpId, w: &WeightPlan) -> Option<Layer> {
    let data = g.operand(op, 0)?;
    let (_, t) = weights::weight(g, op, w).ok()?;
    Some(Layer { op, data, patches: Patches::new(g.op(op), t.dims())?, rounding: Rounding::of(plan, data)? })
}

/// Moments of what layers read in the float graph.
fn moments(work: &Work<'_>, layers: &[Layer]) -> Result<Vec<Moments>, PassError> {
    let mut watched: Vec<ValueId> = layers.iter().map(|l| l.data).collect();
    watched.sort_unstable();
    watched.dedup();
    let readers: Vec<Vec<usize>> =
        watched.iter().map(|v| (0..layers.len()).filter(|l| layers[*l].data == *v).collect()).collect();
    let session = prepare(work.model, &watched, work.executor)?;
    let most = |l: &Layer| {
        (4 * l.patches.len).clamp(*PATCHES.start(), *PATCHES.end()).div_ceil(work.numbers.len().max(1))
    };
    let mut moments: Vec<Moments> = layers.iter().map(|l| Moments::new(&l.patches)).collect();
    let at_once = rayon::current_num_threads().max(1);
    for chunk in work.numbers.chunks(at_once) {
        let seen = chunk.par_iter().map(|number| {
            let sample = work.sample(*number)?;
            let mut patches: Vec<Option<Vec<f32>>> = vec![None; layers.len()];
            session.run(&sample, &mut |slot, dims, data| {
                for l in &readers[slot] {
                    patches[*l] = layers[*l].patches.of(dims, data, most(&layers[*l]));
                }
                None
            })?;
            Ok::<_, PassError>(patches)
        });
        // Samples are added in their order, since sums depend on it.
        for patches in seen.collect::<Result<Vec<_>, _>>()? {
            moments.par_iter_mut().zip(layers).zip(patches).for_each(|((m, l), p)| {
                if let Some(p) = p {
                    m.add(&p, l.rounding);
                }
            });
        }
    }
    Ok(moments)
}

/// What is needed to choose scales and integers.
struct Choice<'a> {
    g: &'a Graph,
    plan: &'a QuantPlan,
    /// Largest integer.
    qmax: f32,
    /// Factors on scales that are tried.
    shrink: &'a [f32],
}

/// Factors on the scale of a row: a smaller scale clips the largest weights and is finer for the others.
const SHRINK: [f32; 8] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7];

impl Choice<'_> {
    /// Scales and integers of a layer.
    fn weight(&self, layer: &Layer, moments: &Moments) -> Option<WeightPlan> {
        let mut plan = self.plan.weights.get(layer.op)?.clone();
        let (_, t) = weights::weight(self.g, layer.op, &plan).ok()?;
        if moments.count() < 2 || plan.axis.is_none() {
            return None;
        }
        let op = self.g.op(layer.op);
        let (len, groups) = (layer.patches.len, layer.patches.groups);
        let outputs = t.len() / len;
        // Row `o`, element `k` of the weight as a matrix of one row for each output.
        let columns = op.op_type == "MatMul" || op.op_type == "Gemm" && op.int("transB").unwrap_or(0) == 0;
        let at = |o: usize, k: usize| if columns { k * outputs + o } else { o * len + k };
        let data = t.f32s();
        let per_group = outputs / groups;
        let least = self.least_scales(layer.op, &plan);
        let mut codes = vec![0i8; t.len()];
        for group in 0..groups {
            let mut h = moments.of(group);
            regularize(&mut h, len, moments.count());
            let rows = group * per_group..(group + 1) * per_group;
            let w: Vec<f32> = rows
                .clone()
                .flat_map(|o| (0..len).map(move |k| (o, k)))
                .map(|(o, k)| data[at(o, k)])
                .collect();
            let mut wanted = vec![0.0; w.len()];
            multiply(&w, &h, len, &mut wanted);
            let mut best = Rows::worst(rows.len(), len);
            // A smaller scale would saturate more pairs.
            let shrink = if plan.pairs.is_some() { &self.shrink[..1] } else { self.shrink };
            for factor in shrink {
                let scales: Vec<f32> =
                    rows.clone().map(|o| (plan.params[o].scale * factor).max(least[o])).collect();
                best.take_better(Rows::nearest(&w, &scales, &h, &wanted, self.qmax, plan.pairs), len);
            }
            let (mut q, mut gradient) = (best.codes.clone(), best.gradient.clone());
            let each = q.par_chunks_mut(len).zip(gradient.par_chunks_mut(len)).zip(&best.scales);
            each.for_each(|((q, gradient), scale)| descend(q, gradient, &h, *scale, self.qmax));
            // Where pairs must not saturate, what was gained may be lost again.
            let scales = best.scales.clone();
            best.take_better(Rows::of(q, &scales, &h, &wanted, plan.pairs), len);
            let Rows { scales, codes: q, .. } = best;
            for (i, o) in rows.enumerate() {
                plan.params[o].scale = scales[i];
                for k in 0..len {
                    codes[at(o, k)] = q[i * len + k];
                }
            }
        }
        if !plan.bias_scales.is_empty() {
            let input = self.input_scale(layer.op)?;
            plan.bias_scales = plan.params.iter().map(|p| bias_scale(input, p.scale)).collect();
        }
        plan.chosen = Some(codes.into());
        Some(plan)
    }

    fn input_scale(&self, op: OpId) -> Option<f32> {
        self.plan.values.get(self.g.operand(op, 0)?).map(|p| p.params.scale)
    }

    /// The least scales with which the bias fits its grid.
    fn least_scales(&self, op: OpId, plan: &WeightPlan) -> Vec<f32> {
        let bias = weights::bias(self.g, op, plan).zip(self.input_scale(op));
        let least = |o: usize| match &bias {
            Some((b, input)) => {
                b.get(o).or(b.first()).map_or(0.0, |b| weight_scale_for_bias(f32::MIN_POSITIVE, *input, *b))
            }
            None => 0.0,
        };
        (0..plan.params.len()).map(least).collect()
    }
}

/// Integers of rows, with what they cost.
struct Rows {
    scales: Vec<f32>,
    codes: Vec<i8>,
    /// Half the gradient of the objective.
    gradient: Vec<f32>,
    /// The objective, but for a constant.
    cost: Vec<f64>,
}

impl Rows {
    fn worst(rows: usize, len: usize) -> Rows {
        Rows {
            scales: vec![1.0; rows],
            codes: vec![0; rows * len],
            gradient: vec![0.0; rows * len],
            cost: vec![f64::INFINITY; rows],
        }
    }

    /// The nearest integers on these scales. `wanted` is `w H`.
    fn nearest(
        w: &[f32],
        scales: &[f32],
        h: &[f32],
        wanted: &[f32],
        qmax: f32,
        pairs: Option<Pairs>,
    ) -> Rows {
        let len = w.len() / scales.len();
        let code = |(i, w): (usize, &f32)| (w / scales[i / len]).round_ties_even().clamp(-qmax, qmax) as i8;
        Rows::of(w.iter().enumerate().map(code).collect(), scales, h, wanted, pairs)
    }

    /// These integers, pairs that saturate moved.
    fn of(mut codes: Vec<i8>, scales: &[f32], h: &[f32], wanted: &[f32], pairs: Option<Pairs>) -> Rows {
        let len = codes.len() / scales.len();
        if let Some(pairs) = pairs {
            for row in codes.chunks_exact_mut(len) {
                pairs.limit(row);
            }
        }
        let values: Vec<f32> =
            codes.iter().enumerate().map(|(i, q)| f32::from(*q) * scales[i / len]).collect();
        let mut gradient = vec![0.0; values.len()];
        multiply(&values, h, len, &mut gradient);
        let cost = |row: usize| {
            let at = row * len..(row + 1) * len;
            let terms = values[at.clone()].iter().zip(&gradient[at.clone()]).zip(&wanted[at]);
            terms.map(|((v, g), w)| f64::from(*v) * (f64::from(*g) - 2.0 * f64::from(*w))).sum()
        };
        let cost: Vec<f64> = (0..scales.len()).map(cost).collect();
        gradient.iter_mut().zip(wanted).for_each(|(g, w)| *g -= w);
        Rows { scales: scales.to_vec(), codes, gradient, cost }
    }

    /// Takes the rows of another choice that cost less.
    fn take_better(&mut self, other: Rows, len: usize) {
        for row in 0..self.cost.len() {
            if other.cost[row] < self.cost[row] {
                let at = row * len..(row + 1) * len;
                self.scales[row] = other.scales[row];
                self.cost[row] = other.cost[row];
                self.codes[at.clone()].copy_from_slice(&other.codes[at.clone()]);
                self.gradient[at.clone()].copy_from_slice(&other.gradient[at]);
            }
        }
    }
}

/// Adds λ: a hundredth of the mean energy, and more where patches are few for their length.
fn regularize(h: &mut [f32], len: usize, count: usize) {
    let energy = (0..len).map(|i| f64::from(h[i * len + i])).sum::<f64>() / len as f64;
    let lambda = energy * (0.01 + 0.1 * len as f64 / count as f64);
    // A layer that only ever saw zeros has nothing to go by; any positive number keeps its weights.
    let lambda = if lambda > 0.0 { lambda as f32 } else { 1.0 };
    for i in 0..len {
        h[i * len + i] += lambda;
    }
}

/// Moves the integers of one row until none lowers the objective. `gradient` is half of it.
fn descend(q: &mut [i8], gradient: &mut [f32], h: &[f32], scale: f32, qmax: f32) {
    let len = q.len();
    for _ in 0..SWEEPS {
        let mut moved = false;
        for k in 0..len {
            let curvature = h[k * len + k] * scale;
            let steps = (-gradient[k] / curvature).round_ties_even();
            if steps == 0.0 || !steps.is_finite() {
                continue;
            }
            let to = (f32::from(q[k]) + steps).clamp(-qmax, qmax);
            let steps = to - f32::from(q[k]);
            if steps == 0.0 {
                continue;
            }
            q[k] = to as i8;
            moved = true;
            for (g, h) in gradient.iter_mut().zip(&h[k * len..][..len]) {
                *g += steps * scale * h;
            }
        }
        if !moved {
            break;
        }
    }
}

/// `out += a h` for rows of `len` elements and a square `h`.
fn multiply(a: &[f32], h: &[f32], len: usize, out: &mut [f32]) {
    let rows = a.len() / len;
    let views = (ArrayView2::from_shape((rows, len), a), ArrayView2::from_shape((len, len), h));
    if let ((Ok(a), Ok(h)), Ok(mut out)) = (views, ArrayViewMut2::from_shape((rows, len), out)) {
        general_mat_mul(1.0, &a, &h, 1.0, &mut out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two inputs that always move together: errors of their weights cancel.
    const TOGETHER: [f32; 4] = [1.01, 1.0, 1.0, 1.01];

    fn cost(rows: &Rows) -> f64 {
        rows.cost[0]
    }

    #[test]
    fn errors_of_related_inputs_cancel() {
        let w = [0.4f32, 0.4];
        let mut wanted = vec![0.0; 2];
        multiply(&w, &TOGETHER, 2, &mut wanted);
        let nearest = Rows::nearest(&w, &[1.0], &TOGETHER, &wanted, 127.0, None);
        assert_eq!(nearest.codes, [0, 0]);
        let (mut q, mut gradient) = (nearest.codes.clone(), nearest.gradient.clone());
        descend(&mut q, &mut gradient, &TOGETHER, 1.0, 127.0);
        // 0.8 is nearer to 1 than to 0.
        assert_eq!(q.iter().map(|q| i32::from(*q)).sum::<i32>(), 1);
        let better = Rows::of(q, &[1.0], &TOGETHER, &wanted, None);
        assert!(cost(&better) < cost(&nearest));
        // The gradient was kept up to date.
        assert!(better.gradient.iter().zip(&gradient).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn integers_stay_on_their_grid_and_out_of_saturation() {
        let (mut q, mut gradient) = (vec![126, 0], vec![-100.0, 0.0]);
        descend(&mut q, &mut gradient, &[1.0, 0.0, 0.0, 1.0], 1.0, 127.0);
        assert_eq!(q[0], 127);
        let pairs = Pairs { inputs: 2, window: 1, joined: false };
        let rows = Rows::of(vec![100, 100], &[1.0], &TOGETHER, &[0.0, 0.0], Some(pairs));
        assert_eq!(rows.codes, [64, 64]);
    }

    #[test]
    fn the_better_rows_are_taken() {
        let w = [0.6f32, 0.2, 0.6, 0.2];
        let eye = [1.0, 0.0, 0.0, 1.0];
        let nearest = |scales: &[f32]| Rows::nearest(&w, scales, &eye, &w, 127.0, None);
        let mut best = Rows::worst(2, 2);
        best.take_better(nearest(&[1.0, 0.2]), 2);
        best.take_better(nearest(&[0.2, 1.0]), 2);
        assert_eq!(best.scales, [0.2, 0.2]);
        assert_eq!(best.codes, [3, 1, 3, 1]);
    }

    #[test]
    fn a_layer_that_saw_nothing_keeps_its_weights() {
        let mut h = vec![0.0; 4];
        regularize(&mut h, 2, 10);
        assert_eq!(h, [1.0, 0.0, 0.0, 1.0]);
    }
}
