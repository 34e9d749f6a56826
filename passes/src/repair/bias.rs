//! Bias correction: what rounding shifts on the average, biases take back.
//!
//! Rounding weights and activations shifts what a contraction computes, and shifts grow from layer to layer
//! (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, section
//! 4.2). Each output channel gets the `b` that brings what comes out behind its activation function `f` closest
//! to the float graph, behind layers that are corrected already:
//!
//! ```text
//! min_b E[(f(y) - f(ŷ + b))²]    one step of Newton's method:  b = Σ (f(y) - f(ŷ)) / #{f'(ŷ) ≠ 0}
//! ```
//!
//! `y` is computed in float, of which sums over channels are enough, and `ŷ` as planned; `f` is a Relu, a Clip, or nothing. The mean before the
//! function, which the paper matches, is ruled by what the function cuts off.
//!
//! One run of each sample is enough for all layers: while the planned graph runs, each result is shifted by the
//! `b` of that sample before others read it. The correction is the `b` of all samples. Where samples
//! disagree it is uncertain, and is shrunk by `1 - σ²/b²` for the variance `σ²` of the estimate, never below
//! 0 (the positive-part estimator of James and Stein).

use super::{Rounded, Work};
use crate::float_graph::FloatGraph;
use crate::pass::PassError;
use crate::plan::{QuantPlan, resolve_target};
use crate::simulate::{Rounding, round};
use crate::weights::real_bias;
use rayon::prelude::*;
use squint_ir::affine::bias_scale;
use squint_ir::execute::{Elements, Sample};
use squint_ir::{Graph, OpId, ValueId, ValueTable};
use squint_targets::Placement;

/// A contraction whose bias can be chosen.
pub(super) struct Layer {
    op: OpId,
    /// Its result, before any clamp.
    pub(super) result: ValueId,
    /// What comes out behind the clamp.
    behind: ValueId,
    channels: Channels,
    /// What the function behind it clips to.
    clamp: (f32, f32),
}

/// Where the channels of a layer lie in its result.
#[derive(Clone, Copy)]
pub(crate) struct Channels {
    axis: Axis,
    count: usize,
}

/// Sums over the elements of each channel of values, with their number.
pub(crate) type ChannelSums = ValueTable<(Vec<f64>, usize)>;

/// Sums of a sample, for each channel.
#[derive(Clone, Default)]
struct Sums {
    /// Of what is missing behind the function.
    missing: Vec<f64>,
    /// Elements that a shift would move there.
    moved: Vec<f64>,
    /// All elements.
    count: f64,
}

#[derive(Clone, Copy)]
enum Axis {
    Second,
    Last,
}

/// The values whose sums over channels corrections ask of the float graph, whatever the plan will be.
pub(crate) fn summed(g: &Graph) -> Vec<(ValueId, Channels)> {
    layers(g, g.ops()).into_iter().map(|l| (l.behind, l.channels)).collect()
}

/// Those of these operators whose biases can be chosen.
pub(super) fn layers(g: &Graph, ops: impl Iterator<Item = OpId>) -> Vec<Layer> {
    ops.filter_map(|op| layer(g, op)).collect()
}

/// The plan with corrected biases, as the graph with rounded weights shows them; `None` if no layer can have one.
pub(super) fn correct(
    work: &Work<'_>,
    float: &FloatGraph<'_>,
    planned: &Rounded<'_>,
    plan: &QuantPlan,
) -> Result<Option<QuantPlan>, PassError> {
    if planned.layers.is_empty() {
        return Ok(None);
    }
    let roundings: Vec<Option<Rounding>> = planned.watched.iter().map(|v| Rounding::of(plan, *v)).collect();
    let sums = work.numbers.par_iter().map(|number| {
        let of_float = float.sums_of(*number, work.samples)?;
        run_shifted(planned, &work.sample(*number)?, &of_float, &roundings)
    });
    let sums = sums.collect::<Result<Vec<_>, _>>()?;
    let integers = resolve_target(&work.config.target)?.placement() == Placement::Regions;
    let mut out = plan.clone();
    for (i, layer) in planned.layers.iter().enumerate() {
        let seen: Vec<&Sums> = sums.iter().filter_map(|s| s[i].as_ref()).collect();
        if seen.len() == sums.len() {
            let shift: Vec<f64> = (0..layer.channels.count).map(|c| certain(&seen, c)).collect();
            add(work.model.main(), &mut out, layer, &shift, integers);
        }
    }
    Ok(Some(out))
}

