//! Slices: of slices, in disguise, and in front of a convolution.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Dim, Graph, OpId, OpSpec, Tensor, ValueId};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// A Slice of a Slice along other axes is one Slice along all of them.
    "merge-slices":
        "u& = Slice (x, s!, e!, a!, t!?); y = Slice (u, s2!, e2!, a2!, t2!?)"
        => "y = Slice (x, s', e', a', t')", merge_slices;

    /// Every `B`-th channel from the `k`-th on: what a channel shuffle that is written with a Reshape to `[A, B, C]`,
    /// a Transpose and a Gather of part `k` leaves (Ma et al. 2018, ShuffleNet V2).
    "slice-of-shuffle":
        "r& = Reshape (x, s); t& = Transpose (r); u& = Reshape (t, v); y = Gather (u, i!)"
        => "y = Slice (x, s', e', a', t')", slice_of_shuffle;

    /// `W * [x[i::B, j::B], …] = W' * x` with steps and padding times `B`, where `W'` has the elements of `W` at the
    /// pixels that the slices took: the focus layer of detectors. Products are as many as before.
    "fold-slices-into-conv":
        "c = Concat (u, ..); y = Conv (c, w!, b?)"
        => "y = Conv (x, w', b)", fold_slices_into_conv;
};

/// What a Slice takes on one axis.
struct Cut {
    axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

/// The cuts of a Slice of a value of a rank, from its constant operands.
fn cuts(g: &Graph, id: OpId, rank: usize) -> Result<Vec<Cut>, Miss> {
    let list = |slot: u32| -> Result<Option<Vec<i64>>, Miss> {
        let Some(v) = g.operand(id, slot) else { return Ok(None) };
        let t = g.konst(v).filter(|_| !g.is_input(v)).ok_or("bounds that are not constant")?;
        Ok(Some(t.to_i64s().ok_or("bounds that are no integers")?))
    };
    let starts = list(1)?.ok_or("it lacks an operand")?;
    let ends = list(2)?.ok_or("it lacks an operand")?;
    let n = starts.len();
    let axes = list(3)?.unwrap_or_else(|| (0..n as i64).collect());
    let steps = list(4)?.unwrap_or_else(|| vec![1; n]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|l| *l != n) {
        return Err("its operands differ in length".into());
    }
    let cut = |i: usize| {
        let axis = resolve_axis(axes[i], rank).ok_or("an axis does not exist")?;
        Ok(Cut { axis, start: starts[i], end: ends[i], step: steps[i] })
    };
    (0..n).map(cut).collect()
}

impl Cut {
    /// True if it takes everything, however long the axis is.
    fn is_whole(&self) -> bool {
        self.start == 0 && self.step == 1 && self.end >= i64::from(i32::MAX)
    }
}

/// Replaces the root by a Slice of `x`.
fn replace(rw: &mut Rewrite<'_, '_>, cuts: &[Cut]) {
    let result = rw.g().value(rw.v("y")).name().to_owned();
    let name = rw.op("y").name.clone();
    let mut list = |what: &str, get: fn(&Cut) -> i64| {
        let list: Vec<i64> = cuts.iter().map(get).collect();
        rw.g_mut().add_const(&format!("{result}_{what}"), Tensor::from_i64(&[list.len()], &list))
    };
    let bounds = [list("starts", |c| c.start), list("ends", |c| c.end)];
    let steps = [list("axes", |c| c.axis as i64), list("steps", |c| c.step)];
    let operands: Vec<ValueId> = [rw.v("x")].into_iter().chain(bounds).chain(steps).collect();
    rw.replace_root(OpSpec::new("Slice").name(name).operands(operands));
}

fn merge_slices(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let rank = rw.fact("x").rank().ok_or("the rank is unknown")?;
    let mut all = cuts(rw.g(), rw.op_id("u"), rank)?;
    let outer = cuts(rw.g(), rw.op_id("y"), rank)?;
    all.retain(|c| !c.is_whole());
    let outer: Vec<Cut> = outer.into_iter().filter(|c| !c.is_whole()).collect();
    if outer.iter().any(|o| all.iter().any(|c| c.axis == o.axis)) {
        return Err("both cut the same axis".into());
    }
    all.extend(outer);
    if all.is_empty() {
        return Err("they cut nothing off".into());
    }
    replace(rw, &all);
    Ok(())
}

fn slice_of_shuffle(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.op("y").int("axis").unwrap_or(0) != 0 || rw.konst("i")?.rank() != 0 {
        return Err("it does not take one part".into());
    }
    let lengths = |name: &str| -> Result<Vec<u64>, Miss> {
        let shape = rw.fact(name).shape.ok_or("a shape is unknown")?;
        let lengths: Option<Vec<u64>> = shape.iter().map(Dim::known).collect();
        lengths.ok_or_else(|| "a length is unknown".into())
    };
    let (x, r, u, y) = (lengths("x")?, lengths("r")?, lengths("u")?, lengths("y")?);
    let (&[_, parts, inner], Some(&[1, 0, 2])) = (&r[..], rw.op("t").ints("perm")) else {
        return Err("it is no shuffle of `[A, B, C]`".into());
    };
    if u.first() != Some(&parts) || parts == 0 {
        return Err("parts do not stay whole".into());
    }
    let part = resolve_axis(rw.scalar("i")? as i64, parts as usize).ok_or("the part does not exist")?;
    // The axis of the data behind which one row of the shuffle lies.
    let behind = |axis: &usize| x[axis + 1..].iter().product::<u64>() == inner;
    let axis = (0..x.len()).find(behind).filter(|a| x[*a].is_multiple_of(parts));
    let axis = axis.ok_or("the parts are not those of one axis")?;
    let mut taken = x.clone();
    taken[axis] /= parts;
    if taken != y {
        return Err("the part has another shape than the data".into());
    }
    replace(rw, &[Cut { axis, start: part as i64, end: i64::MAX, step: parts as i64 }]);
    Ok(())
}

fn fold_slices_into_conv(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let g = rw.g();
    let rank = rw.fact("c").rank().filter(|r| *r == 4).ok_or("it is not known to be of images")?;
    if g.op(rw.op_id("c")).int("axis").and_then(|a| resolve_axis(a, rank)) != Some(1) {
        return Err("it does not join channels".into());
    }
    let (mut x, mut block, mut offsets) = (None, None, Vec::new());
    for v in g.operands(rw.op_id("c")).into_iter().flatten() {
        let (from, step, offset) = pixels(g, v)?;
        if x.is_some_and(|x| x != from) || block.is_some_and(|b| b != step) {
            return Err("the slices differ in more than where they start".into());
        }
        (x, block) = (Some(from), Some(step));
        offsets.push(offset);
    }
    let (x, block) = (x.ok_or("it joins nothing")?, block.ok_or("it joins nothing")?);
    let mut op = rw.op("y").clone();
    let all = |name: &str, n: i64| op.ints(name).is_none_or(|l| l.iter().all(|i| *i == n));
    let explicit = matches!(op.string("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID");
    if op.int("group").unwrap_or(1) != 1 || !all("dilations", 1) || !explicit {
        return Err("the convolution has groups, dilations or automatic padding".into());
    }
    rw.expect_free_weight("w")?;
    let w = rw.konst("w")?;
    let &[m, c, kh, kw] = w.dims() else { return Err("the weight is not of images".into()) };
    if w.dtype() != DType::Float || !c.is_multiple_of(offsets.len()) {
        return Err("the weight does not fit the slices".into());
    }
    let (channels, b) = (c / offsets.len(), block as usize);
    let dims = [m, channels, kh * b, kw * b];
    let mut wide = vec![0.0f32; dims.iter().product()];
    let narrow = w.f32s();
    for (i, value) in narrow.iter().enumerate() {
        let (mi, ci, y, x) = (i / (c * kh * kw), i / (kh * kw) % c, i / kw % kh, i % kw);
        let (dy, dx) = offsets[ci / channels];
        let at = ((mi * channels + ci % channels) * dims[2] + y * b + dy) * dims[3] + x * b + dx;
        wide[at] = *value;
    }
    let scaled = |list: Option<&[i64]>, n: usize, default: i64| -> Result<Vec<i64>, Miss> {
        let list = list.filter(|l| !l.is_empty()).map_or(vec![default; n], <[i64]>::to_vec);
        let list: Option<Vec<i64>> = list.iter().map(|i| i.checked_mul(block)).collect();
        list.ok_or_else(|| "a step is too large".into())
    };
    let (strides, pads) = (scaled(op.ints("strides"), 2, 1)?, scaled(op.ints("pads"), 4, 0)?);
    op.set_attr("strides", strides);
    op.set_attr("pads", pads);
    op.set_attr("kernel_shape", vec![dims[2] as i64, dims[3] as i64]);
    op.remove_attr("auto_pad");
    let w = rw.add_const("w", Tensor::from_f32(&dims, &wide));
    let operands = [Some(x), Some(w)].into_iter().chain(rw.opt("b").map(Some));
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// The value of which a Slice takes every `B`-th pixel, `B`, and where it starts.
fn pixels(g: &Graph, v: ValueId) -> Result<(ValueId, i64, (usize, usize)), Miss> {
    let no = || Miss(format!("`{}` is not every so many pixels of an image", g.value(v).name()));
    let (id, _) = g.producer(v).filter(|(p, _)| g.op(*p).is("Slice")).ok_or_else(no)?;
    let x = g.operand(id, 0).ok_or_else(no)?;
    let cuts: Vec<Cut> = cuts(g, id, 4)?.into_iter().filter(|c| !c.is_whole()).collect();
    let on = |axis: usize| {
        let mut own = cuts.iter().filter(|c| c.axis == axis);
        own.next().filter(|c| own.next().is_none() && c.step > 1 && c.end >= i64::from(i32::MAX))
    };
    let (Some(h), Some(w), 2) = (on(2), on(3), cuts.len()) else { return Err(no()) };
    let offset = |c: &Cut| usize::try_from(c.start).ok().filter(|s| (*s as i64) < c.step).ok_or_else(no);
    if h.step != w.step || h.step > 16 {
        return Err(no());
    }
    Ok((x, h.step, (offset(h)?, offset(w)?)))
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(input: &str, body: &str) -> String {
        let r = "= [\"location\": \"gen:randn\"]";
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x) => (float[] y) \
             <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}, \
             int64[1] big = {{9223372036854775807}}, int64 i1 = {{1}}, int64[3] rows = {{4, 2, 9}}, int64[5] parts = {{2, -1, 4, 3, 3}}, \
             int64[2] o00 = {{0, 0}}, int64[2] o10 = {{1, 0}}, int64[2] o01 = {{0, 1}}, int64[2] o11 = {{1, 1}}, \
             int64[2] ends = {{2147483647, 2147483647}}, int64[2] hw = {{2, 3}}, int64[2] four = {{4, 4}}, int64[2] steps = {{2, 2}}, \
             float[3,8,3,3] w {r}, float[3] b {r}> {{ {body} }}"
        )
    }

