//! Taps of windows that no element ever meets.
//!
//! Source: `Conv` in ONNX `Operators.md`.

use super::super::{Miss, Rewrite, Rule};
use crate::windows;
use squint_ir::OpSpec;
use squint_ops::kernel::{View, gather_view};
use std::ops::Range;

pub(super) const RULES: &[Rule] = rules! {
    /// `Conv(x, w) = Conv(x, w without the first and last taps of an axis)` if these only ever meet the padding: tap
    /// `t` of output `o` reads `o·s − p + t·d`, which for all `o` lies outside of `x`. So it is with wide dilations on
    /// small pictures, where one tap of nine may be left.
    "drop-taps-in-padding":
        "y = Conv (x, w!, b?)"
        => "y = Conv (x, w', b)", drop_taps_in_padding;
};

fn drop_taps_in_padding(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let mut op = rw.op("y").clone();
    let w = rw.konst("w")?;
    let n = w.rank().checked_sub(2).filter(|n| *n > 0).ok_or("its weight has no window")?;
    let mut pads = windows::pads(&op, n)?;
    if pads.iter().all(|p| *p <= 0) {
        return Err(Miss::nothing_to_do());
    }
    let (strides, dilations) = (windows::list(&op, "strides", n, 1)?, windows::list(&op, "dilations", n, 1)?);
    let shape = rw.fact("x").shape.filter(|s| s.len() == n + 2).ok_or("the lengths of `x` are unknown")?;
    let mut kept: Vec<Range<usize>> = Vec::new();
    for axis in 0..n {
        let line = Line {
            length: shape[axis + 2].known().and_then(|d| i64::try_from(d).ok()),
            taps: w.dims()[axis + 2],
            stride: strides[axis],
            dilation: dilations[axis],
            pads: (pads[axis], pads[n + axis]),
        };
        let (taps, (begin, end)) = line.trimmed();
        kept.push(taps);
        (pads[axis], pads[n + axis]) = (begin, end);
    }
    if kept.iter().zip(&w.dims()[2..]).all(|(taps, all)| taps.len() == *all) {
        return Err(Miss::nothing_to_do());
    }
    let mut weight = rw.v("w");
    let mut t = w;
    for (axis, taps) in kept.iter().enumerate().map(|(i, taps)| (i + 2, taps)) {
        if taps.len() == t.dims()[axis] {
            continue;
        }
        let view = View::new(t.dims()).slice(axis, taps.start, 1, taps.len()).ok_or("no such taps")?;
        let part = gather_view(&t, &view).map_err(|e| Miss(e.to_string()))?;
        let old = weight;
        weight = rw.add_const("w", part);
        rw.sliced_weight(old, weight, axis, taps.clone());
        t = rw.g().konst(weight).cloned().ok_or("no such taps")?;
    }
    op.remove_attr("auto_pad");
    op.set_attr("pads", pads);
    op.set_attr("kernel_shape", t.dims()[2..].iter().map(|d| *d as i64).collect::<Vec<i64>>());
    let operands = [Some(rw.v("x")), Some(weight), rw.opt("b")];
    let n = if rw.has("b") { 3 } else { 2 };
    rw.replace_root(OpSpec::from_op(op).operands(operands[..n].iter().copied()));
    Ok(())
}

/// A window that slides along an axis.
struct Line {
    length: Option<i64>,
    taps: usize,
    stride: i64,
    dilation: i64,
    pads: (i64, i64),
}

impl Line {
    /// The taps that meet elements, and the padding that these need. All of them where too little is known, where none does,
    /// or where their padding would be negative.
    fn trimmed(&self) -> (Range<usize>, (i64, i64)) {
        self.trim().unwrap_or((0..self.taps, self.pads))
    }

    fn trim(&self) -> Option<(Range<usize>, (i64, i64))> {
        let (d, (begin, end)) = (self.dilation, self.pads);
        let length = self.length.filter(|l| *l > 0 && self.stride > 0 && d > 0 && begin >= 0 && end >= 0)?;
        let reach = i64::try_from(self.taps).ok()?.checked_sub(1)?.checked_mul(d)?;
        let slack = length.checked_add(begin)?.checked_add(end)?.checked_sub(reach)?.checked_sub(1)?;
        // Where the first tap of the last output reads.
        let last = (slack >= 0).then_some(slack / self.stride * self.stride)?.checked_sub(begin)?;
        let meets = |t: usize| {
            let shift = t as i64 * d;
            last + shift >= 0 && shift - begin < length
        };
        let first = (0..self.taps).find(|t| meets(*t))?;
        let behind = (first..self.taps).rfind(|t| meets(*t))? + 1;
        let pads = (begin - first as i64 * d, end - (self.taps - behind) as i64 * d);
        (pads.0 >= 0 && pads.1 >= 0).then_some((first..behind, pads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::testing::{apply, fires, misses};

    fn model(length: usize, attrs: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,2,{length},9] x) => (float[1,3,h,w] y)
<float[3,2,3,3] w = ["location": "gen:randn?seed=1"], float[3] b = {{1, -1, 2}}> {{ y = Conv <{attrs}> (x, w, b) }}"#
        )
    }

    fn window(attrs: &str, length: usize) -> (Vec<usize>, Vec<i64>) {
        let (m, ..) = apply("drop-taps-in-padding", &model(length, attrs));
        let g = m.main();
        let op = g.ops().next().unwrap();
        let dims = g.konst(g.operand(op, 1).unwrap()).unwrap().dims()[2..].to_vec();
        (dims, g.op(op).ints("pads").unwrap().to_vec())
    }

    #[test]
    fn wide_dilations_on_small_pictures_leave_the_middle() {
        let attrs = "pads = [6,6,6,6], dilations = [6,6]";
        assert_eq!(fires("drop-taps-in-padding", &model(6, attrs)), "Conv");
        assert_eq!(window(attrs, 6), (vec![1, 3], vec![0, 6, 0, 6]));
        assert_eq!(window("pads = [9,9,9,9], dilations = [9,9]", 5), (vec![1, 1], vec![0, 0, 0, 0]));
        assert!(misses("drop-taps-in-padding", &model(7, attrs)).is_empty());
    }

    #[test]
    fn strides_pass_over_what_is_there() {
        // Outputs begin at -4 and 0: the last tap reads 4 and 8 of 4 elements.
        let attrs = "pads = [4,1,5,1], dilations = [4,1], strides = [4,1]";
        assert_eq!(window(attrs, 4), (vec![2, 3], vec![4, 1, 1, 1]));
        // One output, whose first tap lies before a gap: what is left would begin behind the first element.
        let line = Line { length: Some(3), taps: 2, stride: 5, dilation: 2, pads: (1, 0) };
        assert_eq!(line.trimmed(), (0..2, (1, 0)));
    }

    #[test]
    fn what_only_sees_padding_stays() {
        let line = Line { length: Some(2), taps: 2, stride: 20, dilation: 9, pads: (5, 3) };
        assert_eq!(line.trimmed(), (0..2, (5, 3)));
        let line = Line { length: None, taps: 3, stride: 1, dilation: 9, pads: (9, 9) };
        assert_eq!(line.trimmed(), (0..3, (9, 9)));
    }
}