/// Runs the planned graph with every result of a layer shifted towards that of the float graph, and returns the sums of each
/// layer.
fn run_shifted(
    planned: &Rounded<'_>,
    sample: &Sample,
    float: &ChannelSums,
    roundings: &[Option<Rounding>],
) -> Result<Vec<Option<Sums>>, PassError> {
    let mut sums: Vec<Option<Sums>> = vec![None; planned.layers.len()];
    planned.session.run_edited(sample, &mut |slot, dims, data| {
        if let Some(i) = planned.layer_at(slot)
            && let layer = &planned.layers[i]
            && let Some(inner) = layer.channels.inner(dims)
            && let Some((float, _)) = float.get(layer.behind).filter(|(_, n)| *n == data.len())
        {
            let of_layer = layer.sums(inner, float, data);
            let shift: Vec<f32> = (0..layer.channels.count).map(|c| newton(&of_layer, c) as f32).collect();
            sums[i] = Some(of_layer);
            layer.shift(dims, data, &shift);
        }
        round(roundings, slot, data);
    })?;
    Ok(sums)
}

/// By how much the biases of layers differ between two plans, channel by channel; `None` where they do not.
pub(super) fn differences(
    g: &Graph,
    layers: &[Layer],
    plan: &QuantPlan,
    base: &QuantPlan,
) -> Vec<Option<Vec<f32>>> {
    let of = |plan: &QuantPlan, layer: &Layer| -> Vec<f32> {
        let own = plan.weights.get(layer.op).and_then(|w| real_bias(g, layer.op, w));
        let own = own.or_else(|| bias_of(g, layer));
        own.unwrap_or_else(|| vec![0.0; layer.channels.count])
    };
    let difference = |layer: &Layer| {
        let (new, old) = (of(plan, layer), of(base, layer));
        (new != old && new.len() == old.len()).then(|| new.iter().zip(&old).map(|(a, b)| a - b).collect())
    };
    layers.iter().map(difference).collect()
}

/// The bias that a layer has in the graph, one number for each channel.
fn bias_of(g: &Graph, layer: &Layer) -> Option<Vec<f32>> {
    let bias = g.konst(g.operand(layer.op, 2)?)?;
    Some(if bias.len() == 1 { vec![bias.f32s()[0]; layer.channels.count] } else { bias.to_f32s() })
}

fn layer(g: &Graph, op: OpId) -> Option<Layer> {
    let (node, weight) = (g.op(op), g.konst(g.operand(op, 1)?)?);
    let (axis, count) = match node.op_type.as_str() {
        "Conv" => (Axis::Second, *weight.dims().first()?),
        "Gemm" if node.int("transB").unwrap_or(0) != 0 => (Axis::Last, *weight.dims().first()?),
        "Gemm" => (Axis::Last, *weight.dims().get(1)?),
        // A MatMul has no bias.
        _ => return None,
    };
    let result = g.result(op, 0)?;
    let (behind, clamp) = clamp(g, result);
    Some(Layer { op, result, behind, channels: Channels { axis, count }, clamp })
}

