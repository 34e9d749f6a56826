//! Matrix products: one spelling, `Gemm` with factors of 1.
//!
//! `Gemm` is `alpha·A'·B' + beta·C` (ONNX `Operators.md`); a runtime's integer kernel takes a bias, but
//! neither a separate Add nor factors.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, OpSpec, Tensor};

pub(super) const RULES: &[Rule] = rules! {
    /// `x·W + b = Gemm(x, W, b)` for matrices.
    "fuse-matmul-add":
        "c = MatMul (x, w!); y = Add (c, b!)"
        => "y = Gemm (x, w, b')", fuse_matmul_add;

    /// `alpha·A·B + beta·C = A·(alpha·B) + (beta·C)`.
    "normalize-gemm":
        "y = Gemm (x, w, b?)"
        => "y = Gemm (x, w', b')", normalize_gemm;
};

fn fuse_matmul_add(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (w, b) = (rw.konst("w")?, rw.konst("b")?);
    let &[_, n] = w.dims() else { return Err("the weight is not a matrix".into()) };
    if rw.fact("x").rank() != Some(2) {
        return Err("the data is not known to be a matrix".into());
    }
    if w.dtype() != DType::Float || b.dtype() != DType::Float {
        return Err("weights that are not float32 are left as they are".into());
    }
    let bias = match b.dims() {
        [] | [1] | [1, 1] => vec![b.to_f32s()[0]; n],
        [k] | [1, k] if *k == n => b.to_f32s(),
        _ => return Err("the summand is not one number per output channel".into()),
    };
    let b = rw.add_const("b", Tensor::from_f32(&[n], &bias));
    let (x, w) = (rw.v("x"), rw.v("w"));
    let name = rw.op("c").name.clone();
    rw.replace_root(OpSpec::new("Gemm").name(name).operands([x, w, b]));
    Ok(())
}

fn normalize_gemm(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let mut op = rw.op("y").clone();
    let (alpha, beta) = (op.float("alpha").unwrap_or(1.0), op.float("beta").unwrap_or(1.0));
    let scaled = |t: &Tensor, k: f32| match t.dtype() {
        DType::Float => Ok(Tensor::from_f32(t.dims(), &t.f32s().iter().map(|x| x * k).collect::<Vec<_>>())),
        _ => Err(Miss::from("weights that are not float32 are left as they are")),
    };
    let w = if alpha == 1.0 { None } else { Some(scaled(rw.konst("w")?.as_ref(), alpha)?) };
    let b = if beta == 1.0 || !rw.has("b") { None } else { Some(scaled(rw.konst("b")?.as_ref(), beta)?) };
    if w.is_none() && beta == 1.0 {
        return Err(Miss::nothing_to_do());
    }
    op.remove_attr("alpha");
    op.remove_attr("beta");
    let w = match w {
        Some(t) => rw.add_const("w", t),
        None => rw.v("w"),
    };
    let b = b.map(|t| rw.add_const("b", t)).or(rw.opt("b"));
    let x = rw.v("x");
    let operands = if b.is_some() { vec![Some(x), Some(w), b] } else { vec![Some(x), Some(w)] };
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(input: &str, b: &str, body: &str) -> String {
        let r = "= [\"location\": \"gen:randn\"]";
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x) => (float[] y) \
             <float[3,4] w {r}, float{b} b {r}> {{ {body} }}"
        )
    }

    #[test]
    fn a_bias_behind_a_matrix_product() {
        let body = "c = MatMul (x, w) y = Add (b, c)";
        for b in ["[4]", "[1,4]", "[1]"] {
            assert_eq!(fires("fuse-matmul-add", &model("[N,3]", b, body)), "Gemm");
        }
        assert!(
            misses("fuse-matmul-add", &model("[2,5,3]", "[4]", body)).contains("not known to be a matrix")
        );
        assert!(misses("fuse-matmul-add", &model("[2,3]", "[2,4]", body)).contains("per output channel"));
    }

    #[test]
    fn factors_go_into_constants() {
        let gemm = "y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)";
        assert_eq!(fires("normalize-gemm", &model("[2,3]", "[4]", gemm)), "Gemm");
        assert_eq!(fires("normalize-gemm", &model("[2,3]", "[4]", "y = Gemm <beta = 0.5> (x, w)")), "Gemm");
        assert_eq!(misses("normalize-gemm", &model("[2,3]", "[4]", "y = Gemm (x, w, b)")), "");
        let body = "v = Abs (b) y = Gemm <beta = 0.5> (x, w, v)";
        assert!(misses("normalize-gemm", &model("[2,3]", "[4]", body)).contains("not a constant"));
    }
}
