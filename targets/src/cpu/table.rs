//! What kernels cost, a table for each kind of processor.

// Measured numbers are near to constants of mathematics by chance only.
#[allow(clippy::approx_constant)]
pub(super) mod avx2;
#[allow(clippy::approx_constant)]
pub(super) mod vnni;

use super::costs::{Kernel, Terms};

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
                let speed = self.pointwise_f32.first().mac / other.pointwise_f32.first().mac;
                Table { $($row: self.$row.$both(other.$row, speed),)* }
            }
        }
    };
}

table! {
    add_f32: mean,
    add_u8: slower,
    average_pool_f32: mean,
    average_pool_plain_f32: mean,
    average_pool_u8: slower,
    block: slower,
    clamp_f32: mean,
    concat_f32: mean,
    concat_u8: slower,
    conv_direct_u8: slower,
    conv_f32: mean,
    conv_unrolled_u8: slower,
    depthwise_direct_u8: slower,
    depthwise_f32: mean,
    depthwise_u8: slower,
    dequantize: slower,
    dynamic_quantize: slower,
    gemm_f32: mean,
    gemm_u8: slower,
    grouped_f32: mean,
    grouped_u8: slower,
    leaky_relu_f32: mean,
    lookup_u8: slower,
    lstm_f32: mean,
    lstm_u8: slower,
    max_pool_f32: mean,
    max_pool_plain_f32: mean,
    max_pool_u8: slower,
    mean_f32: mean,
    mean_u8: slower,
    move_f32: mean,
    move_u8: slower,
    mul_f32: mean,
    mul_u8: slower,
    pad_u8: slower,
    pointwise_f32: mean,
    quantize: slower,
    resize_f32: mean,
    resize_u8: slower,
    scale_f32: mean,
    scale_u8: slower,
    sigmoid_f32: mean,
    silu_f32: mean,
    softmax_f32: mean,
    softmax_u8: slower,
    stem_f32: mean,
    to_nhwc: slower,
    unblock: slower,
}

impl Kernel {
    /// The first processor of a row.
    const fn first(self) -> Terms {
        match self {
            Kernel::One(terms) | Kernel::Mean(terms, _) | Kernel::Slower(terms, _) => terms,
        }
    }

    /// The mean of this row and another, times `speed`.
    const fn mean(self, other: Kernel, speed: f64) -> Kernel {
        Kernel::Mean(self.first(), other.first().times(speed))
    }

    /// The slower of this row and another, times `speed`.
    const fn slower(self, other: Kernel, speed: f64) -> Kernel {
        Kernel::Slower(self.first(), other.first().times(speed))
    }
}

impl Terms {
    const fn times(self, speed: f64) -> Terms {
        let Terms { call, mac, fetch, element } = self;
        Terms { call: speed * call, mac: speed * mac, fetch: speed * fetch, element: speed * element }
    }
}

const fn kernel(call: f64, mac: f64, fetch: f64, element: f64) -> Kernel {
    Kernel::One(Terms { call, mac, fetch, element })
}