/// What the only reader of a value makes of it, if that is a Relu or a Clip, and what it clips to.
fn clamp(g: &Graph, v: ValueId) -> (ValueId, (f32, f32)) {
    const OPEN: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);
    let reader = g.only_use(v).map(|u| u.op);
    let Some((reader, behind)) = reader.and_then(|op| Some((op, g.result(op, 0)?))) else { return (v, OPEN) };
    let bound = |slot: u32, open: f32| match g.operand(reader, slot) {
        Some(b) => g.konst(b).and_then(|t| t.scalar_value()).map_or(open, |x| x as f32),
        None => open,
    };
    match g.op(reader).op_type.as_str() {
        "Relu" => (behind, (0.0, f32::INFINITY)),
        "Clip" => (behind, (bound(1, OPEN.0), bound(2, OPEN.1))),
        _ => (v, OPEN),
    }
}

impl Channels {
    /// Elements between two of neighbouring channels, in an array of these dimensions.
    fn inner(self, dims: &[usize]) -> Option<usize> {
        let axis = match self.axis {
            Axis::Second => 1,
            Axis::Last => dims.len().checked_sub(1)?,
        };
        let inner: usize = dims.get(axis + 1..)?.iter().product();
        (dims[axis] == self.count && inner > 0).then_some(inner)
    }

    /// The sum of each channel, and the number of all elements.
    pub(crate) fn sums(self, dims: &[usize], data: &[f32]) -> Option<(Vec<f64>, usize)> {
        let inner = self.inner(dims)?;
        let mut sums = vec![0.0; self.count];
        for (i, run) in data.chunks_exact(inner).enumerate() {
            sums[i % self.count] += sum(run);
        }
        Some((sums, data.len()))
    }

    /// Adds a number to the elements of each channel.
    fn shift(self, dims: &[usize], data: &mut Elements<'_>, shift: &[f32]) {
        let Some(inner) = self.inner(dims) else { return };
        for (i, run) in data.edit().chunks_exact_mut(inner).enumerate() {
            let shift = shift[i % self.count];
            run.iter_mut().for_each(|x| *x += shift);
        }
    }
}

impl Layer {
    /// `float` are the sums of the channels of the float graph, behind the clamp.
    fn sums(&self, inner: usize, float: &[f64], planned: &[f32]) -> Sums {
        let (lo, hi) = self.clamp;
        let channels = self.channels.count;
        let mut sums = Sums {
            missing: float.to_vec(),
            moved: vec![0.0; channels],
            count: (planned.len() / channels) as f64,
        };
        let mut clamped = Vec::with_capacity(inner);
        for (i, z) in planned.chunks_exact(inner).enumerate() {
            clamped.clear();
            // In a form that is done for many at a time.
            clamped
                .extend(z.iter().map(|z| if *z < lo { lo } else { *z }).map(|z| if z > hi { hi } else { z }));
            let moved: u32 = z.iter().map(|z| u32::from(*z > lo) & u32::from(*z < hi)).sum();
            sums.missing[i % channels] -= sum(&clamped);
            sums.moved[i % channels] += f64::from(moved);
        }
        sums
    }

    /// Adds a number to each channel of its result.
    pub(super) fn shift(&self, dims: &[usize], data: &mut Elements<'_>, shift: &[f32]) {
        self.channels.shift(dims, data, shift);
    }
}

/// The sum of all elements, by several sums that do not wait for each other.
fn sum(data: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0f64; LANES];
    let parts = data.chunks_exact(LANES);
    let rest: f64 = parts.remainder().iter().map(|x| f64::from(*x)).sum();
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.iter().fold(rest, |sum, x| sum + x)
}

/// Elements that a shift moves at least, as a share of all: fewer do not tell how far to go.
const FEWEST: f64 = 0.02;

/// The shift of one channel that one sample asks for.
fn newton(sums: &Sums, c: usize) -> f64 {
    sums.missing[c] / sums.moved[c].max(FEWEST * sums.count).max(1.0)
}

