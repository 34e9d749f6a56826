//! `absorb`: shifts channels between operators, so that none lies far from zero.
//!
//! High-bias absorption (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
//! section 4.1.3): behind a contraction, whose bias takes any shift, and before another, whose bias takes it back, a
//! channel can be moved for nothing. Through a Relu it can as far as it hardly ever falls below zero:
//!
//! ```text
//! W₂ relu(W₁x + b₁) + b₂  =  W₂ relu(W₁x + b₁ - c) + (b₂ + W₂ c)      c = max(0, β - 3 γ)
//! ```
//!
//! where the paper knows mean `β` and deviation `γ` from batch normalization, and here data shows them. Without a
//! function between, any shift is exact: the middle of a channel's range goes to zero. All readers must be contractions
//! without padding, whose zeros are not shifted.
//!
//! Samples that were not looked at decide whether the shifted graph is kept, as in [`super::equalize`].

use super::coordinates::Coordinates;
use super::{CLEARLY, LOOKED_AT, SCALED};
use crate::calibrate::{Run, Tally, prepare, threads};
use crate::float_graph::FloatGraph;
use crate::in_order::in_order;
use crate::overrides::of_tensor;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, Steering};
use crate::runner::Silent;
use crate::simulate::{Errors, Simulator};
use crate::trials::Split;
use crate::weights::rounded;
use squint_ir::execute::{Execute, Samples, Session};
use squint_ir::{Graph, Model, OpId, Tensor, ValueId};

/// A value whose channels can be shifted.
struct Site {
    /// The contraction that makes it.
    maker: OpId,
    /// What the contraction makes: before the Relu, if there is one.
    result: ValueId,
    /// What is read.
    value: ValueId,
    /// Axis of the channels, from the front; `None` for the last.
    axis: Option<usize>,
    channels: usize,
    /// Whether a Relu lies between.
    rectified: bool,
    readers: Vec<OpId>,
}

/// What samples show of the channels of a value.
#[derive(Clone)]
struct Channel {
    count: f64,
    sum: f64,
    squares: f64,
    lo: f32,
    hi: f32,
}

/// The graph with shifted channels, if that is better on samples held back.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn absorb(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    samples: &dyn Samples,
) -> Result<Option<Model>, PassError> {
    let mut sites = sites(model.main());
    // Ranges that are asked for are in the units of the float model.
    let asked_for = |v: ValueId| of_tensor(&cx.config.overrides, model.main(), v).range.is_some();
    sites.retain(|s| !asked_for(s.result) && !asked_for(s.value));
    if samples.is_empty() || sites.is_empty() {
        return Ok(None);
    }
    let Split { learnt_from: looked_at, held_back } = cx.trials.split(LOOKED_AT);
    let watched: Vec<ValueId> = sites.iter().map(|s| s.result).collect();
    let session = prepare(model, &watched, executor)?;
    let seen = look(cx, session.as_ref(), &sites, samples, &looked_at)?;
    let shifts: Vec<Vec<f64>> = sites.iter().zip(&seen).map(|(site, seen)| site.shifts(seen)).collect();
    if shifts.iter().flatten().all(|c| *c == 0.0) {
        return Ok(None);
    }
    let shifted = shift(model, &sites, &shifts);

    let observed = cx.observed.clone();
    let float = FloatGraph::new(model, &observed, executor)?;
    let simulator = Simulator::on(model, &float, &observed, samples, &held_back, cx.config)?;
    let mut error = |model: &Model, float: &FloatGraph<'_>| -> Result<Errors, PassError> {
        let (threads, each) = (threads(cx.config), cx.config.method.depends_on_order());
        let run = Run { float, samples, threads, progress: &Silent, hash: false };
        let mut tally = Tally::new(observed.len(), each);
        run.take(&looked_at, &mut tally, None)?;
        cx.statistics = tally.statistics(model, &observed);
        let plan = Draft::new(model, cx)?.plan(cx, &Steering::default(), true);
        let rounded = rounded(model, &plan)?;
        let session = prepare(&rounded, &observed, executor)?;
        simulator.errors_in(session.as_ref(), &plan)
    };
    let before = error(model, &float)?;
    let gain = error(&shifted, &FloatGraph::new(&shifted, &observed, executor)?)?.gain_over(&before);
    if gain <= CLEARLY {
        return Ok(None);
    }
    cx.notes.add("", format!("high biases absorbed: {gain:.1} dB less error on samples held back"));
    Ok(Some(shifted))
}

/// The values that can be shifted, in order of the operators that make them.
fn sites(g: &Graph) -> Vec<Site> {
    g.ops().filter_map(|op| site(g, op)).collect()
}

