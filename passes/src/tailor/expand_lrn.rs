//! `expand-lrn`: a local response normalization sums over channels in a convolution.
//!
//! ```text
//! y = LRN <size, alpha, beta = 0.75, bias> (x)
//!
//! q = Mul (x, x)   t = Conv (q, band, bias)   s = Sqrt (t)   r = Sqrt (s)   d = Mul (s, r)   y = Div (x, d)
//! ```
//!
//! `y = x / (bias + alpha/size · Σ x²)^beta`, where the sum runs over `size` channels (ONNX `Operators.md`; Krizhevsky et al.
//! 2012): a convolution with one tap, whose weight is a band. ONNX Runtime's kernel takes powers element by element (`lrn.cc`;
//! 1.31, AVX-512: 23 ns for an element; in parts 2.6 with 64 channels, 4.7 with 256).

use super::layouts::channels;
use super::parts::Parts;
use super::{Tailoring, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "expand-lrn", rewrite: expand };

/// With more channels the band has too many zeros.
const MOST_CHANNELS: usize = 512;

fn expand(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["LRN"])? {
        let g = model.main_mut();
        let n = g.operand(op, 0).and_then(|x| channels(&cx.facts, x)).filter(|n| *n <= MOST_CHANNELS);
        if let (Some(n), Some(response)) = (n, Response::of(g, op)) {
            response.write_out(g, op, n);
            changed = true;
        }
    }
    Ok(changed)
}

struct Response {
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
}

impl Response {
    /// What an LRN computes, if what it divides by is positive.
    fn of(g: &Graph, op: OpId) -> Option<Response> {
        let node = g.op(op);
        let float = |name, default| node.float(name).unwrap_or(default);
        let size = usize::try_from(node.int("size")?).ok().filter(|s| (1..=MOST_CHANNELS).contains(s))?;
        let (alpha, beta, bias) = (float("alpha", 1e-4), float("beta", 0.75), float("bias", 1.0));
        let positive =
            bias.is_normal() && bias > 0.0 && alpha.is_finite() && alpha >= 0.0 && beta.is_finite();
        positive.then_some(Response { size, alpha, beta, bias })
    }

    /// `[n, n, 1, 1]`: for each channel, `alpha/size` at those of its window.
    fn band(&self, n: usize) -> Tensor {
        let mut band = vec![0.0; n * n];
        let (before, behind) = ((self.size - 1) / 2, self.size / 2);
        for c in 0..n {
            let window = c.saturating_sub(before)..(c + behind + 1).min(n);
            band[c * n..][window].fill(self.alpha / self.size as f32);
        }
        Tensor::from_f32(&[n, n, 1, 1], &band)
    }

    fn write_out(&self, g: &mut Graph, op: OpId, n: usize) {
        let Some(x) = g.operand(op, 0) else { return };
        let mut parts = Parts::of(g, op, PASS.name);
        let band = parts.tensor("band", self.band(n));
        let bias = parts.tensor("bias", Tensor::from_f32(&[n], &vec![self.bias; n]));
        let squares = parts.apply("Mul", &[x, x]);
        let conv = OpSpec::new("Conv").attr("kernel_shape", vec![1, 1]);
        let total = parts.make(conv, &[squares, band, bias]);
        if self.beta == 0.75 || self.beta == 0.5 {
            let mut divisor = parts.apply("Sqrt", &[total]);
            if self.beta == 0.75 {
                let root = parts.apply("Sqrt", &[divisor]);
                divisor = parts.apply("Mul", &[divisor, root]);
            }
            return parts.end("Div", &[x, divisor]);
        }
        let power = parts.number("power", -self.beta);
        let logarithm = parts.apply("Log", &[total]);
        let scaled = parts.apply("Mul", &[logarithm, power]);
        let factor = parts.apply("Exp", &[scaled]);
        parts.end("Mul", &[x, factor]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::{ops, outputs, parse};

    fn run(target: &str, attributes: &str) -> (Vec<f32>, Vec<f32>, String) {
        let (before, after) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 13]> m (float[1,6,2,3] x) => (float[1,6,2,3] y) {{ y = LRN <{attributes}> (x) }}"
            ),
        );
        let x = before.main().inputs[0];
        let copy = parse(
            "<ir_version: 8, opset_import: [\"\" : 13]> m (float[1,6,2,3] x) => (float[1,6,2,3] y) { y = Identity (x) }",
        );
        assert_eq!(before.main().value(x).name(), "x");
        let types = ops(&after);
        let made = if types == "LRN" { Vec::new() } else { outputs(&after)[0].1.f32s().to_vec() };
        (outputs(&copy)[0].1.f32s().to_vec(), made, types)
    }

    /// `LRN` by its definition.
    fn wanted(x: &[f32], size: i64, alpha: f32, beta: f32, bias: f32) -> Vec<f32> {
        let (channels, pixels) = (6i64, 6usize);
        let at = |c: i64, p: usize| x[c as usize * pixels + p];
        let mut y = Vec::new();
        for c in 0..channels {
            for p in 0..pixels {
                let window = (c - (size - 1) / 2).max(0)..=(c + size / 2).min(channels - 1);
                let sum: f32 = window.map(|c| at(c, p) * at(c, p)).sum();
                y.push(at(c, p) / (bias + alpha / size as f32 * sum).powf(beta));
            }
        }
        y
    }

    #[test]
    fn the_parts_compute_what_is_defined() {
        for (size, alpha, beta, bias) in
            [(5, 1.0, 0.75, 1.0), (3, 2.0, 0.5, 2.0), (4, 0.5, 0.6, 1.5), (11, 1.0, 0.75, 1.0)]
        {
            let attributes = format!("size = {size}, alpha = {alpha:?}, beta = {beta:?}, bias = {bias:?}");
            let (x, y, _) = run("cpu-vnni", &attributes);
            let wanted = wanted(&x, size, alpha, beta, bias);
            assert_eq!(y.len(), wanted.len());
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
            assert!(y.iter().zip(&wanted).all(near), "{attributes}: {y:?} {wanted:?}");
        }
    }

    #[test]
    fn what_could_divide_by_nothing_stays() {
        assert_eq!(run("cpu-vnni", "size = 5, bias = 0.0").2, "LRN");
        assert_eq!(run("cpu-vnni", "size = 5, alpha = -1.0").2, "LRN");
        assert_eq!(run("tensorrt", "size = 5").2, "LRN");
        assert_eq!(run("cpu-vnni", "size = 5").2, "Mul Conv Sqrt Sqrt Mul Div");
    }
}
