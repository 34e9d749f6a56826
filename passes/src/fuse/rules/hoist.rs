//! Scalar factors, moved up into constants.
//!
//! A product with a number passes through whatever is linear in its data: the constants above, of a contraction
//! or of a sum, take the factor in, and the operator goes. Attention divides its scores by `√d` so; integer
//! kernels have no place for that between the product and the Softmax.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Graph, OpId, Tensor, ValueId};

pub(super) const RULES: &[Rule] = rules! {
    /// `k·f(x, W, …) = f(x, k·W, …)`, where `f` is made of contractions, sums with constants, and operators that
    /// move elements or (for `k > 0`) clamp at zero.
    "hoist-scale":
        "y = Mul|Div (c, k!)"
        => "y = c", hoist_scale;
};

/// Operators that a factor passes through.
const MAX_DEPTH: usize = 12;

fn hoist_scale(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (y, c) = (rw.op_id("y"), rw.v("c"));
    if rw.op("y").op_type == "Div" && rw.g().operand(y, 0) != Some(c) {
        return Err("the constant is divided".into());
    }
    if rw.cx.frozen.is_some() {
        return Err("the values above may be quantized on given grids".into());
    }
    let factor = rw.factor("y", "k")?;
    rw.expect_no_growth("c", "k")?;
    if factor == 0.0 {
        return Err("the factor is zero".into());
    }
    let mut constants = Vec::new();
    find(rw.g(), c, factor > 0.0, MAX_DEPTH, &mut constants)?;
    let mut scaled = Vec::with_capacity(constants.len());
    for (op, slot) in constants {
        let g = rw.g();
        let v = g.operand(op, slot).ok_or("an operand is missing")?;
        let t = g.konst(v).ok_or("it is not a constant")?;
        let data: Vec<f32> = t.f32s().iter().map(|x| (f64::from(*x) * factor) as f32).collect();
        if data.iter().any(|x| !x.is_finite()) {
            return Err("a scaled constant is out of range".into());
        }
        scaled.push((op, slot, g.value(v).name().to_owned(), Tensor::from_f32(t.dims(), &data)));
    }
    rw.replace_root_by(c)?;
    for (op, slot, name, tensor) in scaled {
        let g = rw.g_mut();
        let v = g.add_const(&name, tensor);
        g.set_operand(op, slot, Some(v));
        rw.touch(op);
    }
    Ok(())
}

/// The constant operands to scale, so that `v` is scaled. A miss if `v` is needed as it is, too, or is not
/// linear in constants.
fn find(
    g: &Graph,
    v: ValueId,
    positive: bool,
    depth: usize,
    found: &mut Vec<(OpId, u32)>,
) -> Result<(), Miss> {
    let name = || g.value(v).name();
    if g.only_use(v).is_none() {
        return Err(format!("`{}` is used elsewhere, too", name()).into());
    }
    let Some((id, 0)) = g.producer(v) else {
        return Err(format!("`{}` is not made by an operator here", name()).into());
    };
    let op = g.op(id);
    let opaque = || Miss(format!("{} `{}` is not linear in constants", op.op_type, g.label(id)));
    if depth == 0 || !op.is_onnx() {
        return Err(opaque());
    }
    let operand = |slot| g.operand(id, slot).ok_or_else(opaque);
    let up = |slot: u32, found: &mut Vec<(OpId, u32)>| find(g, operand(slot)?, positive, depth - 1, found);
    match op.op_type.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" => {
            constant(g, id, 1)?;
            found.push((id, 1));
            if g.operand(id, 2).is_some() {
                constant(g, id, 2)?;
                found.push((id, 2));
            }
            Ok(())
        }
        "MatMul" if constant(g, id, 1).is_ok() => {
            found.push((id, 1));
            Ok(())
        }
        "MatMul" if constant(g, id, 0).is_ok() => {
            found.push((id, 0));
            Ok(())
        }
        "MatMul" => {
            let before = found.len();
            up(0, found).or_else(|_| {
                found.truncate(before);
                up(1, found)
            })
        }
        "Add" | "Sub" => {
            let (k, data) = if constant(g, id, 1).is_ok() { (1, 0) } else { (0, 1) };
            constant(g, id, k)?;
            found.push((id, k));
            up(data, found)
        }
        "Relu" if positive => up(0, found),
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Identity" => up(0, found),
        _ => Err(opaque()),
    }
}

/// A miss unless an operand is a float32 constant that nothing else uses.
fn constant(g: &Graph, id: OpId, slot: u32) -> Result<(), Miss> {
    let v = g.operand(id, slot).ok_or("an operand is missing")?;
    let name = g.value(v).name();
    match g.konst(v).filter(|_| !g.is_input(v)) {
        None => Err(format!("`{name}` is not a constant").into()),
        Some(t) if t.dtype() != DType::Float => Err(format!("`{name}` is {}, not float", t.dtype()).into()),
        Some(_) if g.only_use(v).is_none() => Err(format!("`{name}` is used elsewhere, too").into()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        let r = "= [\"location\": \"gen:randn\"]";
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3,4] x, float[2,4,3] z) => (float[] y) \
             <float[4,4] w {r}, float[4] b {r}, float[4,4] v {r}, float k = {{8.0}}, float minus = {{-8.0}}, \
             int64[3] flat = {{2, 2, 6}}, float[1,1,1,1] deep = {{8.0}}, int64[3] same = {{2, 3, 4}}> {{ {body} }}"
        )
    }

    #[test]
    fn scores_of_attention_are_scaled_in_the_projection() {
        let scores = "q0 = MatMul (x, w) q = Add (b, q0) s = MatMul (q, z) t = Div (s, k) y = Softmax (t)";
        assert_eq!(fires("hoist-scale", &model(scores)), "MatMul Add MatMul Softmax");
        // The other side, if the first is no product with a constant.
        let keys = "q = Exp (x) k0 = MatMul (w, z) s = MatMul (q, k0) y = Mul (s, k)";
        assert_eq!(fires("hoist-scale", &model(keys)), "Exp MatMul MatMul");
    }

    #[test]
    fn moves_and_clamps_are_passed() {
        let moved = "p = MatMul (x, w) r = Reshape (p, flat) t = Transpose <perm = [0,2,1]> (r) c = Relu (t) y = Mul (c, k)";
        assert_eq!(fires("hoist-scale", &model(moved)), "MatMul Reshape Transpose Relu");
        assert!(misses("hoist-scale", &model(&moved.replace("(c, k)", "(c, minus)"))).contains("linear"));
        assert!(misses("hoist-scale", &model(&moved.replace("(c, k)", "(c, deep)"))).contains("axes"));
        let shared = format!("{moved} u = Neg (p)").replace("y = Mul", "y0 = Mul")
            + " v0 = Reshape (u, same) y1 = Abs (v0) f = Reshape (y0, same) y = Add (f, y1)";
        assert!(misses("hoist-scale", &model(&shared)).contains("used elsewhere"));
        assert!(
            misses("hoist-scale", &model("p = MatMul (x, w) q = MatMul (p, w) y = Mul (q, k)"))
                .contains("elsewhere")
        );
        assert!(misses("hoist-scale", &model("p = Sigmoid (x) y = Mul (p, k)")).contains("linear"));
    }
}