fn site(g: &Graph, maker: OpId) -> Option<Site> {
    let coordinates = coordinates(g, maker)?;
    takes_shift(g, maker, coordinates.outputs).then_some(())?;
    let result = g.result(maker, 0)?;
    let relu = g.only_use(result).map(|u| u.op).filter(|op| g.op(*op).is("Relu"));
    let value = match relu {
        Some(relu) => g.result(relu, 0)?,
        None => result,
    };
    let uses = g.uses(value);
    let reads = |u: &squint_ir::Use| {
        !u.capture
            && u.slot == 0
            && !pads(g, u.op)
            && self::coordinates(g, u.op)
                .is_some_and(|c| c.inputs == coordinates.outputs && takes_shift(g, u.op, c.outputs))
    };
    let readers: Vec<OpId> = uses.iter().map(|u| u.op).collect();
    let suits = !uses.is_empty() && !g.is_output(value) && !g.is_output(result) && uses.iter().all(reads);
    let axis = g.op(maker).is("Conv").then_some(1);
    let (channels, rectified) = (coordinates.outputs, relu.is_some());
    suits.then_some(Site { maker, result, value, axis, channels, rectified, readers })
}

/// How the weight of a Conv or Gemm lies.
fn coordinates(g: &Graph, op: OpId) -> Option<Coordinates> {
    let node = g.op(op);
    // A MatMul has no bias; what Gemm multiplies besides is folded into its weight.
    let plain = |name: &str| node.float(name).is_none_or(|x| x == 1.0);
    let known = node.is("Conv") || node.is("Gemm") && plain("alpha") && plain("beta");
    let weight = g.konst(g.operand(op, 1)?).filter(|t| known && t.dtype().is_float())?;
    Coordinates::new(node, weight.dims())
}

/// Whether the bias of an operator is a constant of one number for each channel, or none.
fn takes_shift(g: &Graph, op: OpId, channels: usize) -> bool {
    match g.operand(op, 2) {
        None => true,
        Some(v) => g.konst(v).is_some_and(|t| t.dtype().is_float() && t.dims() == [channels]),
    }
}

/// Whether a convolution reads zeros beside its data.
fn pads(g: &Graph, op: OpId) -> bool {
    let node = g.op(op);
    let automatic = node.string("auto_pad").is_some_and(|a| a != "NOTSET" && a != "VALID");
    node.is("Conv") && (automatic || node.ints("pads").is_some_and(|p| p.iter().any(|p| *p != 0)))
}

/// What samples show of the channels of each site.
fn look(
    cx: &PassCx<'_>,
    session: &dyn Session,
    sites: &[Site],
    samples: &dyn Samples,
    numbers: &[usize],
) -> Result<Vec<Vec<Channel>>, PassError> {
    let fresh = Channel { count: 0.0, sum: 0.0, squares: 0.0, lo: f32::INFINITY, hi: f32::NEG_INFINITY };
    let mut all: Vec<Vec<Channel>> = sites.iter().map(|s| vec![fresh.clone(); s.channels]).collect();
    let one = |i: usize| -> Result<Vec<Vec<Channel>>, PassError> {
        let sample = samples.get(i).map_err(PassError::Data)?;
        let mut seen: Vec<Vec<Channel>> = sites.iter().map(|s| vec![fresh.clone(); s.channels]).collect();
        session.run(&sample, &mut |slot, dims, data| {
            sites[slot].watch(dims, data, &mut seen[slot]);
            None
        })?;
        Ok(seen)
    };
    // Sums are added in the order of samples, whichever thread took which.
    in_order(numbers, threads(cx.config), one, |_, seen| {
        for (all, seen) in all.iter_mut().flatten().zip(seen.into_iter().flatten()) {
            all.add(&seen);
        }
        Ok(())
    })?;
    Ok(all)
}

impl Channel {
    fn add(&mut self, other: &Channel) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        (self.lo, self.hi) = (self.lo.min(other.lo), self.hi.max(other.hi));
    }
}

impl Site {
    fn watch(&self, dims: &[usize], data: &[f32], seen: &mut [Channel]) {
        let axis = self.axis.unwrap_or(dims.len().saturating_sub(1));
        if dims.get(axis) != Some(&self.channels) {
            return;
        }
        let inner: usize = dims[axis + 1..].iter().product();
        for (i, run) in data.chunks_exact(inner.max(1)).enumerate() {
            let of_run = run.iter().fold(
                Channel {
                    count: run.len() as f64,
                    sum: 0.0,
                    squares: 0.0,
                    lo: f32::INFINITY,
                    hi: f32::NEG_INFINITY,
                },
                |c, x| Channel {
                    sum: c.sum + f64::from(*x),
                    squares: c.squares + f64::from(*x).powi(2),
                    lo: c.lo.min(*x),
                    hi: c.hi.max(*x),
                    ..c
                },
            );
            seen[i % self.channels].add(&of_run);
        }
    }

    /// What is taken from each channel.
    fn shifts(&self, seen: &[Channel]) -> Vec<f64> {
        let shift = |c: &Channel| {
            let mean = c.sum / c.count;
            let shift = match self.rectified {
                true => (mean - 3.0 * (c.squares / c.count - mean * mean).max(0.0).sqrt()).max(0.0),
                false => (f64::from(c.lo) + f64::from(c.hi)) / 2.0,
            };
            if shift.is_finite() { shift } else { 0.0 }
        };
        seen.iter().map(shift).collect()
    }
}

