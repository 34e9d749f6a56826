//! What kernels cost, a table for each kind of processor.

// Measured numbers are near to constants of mathematics by chance only.
#[allow(clippy::approx_constant)]
pub(super) mod avx2;
#[allow(clippy::approx_constant)]
pub(super) mod vnni;

use super::costs::Kernel;

/// A row for each kernel that operators, conversions and changes of layout run in. Names are those of
/// `xtask/oracle/kernel_grid.py`: a kernel, and the type of its data.
pub(super) struct Table {
    pub(super) add_f32: Kernel,
    pub(super) add_u8: Kernel,
    pub(super) average_pool_f32: Kernel,
    pub(super) average_pool_plain_f32: Kernel,
    pub(super) average_pool_u8: Kernel,
    pub(super) block: Kernel,
    pub(super) clamp_f32: Kernel,
    pub(super) concat_f32: Kernel,
    pub(super) concat_u8: Kernel,
    pub(super) conv_direct_u8: Kernel,
    pub(super) conv_f32: Kernel,
    pub(super) conv_unrolled_u8: Kernel,
    pub(super) depthwise_direct_u8: Kernel,
    pub(super) depthwise_f32: Kernel,
    pub(super) depthwise_u8: Kernel,
    pub(super) dequantize: Kernel,
    pub(super) dynamic_quantize: Kernel,
    pub(super) gemm_f32: Kernel,
    pub(super) gemm_u8: Kernel,
    pub(super) grouped_f32: Kernel,
    pub(super) grouped_u8: Kernel,
    pub(super) leaky_relu_f32: Kernel,
    pub(super) lookup_u8: Kernel,
    pub(super) lstm_f32: Kernel,
    pub(super) lstm_u8: Kernel,
    pub(super) max_pool_f32: Kernel,
    pub(super) max_pool_plain_f32: Kernel,
    pub(super) max_pool_u8: Kernel,
    pub(super) mean_f32: Kernel,
    pub(super) mean_u8: Kernel,
    pub(super) move_f32: Kernel,
    pub(super) move_u8: Kernel,
    pub(super) mul_f32: Kernel,
    pub(super) mul_u8: Kernel,
    pub(super) pad_u8: Kernel,
    pub(super) pointwise_f32: Kernel,
    pub(super) quantize: Kernel,
    pub(super) resize_f32: Kernel,
    pub(super) resize_u8: Kernel,
    pub(super) scale_f32: Kernel,
    pub(super) scale_u8: Kernel,
    pub(super) sigmoid_f32: Kernel,
    pub(super) silu_f32: Kernel,
    pub(super) softmax_f32: Kernel,
    pub(super) softmax_u8: Kernel,
    pub(super) stem_f32: Kernel,
    pub(super) to_nhwc: Kernel,
    pub(super) unblock: Kernel,
}

const fn kernel(call: f64, mac: f64, fetch: f64, element: f64) -> Kernel {
    Kernel { call, mac, fetch, element }
}
