//! What kernels cost, a table for each kind of processor.

// Measured numbers are near to constants of mathematics by chance only.
#[allow(clippy::approx_constant)]
pub(super) mod avx2;
#[allow(clippy::approx_constant)]
pub(super) mod vnni;

use super::costs::Kernel;

/// Defines the table, and how a row of two processors becomes one.
macro_rules! table {
    ($($row:ident: $both:ident),* $(,)?) => {
        /// A row for each kernel that operators, conversions and changes of layout run in. Names are those of
        /// `xtask/oracle/kernel_grid.py`: a kernel, and the type of its data.
        pub(super) struct Table {
            $(pub(super) $row: Kernel,)*
        }

        impl Table {
            /// A table by which integers pay on both of two processors. The other is taken to be as fast as this one in
            /// float convolutions, as only ratios matter to decisions. Float kernels are the mean of both;
            /// those in integers, and conversions, the slower ones.
            const fn cautious(&self, other: &Table) -> Table {
                let speed = self.pointwise_f32.mac / other.pointwise_f32.mac;
                Table { $($row: self.$row.$both(other.$row, speed),)* }
            }
        }
    };
}

table! {
    add_f32: mean,
    add_u8: larger,
    average_pool_f32: mean,
    average_pool_plain_f32: mean,
    average_pool_u8: larger,
    block: larger,
    clamp_f32: mean,
    concat_f32: mean,
    concat_u8: larger,
    conv_direct_u8: larger,
    conv_f32: mean,
    conv_unrolled_u8: larger,
    depthwise_direct_u8: larger,
    depthwise_f32: mean,
    depthwise_u8: larger,
    dequantize: larger,
    dynamic_quantize: larger,
    gemm_f32: mean,
    gemm_u8: larger,
    grouped_f32: mean,
    grouped_u8: larger,
    leaky_relu_f32: mean,
    lookup_u8: larger,
    lstm_f32: mean,
    lstm_u8: larger,
    max_pool_f32: mean,
    max_pool_plain_f32: mean,
    max_pool_u8: larger,
    mean_f32: mean,
    mean_u8: larger,
    move_f32: mean,
    move_u8: larger,
    mul_f32: mean,
    mul_u8: larger,
    pad_u8: larger,
    pointwise_f32: mean,
    quantize: larger,
    resize_f32: mean,
    resize_u8: larger,
    scale_f32: mean,
    scale_u8: larger,
    sigmoid_f32: mean,
    silu_f32: mean,
    softmax_f32: mean,
    softmax_u8: larger,
    stem_f32: mean,
    to_nhwc: larger,
    unblock: larger,
}

impl Kernel {
    /// The mean of two rows, the terms of the second times `speed`.
    const fn mean(self, other: Kernel, speed: f64) -> Kernel {
        kernel(
            (self.call + speed * other.call) / 2.0,
            (self.mac + speed * other.mac) / 2.0,
            (self.fetch + speed * other.fetch) / 2.0,
            (self.element + speed * other.element) / 2.0,
        )
    }

    /// The larger of each term of two rows, those of the second times `speed`.
    const fn larger(self, other: Kernel, speed: f64) -> Kernel {
        kernel(
            self.call.max(speed * other.call),
            self.mac.max(speed * other.mac),
            self.fetch.max(speed * other.fetch),
            self.element.max(speed * other.element),
        )
    }
}

const fn kernel(call: f64, mac: f64, fetch: f64, element: f64) -> Kernel {
    Kernel { call, mac, fetch, element }
}
