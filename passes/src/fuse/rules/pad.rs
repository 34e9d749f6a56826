//! Padding: said by the operator that slides over it, and in numbers.
//!
//! Source: `Pad`, `Conv`, `AveragePool` and `MaxPool` in ONNX `Operators.md`.

use super::super::{Miss, Rewrite, Rule};
use crate::windows;
use squint_ir::{Op, OpSpec};
use squint_ops::kernel::{View, gather_view};

pub(super) const RULES: &[Rule] = rules! {
    /// `Conv(Pad(x, p)) = Conv(x)` with `pads + p`, since Conv pads with zeros. So does an average, if it
    /// counts its padding.
    "fuse-pad":
        "p = Pad (x, pads!, value?, axes!?); y = Conv (p, w, b?)",
        "p = Pad (x, pads!, value?, axes!?); y = AveragePool (p)"
        => "y = Conv|AveragePool (x, w, b)", fuse_pad;

    /// `Conv(Pad(x, channels of zeros), w) = Conv(x, w without their weights)`: zeros add nothing, whatever they are
    /// multiplied with. Such channels fill tiles of one runtime's kernels and cost another one time.
    "drop-channel-pad":
        "p = Pad (x, pads!, value?, axes!?); y = Conv (p, w!, b?)"
        => "y = Conv (x, w', b)", drop_channel_pad;

    /// `SAME`: `(ceil(n/s) − 1)·s + e − n` in all on each axis, `e = (k − 1)·d + 1`, the odd one at the end
    /// (`SAME_UPPER`) or the beginning (`SAME_LOWER`). `VALID`: none.
    "explicit-padding":
        "y = Conv (x, w, b?)",
        "y = MaxPool|AveragePool (x)"
        => "y = Conv|MaxPool|AveragePool (x, w, b)", explicit_padding;
};

fn fuse_pad(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let pad = rw.op("p");
    if pad.string("mode").is_some_and(|m| m != "constant") {
        return Err("it pads with elements of the operand".into());
    }
    if rw.has("value") && rw.scalar("value")? != 0.0 {
        return Err("it pads with another value than zero".into());
    }
    let mut op = rw.op("y").clone();
    let rank = match rw.has("w") {
        true => rw.fact("w").rank().or(rw.fact("x").rank()),
        false => rw.fact("x").rank(),
    };
    let rank = rank.filter(|r| *r >= 2).ok_or("the rank is unknown")?;
    let extra = spatial_pads(rw, rank)?;
    let mut pads = windows::pads(&op, rank - 2)?;
    if op.op_type == "AveragePool" {
        let counts = op.int("count_include_pad").unwrap_or(0) != 0 || pads.iter().all(|p| *p == 0);
        if !counts || op.int("ceil_mode").unwrap_or(0) != 0 {
            return Err("the average does not count its padding".into());
        }
        op.set_attr("count_include_pad", 1i64);
    }
    for (p, e) in pads.iter_mut().zip(extra) {
        *p = p.checked_add(e).ok_or("the padding is too large")?;
    }
    op.remove_attr("auto_pad");
    op.set_attr("pads", pads);
    let operands = [Some(rw.v("x")), rw.opt("w"), rw.opt("b")];
    let n = 3 - operands.iter().rev().take_while(|v| v.is_none()).count();
    rw.replace_root(OpSpec::from_op(op).operands(operands[..n].iter().copied()));
    Ok(())
}

fn drop_channel_pad(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.op("p").string("mode").is_some_and(|m| m != "constant") {
        return Err("it pads with elements of the operand".into());
    }
    if rw.has("value") && rw.scalar("value")? != 0.0 {
        return Err("it pads with another value than zero".into());
    }
    if rw.op("y").int("group").unwrap_or(1) != 1 {
        return Err("the convolution is grouped: the channels are those of one group each".into());
    }
    let w = rw.konst("w")?;
    let rank = w.rank();
    if rank < 2 {
        return Err("the weight has no channels".into());
    }
    let full = all_pads(rw, rank)?;
    let (before, behind) = (full[1], full[rank + 1]);
    if full.iter().enumerate().any(|(i, p)| ![1, rank + 1].contains(&i) && *p != 0) || before + behind == 0 {
        return Err("it does not pad channels, or not only channels".into());
    }
    let there = w.dims()[1];
    let kept = usize::try_from(before).ok().zip(usize::try_from(behind).ok());
    let kept =
        kept.map(|(before, behind)| before..there.saturating_sub(behind)).filter(|kept| !kept.is_empty());
    let kept = kept.ok_or("it leaves no channel of the operand")?;
    let view =
        View::new(w.dims()).slice(1, kept.start, 1, kept.len()).ok_or("the pads do not fit the weight")?;
    let smaller = gather_view(&w, &view).map_err(|e| Miss(e.to_string()))?;
    let (old, x) = (rw.v("w"), rw.v("x"));
    let new = rw.add_const("w", smaller);
    rw.sliced_weight(old, new, 1, kept);
    let operands = [Some(x), Some(new), rw.opt("b")];
    let n = if rw.has("b") { 3 } else { 2 };
    let op = rw.op("y").clone();
    rw.replace_root(OpSpec::from_op(op).operands(operands[..n].iter().copied()));
    Ok(())
}

