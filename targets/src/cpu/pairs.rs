//! Which products ONNX Runtime's kernels without VNNI add in pairs (`QgemmU8S8KernelAvx2`, `ConvSymKernelAvx2`).

use crate::Pairs;
use squint_ir::Op;

/// The pairs of an operator with a weight of these dimensions; `padded` input channels are there when it runs.
pub(super) fn of(op: &Op, weight: &[usize], padded: Option<usize>) -> Option<Pairs> {
    match (op.op_type.as_str(), weight) {
        // Depthwise kernels multiply in 16 bits and add in 32 (`qdwconv.cpp`).
        ("Conv", [outputs, 1, ..]) if op.int("group").unwrap_or(1) == *outputs as i64 => None,
        // Windows are copied one position after the other, the channels of each side by side.
        ("Conv", [_, inputs, window @ ..]) => {
            let joined = padded.is_none();
            Some(Pairs { inputs: *inputs, window: window.iter().product(), joined })
        }
        ("Gemm", [_, inner]) if op.int("transB").unwrap_or(0) != 0 => row(*inner),
        // An output channel is a column: its weights are neighbours once it is taken out.
        ("Gemm" | "MatMul", [inner, _]) => row(*inner),
        // A row for each channel of each direction.
        ("LSTM", [_, inner]) => row(*inner),
        // Stacks of matrices have one scale for all channels.
        ("MatMul", [.., inner, columns]) => Some(Pairs { inputs: *inner, window: *columns, joined: false }),
        _ => None,
    }
}

fn row(inner: usize) -> Option<Pairs> {
    Some(Pairs { inputs: inner, window: 1, joined: false })
}