/// The shift of one channel that all samples ask for, as far as it can be told from none.
fn certain(samples: &[&Sums], c: usize) -> f64 {
    let missing: f64 = samples.iter().map(|s| s.missing[c]).sum();
    let moved: f64 = samples.iter().map(|s| s.moved[c].max(FEWEST * s.count)).sum();
    let shift = missing / moved.max(1.0);
    if samples.len() < 2 || shift == 0.0 {
        return shift;
    }
    let rest = |s: &&Sums| (s.missing[c] - shift * s.moved[c].max(FEWEST * s.count)).powi(2);
    let n = samples.len() as f64;
    let variance = samples.iter().map(rest).sum::<f64>() * n / (n - 1.0) / moved.max(1.0).powi(2);
    shift * (1.0 - variance / shift.powi(2)).max(0.0)
}

/// Adds to the bias of a layer, which gets one if it has none.
fn add(g: &Graph, plan: &mut QuantPlan, layer: &Layer, shift: &[f64], integers: bool) {
    let Some(input) = g.operand(layer.op, 0).and_then(|v| plan.values.get(v)).map(|p| p.params.scale) else {
        return;
    };
    let Some(w) = plan.weights.get_mut(layer.op) else { return };
    let old = match (&w.bias, g.operand(layer.op, 2)) {
        (Some(b), _) => b.to_vec(),
        (None, None) => vec![0.0; layer.channels.count],
        (None, Some(_)) => match bias_of(g, layer) {
            Some(b) => b,
            None => return,
        },
    };
    // A single number for all channels, or none: the scales are those of one number for each.
    if integers && w.bias_scales.is_empty() {
        w.bias_scales = w.params.iter().map(|p| bias_scale(input, p.scale)).collect();
    }
    if old.len() == layer.channels.count && shift.iter().all(|s| s.is_finite()) {
        w.bias = Some(old.iter().zip(shift).map(|(b, s)| (f64::from(*b) + s) as f32).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::testing::parse;

    fn layer_of(text: &str) -> Layer {
        let model = parse(text);
        let g = model.main();
        let op = g.ops().next().expect("there is an operator");
        layer(g, op).expect("it has a bias")
    }

    const CLIPPED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,1,1,4] x) => (float[1,1,1,4] y)
<float[1,1,1,1] w = {1}, float lo = {0}, float hi = {6}>
{
  p = Conv (x, w)
  y = Clip (p, lo, hi)
}"#;

    #[test]
    fn only_what_comes_out_behind_the_function_counts() {
        let layer = layer_of(CLIPPED);
        assert_eq!(layer.clamp, (0.0, 6.0));
        // Cut off on both sides: no matter. The two between lack 0.5 each.
        let dims = [1, 1, 1, 4];
        let (float, n) = layer.channels.sums(&dims, &[0.0, 1.0, 2.0, 6.0]).unwrap();
        assert_eq!((float[0], n), (9.0, 4));
        let sums = layer.sums(4, &float, &[-9.0, 0.5, 1.5, 7.0]);
        assert_eq!((sums.missing[0], sums.moved[0], sums.count), (1.0, 2.0, 4.0));
        assert_eq!(newton(&sums, 0), 0.5);
        let mut data = Elements::borrowed(&[0.0; 4]);
        layer.shift(&dims, &mut data, &[0.5]);
        assert_eq!(*data, [0.5; 4]);
    }

    #[test]
    fn samples_that_disagree_say_nothing() {
        let sums = |missing: f64| Sums { missing: vec![missing], moved: vec![10.0], count: 10.0 };
        let agreed = [sums(1.0), sums(1.0), sums(1.0)];
        assert!((certain(&agreed.iter().collect::<Vec<_>>(), 0) - 0.1).abs() < 1e-12);
        let apart = [sums(1.0), sums(-0.9)];
        assert_eq!(certain(&apart.iter().collect::<Vec<_>>(), 0), 0.0);
        // A channel that hardly ever comes out does not get far.
        let silent = Sums { missing: vec![1.0], moved: vec![0.0], count: 1000.0 };
        assert_eq!(newton(&silent, 0), 1.0 / 20.0);
    }
}
