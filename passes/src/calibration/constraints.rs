//! What deployment may ask of quantization parameters beyond a range: scales that are powers of two, for
//! kernels that shift instead of multiplying, and ranges of a least width, against scales that rounding noise
//! chose; grids without their lowest level; and scales that a type of 16 bits holds exactly.

use squint_ir::affine::{Grid, QuantParams};
use squint_ir::{DType, narrow};

/// Constraints on the parameters of a grid; the default constrains nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Constraints {
    /// Scales are rounded up to powers of two: nothing of the range is lost, at most one bit of resolution is.
    pub power_of_two: bool,
    /// Activations of both signs do not use the lowest level of their grid: TensorFlow's `narrow_range`. Where
    /// nothing is negative the grid ends at zero, which clamps that are absorbed rely on. (Weights never use it.)
    pub narrow_range: bool,
    /// Activation ranges are widened to this width.
    pub min_range: f32,
    /// Scales are rounded up to numbers of this type of 16 bits, in which they are written.
    pub scale_type: Option<DType>,
}

impl Constraints {
    /// A range of the least width or more; both ends move in proportion, so that zero keeps its place.
    pub fn widen(self, lo: f32, hi: f32) -> (f32, f32) {
        let width = f64::from(hi) - f64::from(lo);
        let wanted = f64::from(self.min_range);
        if width >= wanted {
            (lo, hi)
        } else if width > 0.0 {
            let factor = wanted / width;
            ((f64::from(lo) * factor) as f32, (f64::from(hi) * factor) as f32)
        } else {
            (0.0, self.min_range)
        }
    }

    /// Scale and zero point with which `grid` covers the range.
    pub fn params(self, grid: Grid, lo: f32, hi: f32) -> QuantParams {
        // A symmetric grid has a level for each side, and none that is left over.
        let unused = self.narrow_range && !grid.symmetric && lo < 0.0;
        let grid = Grid { qmin: grid.qmin + i32::from(unused), ..grid };
        let free = grid.params(lo, hi);
        let scale = self.scale(free.scale);
        if grid.symmetric || scale == free.scale {
            return QuantParams { scale, ..free };
        }
        let zero_point = f64::from(grid.qmin) - (f64::from(lo.min(0.0)) / f64::from(scale)).round_ties_even();
        QuantParams { scale, zero_point: zero_point.clamp(grid.qmin.into(), grid.qmax.into()) as i32 }
    }

    /// The scale, or the next number above it that is asked for.
    pub fn scale(self, scale: f32) -> f32 {
        let scale = self.power(scale);
        self.scale_type.map_or(scale, |d| narrow::scale_up(scale, d))
    }

    /// The scale, or the next power of two above it.
    fn power(self, scale: f32) -> f32 {
        const FRACTION: u32 = 0x007f_ffff;
        let bits = scale.to_bits();
        if !self.power_of_two || bits & FRACTION == 0 || !scale.is_finite() {
            return scale;
        }
        let up = f32::from_bits((bits & !FRACTION) + FRACTION + 1);
        if up.is_finite() { up } else { scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_cover_the_range() {
        let c = Constraints { power_of_two: true, ..Constraints::default() };
        for (lo, hi) in [(-1.0, 3.0), (0.0, 6.0), (-0.3, 0.0), (-100.0, 1e-3)] {
            for grid in [Grid::U8, Grid::I8_SYMMETRIC] {
                let (p, free) = (c.params(grid, lo, hi), grid.params(lo, hi));
                assert_eq!(p.scale.log2().fract(), 0.0);
                assert!(p.scale >= free.scale && p.scale < 2.0 * free.scale, "{p:?} {free:?}");
                let covered = |q: i32| (q - p.zero_point) as f32 * p.scale;
                assert!(covered(grid.qmin) <= lo + p.scale && covered(grid.qmax) >= hi - p.scale, "{p:?}");
            }
        }
        assert_eq!(c.scale(0.25), 0.25);
        assert_eq!(Constraints::default().params(Grid::U8, -1.0, 3.0), Grid::U8.params(-1.0, 3.0));
    }

    #[test]
    fn a_narrow_grid_leaves_its_lowest_level_unused() {
        let c = Constraints { narrow_range: true, ..Constraints::default() };
        for (grid, lo, hi) in [(Grid::U8, -1.0, 2.0), (Grid::U8, -2.0, 0.0), (Grid::I8, -2.0, 2.0)] {
            let p = c.params(grid, lo, hi);
            let level = |x: f32| (x / p.scale).round_ties_even() as i32 + p.zero_point;
            assert_eq!((level(lo), level(hi)), (grid.qmin + 1, grid.qmax), "{p:?}");
        }
        assert_eq!(c.params(Grid::I8, -2.0, 2.0).zero_point, 0);
        assert_eq!(c.params(Grid::I8_SYMMETRIC, -1.0, 2.0), Grid::I8_SYMMETRIC.params(-1.0, 2.0));
        let both = Constraints { power_of_two: true, ..c };
        assert_eq!(both.params(Grid::U8, -1.0, 2.0), QuantParams { scale: 0.015625, zero_point: 65 });
        assert_eq!(c.params(Grid::U8, 0.0, 6.0), Grid::U8.params(0.0, 6.0));
    }

    #[test]
    fn narrow_ranges_are_widened() {
        let c = Constraints { min_range: 1.0, ..Constraints::default() };
        assert_eq!(c.widen(-0.25, 0.25), (-0.5, 0.5));
        assert_eq!(c.widen(0.0, 0.0), (0.0, 1.0));
        assert_eq!(c.widen(-3.0, 1.0), (-3.0, 1.0));
    }
}
