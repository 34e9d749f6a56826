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
    let b = match rw.konst("b") {
        Ok(b) if beta != 1.0 => Some(scaled(b.as_ref(), beta)?),
        Err(miss) if beta != 1.0 && rw.has("b") => return Err(miss),
        _ => None,
    };
    let b = one_for_each_column(rw, b.as_ref()).or(b);
    if w.is_none() && beta == 1.0 && b.is_none() {
        return Err(Miss::nothing_to_do());
    }
    op.remove_attr("alpha");
    op.remove_attr("beta");
    let w = match w {
        Some(t) => {
            let (old, new) = (rw.v("w"), rw.add_const("w", t));
            rw.scaled_weight(old, new, 0, &[f64::from(alpha)]);
            new
        }
        None => rw.v("w"),
    };
    let b = b.map(|t| rw.add_const("b", t)).or(rw.opt("b"));
    let x = rw.v("x");
    let operands = if b.is_some() { vec![Some(x), Some(w), b] } else { vec![Some(x), Some(w)] };
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// A bias of one number (`scaled`, or that of the Gemm) as a vector, where the weight says how many columns there are.
fn one_for_each_column(rw: &Rewrite<'_, '_>, scaled: Option<&Tensor>) -> Option<Tensor> {
    let konst = rw.konst("b").ok()?;
    let b = scaled.unwrap_or(konst.as_ref());
    let transposed = rw.op("y").int("transB").unwrap_or(0) != 0;
    let n = *rw.konst("w").ok()?.dims().get(usize::from(!transposed))?;
    let single = b.len() == 1 && b.rank() <= 2 && b.dims() != [n] && b.dtype() == DType::Float;
    single.then(|| Tensor::from_f32(&[n], &vec![b.f32s()[0]; n]))
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
        for b in ["", "[1]", "[1,1]"] {
            assert_eq!(fires("normalize-gemm", &model("[2,3]", b, "y = Gemm (x, w, b)")), "Gemm");
        }
        let body = "v = Abs (b) y = Gemm <beta = 0.5> (x, w, v)";
        assert!(misses("normalize-gemm", &model("[2,3]", "[4]", body)).contains("not a constant"));
    }
}
