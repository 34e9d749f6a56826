//! `align-channels`: values between float convolutions get whole blocks of channels.
//!
//! ```text
//! a = Conv (x, w)   p = MaxPool (a)   y = Conv (p, v)        # 24 channels
//!
//! a = Conv (x, w')   p = MaxPool (a)   y = Conv (p, v')      # 32; 8 rows of w' and 8 columns of v' are zero
//! ```
//!
//! Float convolutions keep their data in blocks of channels, and compute whole blocks anyway. But ONNX Runtime takes a
//! value out of that layout before a pool, a sum, a product or a Concat, and computes these without blocks, if its
//! channels are no whole number of blocks; and before a convolution, if they are less than one block
//! (`nchwc_transformer.cc`: `TransformPool`, `TransformBinary`, `TransformConcat`, `TransformConv`). With zeros as more
//! channels, which the weights behind multiply by zero, it does not.

use super::layouts::{Layout, Role, Sets, Solver, by_channel, channels};
use super::{Tailoring, is_dequantized, konst};
use crate::infer_types::infer_concrete;
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;
use std::collections::{BTreeMap, BTreeSet};

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "align-channels", rewrite: align };

fn align(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    let Some(block) = kernels.block else { return Ok(false) };
    let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
    let concrete = infer_concrete(model, &cx.statistics.dims)?;
    let layouts = Regions::new(model.main(), &order, &cx.facts).layouts(block, &concrete);
    for op in order {
        pad(model.main_mut(), op, &layouts, &cx.facts);
    }
    for v in layouts.keys() {
        model.main_mut().set_type(*v, None);
    }
    Ok(!layouts.is_empty())
}

/// Picoseconds for taking an element out of blocks, or back. (Measured as [`MAC`], on an AVX-512 Xeon.)
const ELEMENT: i64 = 1000;

/// Picoseconds for a multiply–accumulate of a float convolution.
const MAC: i64 = 15;

/// Values between convolutions.
struct Regions<'a> {
    g: &'a Graph,
    order: &'a [OpId],
    facts: &'a ValueTable<Fact>,
    /// Values of which all are padded, or none.
    all: Sets,
    /// Those with the same layout.
    same: Sets,
    /// Representatives of `all` that something reads or makes that knows its channels.
    closed: BTreeSet<ValueId>,
    values: Vec<ValueId>,
    joins: Vec<(ValueId, Vec<ValueId>)>,
}

