//! Products that are added in pairs.

/// Which weights of an output channel meet in a sum of two products.
///
/// The instruction `VPMADDUBSW` multiplies unsigned by signed bytes and adds neighbours into 16 bits, saturating:
/// two products of 255 · 127 do not fit. Weights whose magnitudes add up to no more than [`Pairs::LIMIT`] in each
/// pair of one sign never saturate, whatever the activations are. (Two of different signs cannot.)
///
/// A channel's weights lie in memory as blocks of `inputs` rows of `window` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Length of the axis along which neighbours are paired.
    pub inputs: usize,
    /// Distance in memory between neighbours.
    pub window: usize,
    /// Whether the last of a column of an odd number of inputs is paired with the first of the next column.
    pub joined: bool,
}

impl Pairs {
    /// The largest sum of magnitudes that is exact with activations up to 255: 255 · 128 < 2¹⁵ <= 255 · 129.
    pub const LIMIT: i32 = 128;

    /// Calls `f` with the positions of each pair in a block.
    pub fn each(self, mut f: impl FnMut(usize, usize)) {
        let Pairs { inputs, window, joined } = self;
        if joined {
            let at = |k: usize| (k % inputs) * window + k / inputs;
            (1..inputs * window).step_by(2).for_each(|k| f(at(k - 1), at(k)));
        } else {
            for column in 0..window {
                (1..inputs).step_by(2).for_each(|i| f((i - 1) * window + column, i * window + column));
            }
        }
    }

    /// Elements of a block.
    pub fn block(self) -> usize {
        self.inputs * self.window
    }

    /// Moves both levels of every pair that could saturate towards zero by the same, as little as possible.
    /// Returns whether there was one. A remainder that fills no block is left.
    pub fn limit(self, levels: &mut [i8]) -> bool {
        let mut any = false;
        for block in levels.chunks_exact_mut(self.block().max(1)) {
            self.each(|a, b| {
                let (x, y) = (i32::from(block[a]), i32::from(block[b]));
                let excess = (x + y).abs() - Pairs::LIMIT;
                if excess > 0 {
                    // Both have the sign of the sum and more than half of the excess to give, as none is above 128.
                    let sign = (x + y).signum();
                    let half = excess / 2;
                    let (gx, gy) =
                        if x.abs() >= y.abs() { (excess - half, half) } else { (half, excess - half) };
                    block[a] = (x - sign * gx) as i8;
                    block[b] = (y - sign * gy) as i8;
                    any = true;
                }
            });
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(pairs: Pairs) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        pairs.each(|a, b| all.push((a, b)));
        all
    }

    #[test]
    fn neighbours_along_the_inputs_are_paired() {
        let pairs = Pairs { inputs: 4, window: 2, joined: false };
        assert_eq!(listed(pairs), [(0, 2), (4, 6), (1, 3), (5, 7)]);
        // Of three inputs the last is alone, or paired with the first of the next position of the window.
        assert_eq!(listed(Pairs { inputs: 3, window: 2, joined: false }), [(0, 2), (1, 3)]);
        assert_eq!(listed(Pairs { inputs: 3, window: 2, joined: true }), [(0, 2), (4, 1), (3, 5)]);
    }

    #[test]
    fn only_pairs_of_one_sign_above_the_limit_are_moved() {
        let pairs = Pairs { inputs: 2, window: 1, joined: false };
        let mut levels = [127, 127, -127, -100, 127, -127, 64, 64, 0, 127];
        assert!(pairs.limit(&mut levels));
        assert_eq!(levels, [64, 64, -77, -51, 127, -127, 64, 64, 0, 127]);
        assert!(!pairs.limit(&mut levels));
    }
}