/// What a Pad adds on each spatial axis: all beginnings, then all ends. A miss if it pads batch or
/// channels, or crops.
fn spatial_pads(rw: &Rewrite<'_, '_>, rank: usize) -> Result<Vec<i64>, Miss> {
    let full = all_pads(rw, rank)?;
    if [0, 1, rank, rank + 1].iter().any(|i| full[*i] != 0) {
        return Err("it pads batch or channels".into());
    }
    Ok([&full[2..rank], &full[rank + 2..]].concat())
}

/// What a Pad adds on each axis: all beginnings, then all ends. A miss if it crops.
fn all_pads(rw: &Rewrite<'_, '_>, rank: usize) -> Result<Vec<i64>, Miss> {
    let pads = rw.konst("pads")?.to_i64s().ok_or("`pads` are no integers")?;
    let axes: Vec<i64> = match rw.has("axes") {
        true => rw.konst("axes")?.to_i64s().ok_or("`axes` are no integers")?,
        false => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err("`pads` do not fit the rank".into());
    }
    let mut full = vec![0i64; 2 * rank];
    for (i, axis) in axes.iter().enumerate() {
        let axis = squint_ops::kernel::resolve_axis(*axis, rank).ok_or("an axis does not exist")?;
        full[axis] = pads[i];
        full[rank + axis] = pads[axes.len() + i];
    }
    if full.iter().any(|p| *p < 0) {
        return Err("it crops".into());
    }
    Ok(full)
}

