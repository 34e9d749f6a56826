//! What the float kernels of a runtime prefer among graphs that compute the same.

use squint_ir::Op;

/// Preferences of float kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatKernels {
    /// Channels in a block of the layout that convolutions of pictures keep their data in, if they have one of their own
    /// (ONNX Runtime: NCHWc, `MlasNchwcGetBlockSize` in `snchwc.cpp`). They compute whole blocks, however few channels
    /// there are; and values that are no whole number of blocks leave the layout before pools, sums and products.
    pub block: Option<usize>,
}

/// A convolution in two dimensions with one group, as far as it matters for its time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Input channels.
    pub inputs: u64,
    /// Output channels.
    pub outputs: u64,
    /// Taps of the kernel along an axis.
    pub taps: u64,
    /// Taps along the other axis.
    pub others: u64,
    /// Stride along the first axis.
    pub stride: u64,
    /// Pixels of the result.
    pub pixels: u64,
}

/// At most so many neighbours are computed as channels.
const MOST_NEIGHBOURS: u64 = 16;

impl FloatKernels {
    /// How many neighbouring pixels along the axis of `window.taps` are better computed as channels of one pixel, because
    /// few output channels leave lanes of a block idle; `None` for none.
    ///
    /// Neighbours need the taps of one pixel, shifted: with `f` of them the kernel has `taps + (f − 1)·stride` taps, for
    /// `1/f` of the pixels. Their places are put right by a transposition of the result.
    pub fn neighbours(&self, window: Window) -> Option<u64> {
        let block = self.block? as u64;
        // Other numbers of input channels are not computed in blocks, or are padded.
        if window.outputs >= block || (window.inputs >= block && !window.inputs.is_multiple_of(block)) {
            return None;
        }
        let alone = window.picoseconds(1, block);
        let (best, f) = [2, 4, 8, MOST_NEIGHBOURS]
            .into_iter()
            .map(|f| (window.picoseconds(f, block).saturating_add(window.moving()), f))
            .min()?;
        // What is estimated this roughly should win clearly.
        (best.saturating_mul(6) < alone.saturating_mul(5)).then_some(f)
    }
}

/// Picoseconds for moving an element of the result to its place.
const MOVE: u64 = 1500;

/// Picoseconds for the calls of Reshape, Transpose and Reshape.
const CALLS: u64 = 10_000_000;

impl Window {
    /// That of a convolution along an axis of the picture (0 for rows, 1 for columns), with a weight of these dimensions and
    /// so many pixels in its result. `None` if it is no convolution of pictures, or dilated along the axis.
    pub fn along(axis: usize, op: &Op, weight: &[usize], pixels: u64) -> Option<Window> {
        let [outputs, inputs, high, wide] = *weight else { return None };
        let of = |name: &str| op.ints(name).filter(|list| list.len() == 2).map_or(1, |list| list[axis]);
        let stride = of("strides");
        let kernel = [high as u64, wide as u64];
        (of("dilations") == 1 && (1..1 << 20).contains(&stride)).then_some(Window {
            inputs: inputs as u64,
            outputs: outputs as u64,
            taps: kernel[axis],
            others: kernel[1 - axis],
            stride: stride as u64,
            pixels,
        })
    }

    /// Taps of the kernel with `f` neighbours as channels.
    pub(crate) fn taps_of(&self, f: u64) -> u64 {
        (self.taps + (f - 1) * self.stride).saturating_mul(self.others)
    }

    /// Time of putting its result into place.
    fn moving(&self) -> u64 {
        self.pixels.saturating_mul(self.outputs).saturating_mul(MOVE).saturating_add(CALLS)
    }

    /// Time of the convolution with `f` neighbours as channels. The kernel works on up to four blocks of output channels
    /// at once, which share what is loaded of the data. (ONNX Runtime 1.31 on a Xeon with AVX-512: 24 ps for a lane of a
    /// multiply–accumulate with one block, 18 with two, 15 with four, on kernels of 3 × 39, 5 × 5, 7 × 3 and 1 × 256 taps.)
    fn picoseconds(&self, f: u64, block: u64) -> u64 {
        let blocks = (f * self.outputs).div_ceil(block);
        let factors = [self.inputs, self.taps_of(f), blocks * block, self.pixels.div_ceil(f)];
        let lanes = factors.into_iter().fold(1, u64::saturating_mul);
        lanes.saturating_mul(10).saturating_add(lanes.saturating_mul(14) / blocks.min(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: FloatKernels = FloatKernels { block: Some(16) };

    #[test]
    fn neighbours_fill_lanes_where_kernels_are_long() {
        let window = Window { inputs: 8, outputs: 8, taps: 39, others: 3, stride: 1, pixels: 172 * 264 };
        assert_eq!(KERNELS.neighbours(window), Some(8));
        let window = Window { inputs: 1, outputs: 1, taps: 256, others: 1, stride: 2, pixels: 21922 };
        assert_eq!(KERNELS.neighbours(window), Some(16));
    }

    #[test]
    fn short_kernels_and_full_blocks_stay() {
        let window = Window { inputs: 64, outputs: 4, taps: 1, others: 1, stride: 1, pixels: 52 * 52 };
        assert_eq!(KERNELS.neighbours(window), None, "all taps but one in each lane would be zeros");
        let window = Window { inputs: 8, outputs: 16, taps: 39, others: 3, stride: 1, pixels: 172 * 264 };
        assert_eq!(KERNELS.neighbours(window), None);
        let window = Window { inputs: 3, outputs: 8, taps: 3, others: 3, stride: 2, pixels: 160 * 160 };
        assert_eq!(KERNELS.neighbours(window), None, "moving the pixels costs more");
        assert_eq!(FloatKernels { block: None }.neighbours(Window { outputs: 1, ..window }), None);
    }
}