impl<'a> Regions<'a> {
    fn new(g: &'a Graph, order: &'a [OpId], facts: &'a ValueTable<Fact>) -> Regions<'a> {
        let values: Vec<_> = g.values().filter(|v| channels(facts, *v).is_some()).collect();
        let (mut all, mut same, mut joins) = (Sets::default(), Sets::default(), Vec::new());
        let mut fixed: Vec<ValueId> =
            g.inputs.iter().chain(&g.outputs).copied().filter(|v| channels(facts, *v).is_some()).collect();
        fixed.extend(values.iter().filter(|v| g.konst(**v).is_some()));
        for op in order {
            let operands: Vec<_> = g.operands(*op).into_iter().flatten().collect();
            let used =
                operands.iter().copied().filter(|v| g.konst(*v).is_none() && channels(facts, *v).is_some());
            let Some(result) = g.result(*op, 0).filter(|v| channels(facts, *v).is_some()) else {
                fixed.extend(used);
                fixed.extend(g.captures(*op).into_iter().flatten());
                continue;
            };
            match Role::of(g, *op, facts) {
                Role::Dense => {}
                Role::Depthwise => {
                    all.join(operands[0], result);
                    same.join(operands[0], result);
                }
                Role::ByChannel => used.for_each(|v| {
                    all.join(v, result);
                    same.join(v, result);
                }),
                Role::Concat
                    if operands.iter().all(|v| g.konst(*v).is_none() && channels(facts, *v).is_some()) =>
                {
                    operands.iter().for_each(|v| all.join(*v, result));
                    joins.push((result, operands));
                }
                Role::Concat | Role::Other => {
                    fixed.extend(used.chain(g.captures(*op).into_iter().flatten()));
                    fixed.extend(g.results(*op).into_iter().flatten());
                }
            }
        }
        let closed = fixed.into_iter().map(|v| all.find(v)).collect();
        Regions { g, order, facts, all, same, closed, values, joins }
    }

    /// Layouts of the values that are to be padded.
    fn layouts(&self, block: usize, concrete: &ValueTable<Fact>) -> BTreeMap<ValueId, Layout> {
        let mut joins: BTreeMap<ValueId, Vec<Vec<ValueId>>> = BTreeMap::new();
        for (result, parts) in &self.joins {
            joins.entry(self.same.find(*result)).or_default().push(parts.clone());
        }
        let mut solver =
            Solver { block, facts: self.facts, same: &self.same, joins, solved: BTreeMap::new() };
        let mut regions: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
        for v in &self.values {
            regions.entry(self.all.find(*v)).or_default().push(*v);
        }
        let mut gains: BTreeMap<ValueId, i64> = BTreeMap::new();
        for op in self.order {
            let (Some(x), Some(y)) = (self.g.operand(*op, 0), self.g.result(*op, 0)) else { continue };
            let dense = matches!(Role::of(self.g, *op, self.facts), Role::Dense);
            // The value whose layout matters to the operator.
            let v = if dense { x } else { y };
            if channels(self.facts, v).is_some() {
                let gain = gains.entry(self.all.find(v)).or_default();
                *gain = gain.saturating_add(self.gain(*op, v, dense, block, concrete));
            }
        }
        let mut layouts = BTreeMap::new();
        for (region, values) in regions {
            let pays = gains.get(&region).is_some_and(|gain| *gain > 0);
            if !pays || self.closed.contains(&region) {
                continue;
            }
            let found: Option<Vec<_>> = values.iter().map(|v| Some((*v, solver.layout(*v)?))).collect();
            let sound = |(v, layout): &(ValueId, Layout)| {
                channels(self.facts, *v)
                    .is_some_and(|n| layout.len() <= 2 * n && layout.iter().flatten().count() == n)
            };
            layouts.extend(found.into_iter().filter(|f| f.iter().all(sound)).flatten());
        }
        layouts.retain(|_, layout| layout.iter().any(Option::is_none));
        layouts
    }

    /// Picoseconds that an operator saves because it no longer takes a value out of blocks and back, or, negative, that it
    /// computes longer.
    fn gain(&self, op: OpId, v: ValueId, dense: bool, block: usize, concrete: &ValueTable<Fact>) -> i64 {
        let length = |v: ValueId| -> Option<i64> {
            let shape = concrete.get(v)?.shape.as_ref()?;
            shape.iter().map(squint_ir::Dim::known).try_fold(1i64, |n, d| n.checked_mul(d?.try_into().ok()?))
        };
        let Some(n) = channels(self.facts, v) else { return 0 };
        let elements = length(v).unwrap_or(0);
        let missing = (n.next_multiple_of(block) - n) as i64;
        let padding = (elements / n.max(1) as i64).saturating_mul(missing);
        if padding == 0 {
            return 0;
        }
        if dense {
            // Images are read without blocks; other values would be taken out of them. With less than a block a convolution
            // computes just these channels, otherwise all.
            let blocked = self.g.producer(v).is_some() && !is_dequantized(self.g, v);
            if n >= block || !blocked {
                return 0;
            }
            let weight = self.g.operand(op, 1).and_then(|w| konst(self.g, w));
            let taps = weight.map_or(0, |w| w.dims()[2] * w.dims()[3]) as i64;
            let result = self.g.result(op, 0).and_then(length).unwrap_or(0);
            let longer = missing.saturating_mul(taps).saturating_mul(result).saturating_mul(MAC);
            return elements.saturating_mul(ELEMENT).saturating_sub(longer);
        }
        let kept = match self.g.op(op).op_type.as_str() {
            "Conv" | "Relu" | "Sigmoid" | "Tanh" | "HardSigmoid" | "HardSwish" | "Resize" => 0,
            // One that a convolution swallows.
            "Clip" if self.behind_convolution(op) => 0,
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                self.g.operand(op, 0).and_then(length).unwrap_or(0)
            }
            "Concat" => elements,
            "Add" | "Mul" | "Sum" if self.operands_alike(op, concrete) => elements,
            _ => -padding,
        };
        kept.saturating_mul(ELEMENT)
    }

    fn behind_convolution(&self, op: OpId) -> bool {
        let x = self.g.operand(op, 0);
        x.is_some_and(|x| {
            self.g.only_use(x).is_some() && self.g.producer(x).is_some_and(|(p, _)| self.g.op(p).is("Conv"))
        })
    }

