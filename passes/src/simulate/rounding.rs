//! Values on their grids, as floats.

use crate::plan::QuantPlan;
use multiversion::multiversion;
use squint_ir::affine::{Grid, QuantParams};
use squint_ir::{DType, ValueId};

/// How a value is quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rounding {
    /// By a scale that is planned.
    Planned(DType, QuantParams),
    /// By the range that it has: all of it, in unsigned levels, as DynamicQuantizeLinear does.
    Dynamic,
}

impl Rounding {
    /// Of a value with a planned scale.
    pub(crate) fn of(plan: &QuantPlan, v: ValueId) -> Option<Rounding> {
        plan.values.get(v).map(|p| Rounding::Planned(p.dtype, p.params))
    }

    /// Quantizes and dequantizes the elements of a value.
    pub(crate) fn round(self, data: &mut [f32]) {
        match self {
            Rounding::Planned(dtype, params) => round_to_grid(data, dtype, params),
            Rounding::Dynamic => {
                let (lo, hi) = data.iter().fold((0f32, 0f32), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
                round_to_grid(data, DType::Uint8, Grid::U8.params(lo, hi));
            }
        }
    }

    /// The elements of a value, quantized and dequantized.
    pub(crate) fn rounded(self, data: &[f32]) -> Vec<f32> {
        let mut data = data.to_vec();
        self.round(&mut data);
        data
    }
}

/// Quantizes and dequantizes, as `squint_ir::affine` does, in one pass.
fn round_to_grid(data: &mut [f32], dtype: DType, params: QuantParams) {
    let (qmin, qmax) = if dtype == DType::Uint8 { (0, 255) } else { (-128, 127) };
    round_all(data, params.scale, (qmin - params.zero_point) as f32, (qmax - params.zero_point) as f32);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn round_all(data: &mut [f32], scale: f32, lowest: f32, highest: f32) {
    /// Adding it to a small number leaves no bits for a fraction: ties round to even.
    const MAGIC: f32 = 12_582_912.0;
    for x in data {
        let q = *x / scale;
        let q = if q > lowest { q } else { lowest };
        let q = if q < highest { q } else { highest };
        *x = ((q + MAGIC) - MAGIC) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_arithmetic() {
        use squint_ir::affine::{dequantize, quantize};
        let data: Vec<f32> = (-400..400)
            .map(|i| i as f32 * 0.0125)
            .chain([f32::INFINITY, f32::NEG_INFINITY, f32::NAN])
            .collect();
        for (dtype, zero_point, lo, hi) in [(DType::Uint8, 100, 0, 255), (DType::Int8, 0, -128, 127)] {
            let params = QuantParams { scale: 0.025, zero_point };
            let expected = data.iter().map(|x| {
                dequantize(quantize(*x, params.scale, zero_point, lo, hi), params.scale, zero_point)
            });
            assert_eq!(Rounding::Planned(dtype, params).rounded(&data), expected.collect::<Vec<_>>());
        }
    }
}