fn explicit_padding(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let mut op = rw.op("y").clone();
    let mode = op.string("auto_pad").unwrap_or("NOTSET").to_owned();
    if !matches!(mode.as_str(), "SAME_UPPER" | "SAME_LOWER" | "VALID") {
        return Err(Miss::nothing_to_do());
    }
    if op.int("ceil_mode").unwrap_or(0) != 0 {
        return Err("it rounds its number of windows up".into());
    }
    let kernel = kernel(rw, &op)?;
    let n = kernel.len();
    let list = |name: &str| match op.ints(name) {
        None | Some([]) => Ok(vec![1; n]),
        Some(v) if v.len() == n && v.iter().all(|x| *x > 0) => Ok(v.to_vec()),
        Some(_) => Err(Miss(format!("`{name}` does not fit the rank"))),
    };
    let (strides, dilations) = (list("strides")?, list("dilations")?);
    let shape = rw.fact("x").shape;
    let mut pads = vec![0i64; 2 * n];
    for i in (0..n).filter(|_| mode != "VALID") {
        let extent = (kernel[i] - 1).checked_mul(dilations[i]).and_then(|x| x.checked_add(1));
        let extent = extent.ok_or("the window is too large")?;
        let total = if strides[i] == 1 {
            extent - 1
        } else {
            let len = shape.as_ref().and_then(|s| s.get(2 + i)).and_then(squint_ir::Dim::known);
            let len = len.and_then(|n| i64::try_from(n).ok()).ok_or("a length is unknown")?;
            let last = len.saturating_sub(1) / strides[i] * strides[i];
            last.saturating_add(extent).saturating_sub(len).max(0)
        };
        let half = total / 2;
        let (begin, end) = if mode == "SAME_UPPER" { (half, total - half) } else { (total - half, half) };
        (pads[i], pads[n + i]) = (begin, end);
    }
    op.remove_attr("auto_pad");
    op.set_attr("pads", pads);
    let id = rw.op_id("y");
    let operands = rw.g().operands(id);
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// Lengths of the window on each spatial axis.
fn kernel(rw: &Rewrite<'_, '_>, op: &Op) -> Result<Vec<i64>, Miss> {
    let kernel = match op.ints("kernel_shape") {
        Some(k) => k.to_vec(),
        None => {
            let w = rw.fact("w").shape.ok_or("the shape of the weight is unknown")?;
            let lengths = w.iter().skip(2).map(|d| i64::try_from(d.known()?).ok());
            lengths.collect::<Option<_>>().ok_or("the shape of the weight is unknown")?
        }
    };
    if kernel.iter().any(|k| *k <= 0) { Err("the window is empty".into()) } else { Ok(kernel) }
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{apply, fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 18]> m (float[1,2,5,6] x) => (float[] y) \
             <float[3,2,3,3] w = [\"location\": \"gen:randn\"], int64[8] p = {{0, 0, 1, 0, 0, 0, 2, 1}}, \
             int64[8] c = {{0, 1, 0, 0, 0, 0, 0, 0}}, int64[8] n = {{0, 0, 1, 0, 0, 0, 0, -1}}, int64[4] q = {{0, 1, 1, 0}}, \
             int64[2] a = {{-1, 2}}, float one = {{1.0}}, float zero = {{0.0}}> {{ {body} }}"
        )
    }

    fn pads(m: &squint_ir::Model) -> Vec<i64> {
        let g = m.main();
        g.ops().find_map(|o| g.op(o).ints("pads").map(<[i64]>::to_vec)).unwrap_or_default()
    }

    #[test]
    fn zeros_around_a_convolution() {
        let (m, ..) = apply("fuse-pad", &model("p0 = Pad (x, p, zero) y = Conv <pads = [1,1,0,0]> (p0, w)"));
        assert_eq!(pads(&m), [2, 1, 2, 1]);
        let (m, ..) = apply("fuse-pad", &model("p0 = Pad (x, q, , a) y = Conv (p0, w)"));
        assert_eq!(pads(&m), [1, 0, 0, 1]);
        for (pad, why) in
            [("(x, p, one)", "another value"), ("(x, n)", "crops"), ("<mode = \"edge\"> (x, p)", "operand")]
        {
            assert!(misses("fuse-pad", &model(&format!("p0 = Pad {pad} y = Conv (p0, w)"))).contains(why));
        }
        let channels = model("p0 = Pad (x, c) y = AveragePool <kernel_shape = [2,2]> (p0)");
        assert!(misses("fuse-pad", &channels).contains("channels"));
    }

    #[test]
    fn channels_of_zeros_go_with_their_weights() {
        let conv = |pads: &str, more: &str| {
            format!(
                r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,2,4,4] x) => (float[1,2,4,4] y)
<int64[8] c = {{{pads}}}, float zero = {{0}}, float one = {{1}}, float[2,4,1,1] w = ["location": "gen:randn?seed=1"],
 float[2] b = {{1, -1}}> {{ p0 = Pad (x, c, {more}) y = Conv (p0, w, b) }}"#
            )
        };
        for pads in ["0,0,0,0,0,2,0,0", "0,1,0,0,0,1,0,0", "0,2,0,0,0,0,0,0"] {
            assert_eq!(fires("drop-channel-pad", &conv(pads, "zero")), "Conv");
        }
        assert!(misses("drop-channel-pad", &conv("0,0,0,0,0,2,0,0", "one")).contains("another value"));
        assert!(misses("drop-channel-pad", &conv("0,0,0,0,0,2,1,1", "zero")).contains("not only channels"));
        assert!(misses("drop-channel-pad", &conv("0,0,0,0,0,4,0,0", "zero")).contains("no channel"));
    }

    #[test]
    fn an_average_has_to_count_its_padding() {
        let body = "p0 = Pad (x, p) y = AveragePool <kernel_shape = [2,2]> (p0)";
        assert_eq!(fires("fuse-pad", &model(body)), "AveragePool");
        let body = "p0 = Pad (x, p) y = AveragePool <kernel_shape = [2,2], pads = [1,0,0,0]> (p0)";
        assert!(misses("fuse-pad", &model(body)).contains("count"));
    }

    #[test]
    fn same_padding_in_numbers() {
        for (attrs, wanted) in [
            ("auto_pad = \"SAME_UPPER\", strides = [2,2]", [1, 0, 1, 1]),
            ("auto_pad = \"SAME_LOWER\", strides = [2,2]", [1, 1, 1, 0]),
            ("auto_pad = \"SAME_UPPER\", dilations = [2,1]", [2, 1, 2, 1]),
        ] {
            let (m, ..) = apply("explicit-padding", &model(&format!("y = Conv <{attrs}> (x, w)")));
            assert_eq!(pads(&m), wanted);
        }
        let body = "y = MaxPool <auto_pad = \"SAME_UPPER\", kernel_shape = [3,2], strides = [3,3]> (x)";
        assert_eq!(fires("explicit-padding", &model(body)), "MaxPool");
        let body = "y = AveragePool <auto_pad = \"VALID\", kernel_shape = [3,2]> (x)";
        assert_eq!(fires("explicit-padding", &model(body)), "AveragePool");
    }
}