    fn operands_alike(&self, op: OpId, concrete: &ValueTable<Fact>) -> bool {
        let shape = |v: ValueId| concrete.get(v).and_then(|f| f.shape.clone());
        let result = self.g.result(op, 0).and_then(shape);
        self.g.operands(op).into_iter().flatten().all(|v| shape(v) == result && self.g.konst(v).is_none())
    }
}

/// Pads the constants of an operator to the layouts of what it reads and makes.
fn pad(g: &mut Graph, op: OpId, layouts: &BTreeMap<ValueId, Layout>, facts: &ValueTable<Fact>) {
    let layout = |v: Option<ValueId>| v.and_then(|v| layouts.get(&v));
    let (reads, makes) = (layout(g.operand(op, 0)), layout(g.result(op, 0)));
    match Role::of(g, op, facts) {
        Role::Dense if reads.is_some() || makes.is_some() => {
            replace(g, op, 1, |w| {
                let [m, c, high, wide] = *w.dims() else { return w.clone() };
                let natural = |n: usize| (0..n).map(Some).collect::<Layout>();
                let (rows, columns) =
                    (makes.cloned().unwrap_or(natural(m)), reads.cloned().unwrap_or(natural(c)));
                let taps = high * wide;
                let from = w.f32s();
                let mut padded = Vec::with_capacity(rows.len() * columns.len() * taps);
                for row in &rows {
                    for column in &columns {
                        match (row, column) {
                            (Some(r), Some(c0)) => {
                                padded.extend_from_slice(&from[(r * c + c0) * taps..][..taps]);
                            }
                            _ => padded.resize(padded.len() + taps, 0.0),
                        }
                    }
                }
                Tensor::from_f32(&[rows.len(), columns.len(), high, wide], &padded)
            });
            if let Some(makes) = makes {
                replace(g, op, 2, |b| rows(b, makes));
            }
        }
        Role::Depthwise => {
            let Some(makes) = makes else { return };
            replace(g, op, 1, |w| rows(w, makes));
            replace(g, op, 2, |b| rows(b, makes));
            g.op_mut(op).set_attr("group", makes.len() as i64);
        }
        Role::ByChannel => {
            let Some(makes) = makes else { return };
            for slot in 0..g.operands(op).len() as u32 {
                let padded = |t: &Tensor| {
                    if t.len() == 1 || !by_channel(t.dims()) { t.clone() } else { along_channels(t, makes) }
                };
                replace(g, op, slot, padded);
            }
        }
        _ => {}
    }
}

/// Gives an operator a constant made of the one that it has at a slot, if it has one.
fn replace(g: &mut Graph, op: OpId, slot: u32, make: impl FnOnce(&Tensor) -> Tensor) {
    let Some(v) = g.operand(op, slot) else { return };
    let Some(old) = konst(g, v).cloned() else { return };
    let new = make(&old);
    if new.dims() != old.dims() {
        let name = format!("{}_aligned", g.value(v).name());
        let new = g.add_const(&name, new);
        g.set_operand(op, slot, Some(new));
    }
}

/// A tensor whose first axis is laid out anew.
fn rows(t: &Tensor, layout: &Layout) -> Tensor {
    let mut dims = t.dims().to_vec();
    let each = dims[1..].iter().product::<usize>();
    let from = t.f32s();
    dims[0] = layout.len();
    let mut padded = vec![0.0; dims.iter().product()];
    for (to, channel) in layout.iter().enumerate() {
        if let Some(c) = channel {
            padded[to * each..][..each].copy_from_slice(&from[c * each..][..each]);
        }
    }
    Tensor::from_f32(&dims, &padded)
}