/// The same function of the inputs, as far as a Relu lets it be, with channels shifted.
fn shift(model: &Model, sites: &[Site], shifts: &[Vec<f64>]) -> Model {
    let mut out = model.clone();
    let mut names: Vec<String> =
        model.metadata_value(SCALED).map(|s| s.lines().map(str::to_owned).collect()).unwrap_or_default();
    for (site, shifts) in sites.iter().zip(shifts) {
        if shifts.iter().all(|c| *c == 0.0) {
            continue;
        }
        let less: Vec<f64> = shifts.iter().map(|c| -c).collect();
        add(&mut out, site.maker, &less);
        for reader in &site.readers {
            let taken_back = response(model.main(), *reader, shifts);
            add(&mut out, *reader, &taken_back);
        }
        let g = model.main();
        names.extend([site.result, site.value].map(|v| g.value(v).name().to_owned()));
    }
    names.sort();
    names.dedup();
    out.set_metadata(SCALED, &names.join("\n"));
    out
}

/// What an operator makes of data that is the same number everywhere in a channel.
fn response(g: &Graph, op: OpId, data: &[f64]) -> Vec<f64> {
    let weight = g.operand(op, 1).and_then(|v| g.konst(v));
    let Some((weight, coordinates)) = weight.zip(coordinates(g, op)) else { return Vec::new() };
    let (weight, mut out) = (weight.f32s(), vec![0.0; coordinates.outputs]);
    coordinates.each(|i, output, input| out[output] += f64::from(weight[i]) * data[input]);
    out
}

/// Adds to the bias of an operator, which gets one if it has none.
fn add(out: &mut Model, op: OpId, more: &[f64]) {
    let g = out.main();
    let old = g.operand(op, 2);
    let before = match old.and_then(|v| g.konst(v)) {
        Some(t) => t.to_f32s(),
        None => vec![0.0; more.len()],
    };
    let sum: Vec<f32> = before.iter().zip(more).map(|(b, m)| (f64::from(*b) + m) as f32).collect();
    let name = match old {
        Some(v) => format!("{}_shifted", g.value(v).name()),
        None => format!("{}_bias", g.label(op)),
    };
    let g = out.main_mut();
    let v = g.add_const(&name, Tensor::from_f32(&[sum.len()], &sum));
    g.set_operand(op, 2, Some(v));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::testing::{outputs, parse};

    const CHAIN: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,3,4,4] x) => (float[1,2,4,4] y)
<float[4,3,1,1] a = ["location": "gen:randn"], float[4] ab = {9, 9, 9, -9},
 float[4,2,1,1] b = ["location": "gen:randn"], float[2,4,1,1] c = ["location": "gen:randn"], float[2] cb = {1, 2}>
{
  p = Conv (x, a, ab)
  r = Relu (p)
  q = Conv <group = 2> (r, b)
  y = Conv (q, c, cb)
}"#;

    /// The shifts of a model whose pre-activations all have the mean 8 and the deviation 1, in -1 to 17.
    fn shifted(text: &str) -> (Model, Model, usize) {
        let model = parse(text);
        let sites = sites(model.main());
        let channel = Channel { count: 2.0, sum: 16.0, squares: 130.0, lo: -1.0, hi: 17.0 };
        let shifts: Vec<_> = sites.iter().map(|s| s.shifts(&vec![channel.clone(); s.channels])).collect();
        let out = shift(&model, &sites, &shifts);
        (model, out, sites.len())
    }

    #[test]
    fn channels_above_zero_are_shifted_for_nothing() {
        let model = parse(CHAIN);
        let sites = sites(model.main());
        assert_eq!(sites.iter().map(|s| s.rectified).collect::<Vec<_>>(), [true, false]);
        // Channels of the first value lie around 9; the last is negative, and stays.
        let shifts = [vec![5.0, 5.0, 5.0, 0.0], vec![1.0, -2.0, 3.0, 0.5]];
        let out = shift(&model, &sites, &shifts);
        for ((_, a), (_, b)) in outputs(&model).iter().zip(outputs(&out)) {
            for (a, b) in a.to_f64s().into_iter().zip(b.to_f64s()) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{a} became {b}");
            }
        }
        assert_eq!(out.metadata_value(SCALED), Some("p\nq\nr"));
        let (_, out, n) = shifted(CHAIN);
        let g = out.main();
        let bias = |name: &str| g.konst(g.value_named(name).unwrap()).unwrap().to_f32s();
        assert_eq!((n, bias("ab_shifted")), (2, vec![4.0, 4.0, 4.0, -14.0]));
    }

    #[test]
    fn zeros_beside_the_data_and_other_readers_forbid_shifts() {
        for text in [
            CHAIN
                .replace("<group = 2>", "<group = 2, pads = [1, 1, 1, 1], strides = [1, 1]>")
                .replace("4,4] y", "6,6] y"),
            CHAIN.replace("y = Conv (q, c, cb)", "s = Sigmoid (q)\n  t = Add (s, r)\n  y = Conv (t, c, cb)"),
        ] {
            let sites = sites(parse(&text).main());
            assert!(sites.iter().all(|s| !s.rectified), "{text}");
        }
    }
}