    #[test]
    fn slices_of_other_axes_merge() {
        let rule = "merge-slices";
        let body = "u = Slice (x, zero, big, two, two) y = Slice (u, one, two, three)";
        assert_eq!(fires(rule, &model("[1,2,4,6]", body)), "Slice");
        let same = "u = Slice (x, zero, big, two, two) y = Slice (u, one, two, two)";
        assert!(misses(rule, &model("[1,2,4,6]", same)).contains("same axis"));
    }

    #[test]
    fn a_part_of_a_shuffle_is_every_other_channel() {
        let body = "r = Reshape (x, rows) t = Transpose <perm = [1,0,2]> (r) u = Reshape (t, parts) y = Gather (u, i1)";
        assert_eq!(fires("slice-of-shuffle", &model("[1,8,3,3]", body)), "Slice");
        assert!(
            misses("slice-of-shuffle", &model("[1,8,3,3]", &body.replace("[1,0,2]", "[0,1,2]")))
                .contains("shuffle")
        );
    }

    #[test]
    fn a_focus_layer_is_a_larger_kernel() {
        let slice = |name: &str| format!("s{name} = Slice (x, {name}, ends, hw, steps) ");
        let slices: String = ["o00", "o10", "o01", "o11"].iter().map(|n| slice(n)).collect();
        let body = format!(
            "{slices} c = Concat <axis = 1> (so00, so10, so01, so11) y = Conv <pads = [1,0,1,1], strides = [1,2]> (c, w, b)"
        );
        assert_eq!(
            fires("fold-slices-into-conv", &model("[1,2,6,8]", &body)),
            "Slice Slice Slice Slice Conv"
        );
        let other = body.replace("(x, o11, ends", "(x, o11, four");
        assert!(misses("fold-slices-into-conv", &model("[1,2,4,4]", &other)).contains("pixels"));
    }
}