/// One number for each channel, laid out anew.
fn along_channels(t: &Tensor, layout: &Layout) -> Tensor {
    let from = t.f32s();
    let padded: Vec<f32> = layout.iter().map(|c| c.map_or(0.0, |c| from[c])).collect();
    let dims = if t.rank() == 3 { vec![layout.len(), 1, 1] } else { vec![1, layout.len(), 1, 1] };
    Tensor::from_f32(&dims, &padded)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tailored};
    use super::*;

    /// Runs the pass, checks outputs, and says how many channels each convolution makes.
    fn made(target: &str, body: &str) -> Vec<usize> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,3,6,6] x, float[1,24,4,4] e) \
             => (float[N,M,H,W] y) \
             <float[24,3,3,3] w = [\"location\": \"gen:randn\"], float[24] b = [\"location\": \"gen:randn\"], \
              float[24,24,1,1] v = [\"location\": \"gen:randn\"], float[20,24,1,1] s = [\"location\": \"gen:randn\"], \
              float[4,48,1,1] u = [\"location\": \"gen:randn\"], float[4,44,1,1] q = [\"location\": \"gen:randn\"], \
              float[24,44,1,1] t = [\"location\": \"gen:randn\"], \
              float[4,24,1,1] o = [\"location\": \"gen:randn\"], float[24,1,3,3] d = [\"location\": \"gen:randn\"], \
              float[1,24,1,1] k = [\"location\": \"gen:randn\"], float[9,3,1,1] n = [\"location\": \"gen:randn\"], \
              float[4,9,1,1] l = [\"location\": \"gen:randn\"], float[44,44,1,1] r = [\"location\": \"gen:randn\"], \
              float[44,3,1,1] i = [\"location\": \"gen:randn\"]> \
             {{ {body} }}"
        );
        let (before, after) = tailored(&PASS, target, &text);
        assert_near(&before, &after, 1e-4, body);
        let g = after.main();
        let order = g.topo().unwrap().into_iter().filter(|op| g.op(*op).is("Conv"));
        order.map(|op| g.konst(g.operand(op, 1).unwrap()).unwrap().dims()[0]).collect()
    }

    const POOL: &str = "p = MaxPool <kernel_shape = [2, 2]> (c)";

    #[test]
    fn pools_sums_and_depthwise_convolutions_keep_blocks() {
        for (body, expected) in [
            (format!("c = Conv (x, w, b) {POOL} y = Conv (p, o)"), vec![32, 4]),
            (
                format!(
                    "c = Conv (x, w, b) {POOL} a = Conv <group = 24> (p, d, b) f = Sigmoid (a) y = Conv (f, o)"
                ),
                vec![32, 32, 4],
            ),
            (
                "c = Conv (x, w, b) a = Conv (c, v) z = Add (a, c) g = Mul (z, k) y = Conv (g, o)".into(),
                vec![32, 32, 4],
            ),
        ] {
            assert_eq!(made("cpu-vnni", &body), expected, "{body}");
        }
    }

    #[test]
    fn parts_of_a_concat_are_padded_each_and_sums_with_it_follow() {
        let body = "c = Conv (x, w, b) a = Conv (c, s) j = Concat <axis = 1> (c, a) y = Conv (j, q)";
        assert_eq!(made("cpu-vnni", body), [32, 32, 4]);
        let body = "c = Conv (x, w, b) a = Conv (c, s) j = Concat <axis = 1> (a, c) f = Conv (j, r) z = Add (f, j) \
                    y = Conv (z, q)";
        assert_eq!(made("cpu-vnni", body), [32, 32, 64, 4]);
        // One convolution cannot make two layouts.
        let body = "c = Conv (x, w, b) a = Conv (c, s) j = Concat <axis = 1> (a, c) h = Concat <axis = 1> (c, a) \
                    z = Add (h, j) y = Conv (z, q)";
        assert_eq!(made("cpu-vnni", body), [24, 20, 4]);
    }

    #[test]
    fn what_others_read_or_gains_nothing_stays() {
        for (target, body, expected) in [
            (
                "cpu-vnni",
                format!("c = Conv (x, w, b) {POOL} y = Transpose <perm = [0, 1, 3, 2]> (p)"),
                vec![24],
            ),
            ("cpu-vnni", "c = Conv (x, w, b) z = Add (c, e) y = Conv (z, o)".into(), vec![24, 4]),
            ("cpu-vnni", "c = Conv (x, w, b) f = Relu (c) y = Conv (f, o)".into(), vec![24, 4]),
            ("cpu-vnni", "c = Conv (x, w, b) f = Exp (c) z = Add (f, f) y = Conv (z, o)".into(), vec![24, 4]),
            ("tensorrt", format!("c = Conv (x, w, b) {POOL} y = Conv (p, o)"), vec![24, 4]),
            ("arm64", format!("c = Conv (x, w, b) {POOL} y = Conv (p, o)"), vec![24, 4]),
        ] {
            assert_eq!(made(target, &body), expected, "{body}");
        }
        let body = "c = Conv (x, n) f = Relu (c) y = Conv (f, l)";
        assert_eq!(made("cpu-vnni", body), [16, 4], "less than a block would leave the layout");
    }
}
