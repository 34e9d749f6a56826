//! Numbers beside int8 and float32: half precision, 8-bit floats, weights of 4 bits.

use super::Version;
use crate::{Numbers, Site};
use squint_ir::DType;

/// Sizes of the blocks of weights of 4 bits.
pub(super) const INT4_BLOCKS: [usize; 2] = [64, 128];

/// Elements of the window of a convolution above which FP8 is no gain.
const LARGEST_WINDOW: usize = 32;

/// Channels of a convolution up to which FP8 is no gain.
const FEW_CHANNELS: usize = 16;

/// Why a version does not compute with numbers; `None` if it does.
pub(super) fn lacks(version: Version, numbers: Numbers) -> Option<String> {
    let v = version.text();
    match numbers {
        Numbers::Half(_) if version == Version::V8_6 => Some(format!(
            "half precision between quantizers needs scales of the same type, which operator set 19 has; TensorRT {v} \
             supports operators up to Opset {}: leave the graph in float32 and give its builder the flag FP16",
            version.opsets().end()
        )),
        Numbers::Half(dtype @ (DType::Float16 | DType::Bfloat16)) => {
            (!version.has(dtype)).then(|| unsupported(v, dtype))
        }
        Numbers::Half(dtype) => Some(format!("{dtype} is no half precision")),
        Numbers::Float8 => (!version.has(DType::Float8e4m3fn)).then(|| unsupported(v, DType::Float8e4m3fn)),
        Numbers::Blocks { .. } if !version.has(DType::Int4) => Some(unsupported(v, DType::Int4)),
        Numbers::Blocks { bits: 4, size } if !INT4_BLOCKS.contains(&size) => {
            Some(format!("blocks of {size} weights of 4 bits: TensorRT has kernels for blocks of 64 and 128"))
        }
        Numbers::Blocks { bits: 4, .. } => None,
        Numbers::Tables { .. } => Some("TensorRT has integer weights in blocks for products only".into()),
        Numbers::Blocks { bits, .. } => {
            Some(format!("TensorRT has no kernels for blocks of weights of {bits} bits, only of 4"))
        }
    }
}

fn unsupported(version: &str, dtype: DType) -> String {
    format!(
        "TensorRT {version}: Unsupported ONNX data type: {} ({}); it came with 9 and 10",
        dtype.to_string().to_uppercase(),
        dtype.code()
    )
}

/// Whether an operator that has an INT8 kernel gains by FP8, too: convolutions with small windows and enough channels,
/// products and residual Adds (the choice of NVIDIA's Model Optimizer 0.47).
pub(super) fn float8(site: &Site<'_>) -> Result<(), &'static str> {
    let weight = site.weight().and_then(|(_, w, _)| w.konst()).map(|w| w.dims());
    match (site.op.op_type.as_str(), weight) {
        ("Add" | "Gemm" | "MatMul", _) => Ok(()),
        ("Conv", Some([outputs, inputs, window @ ..])) => {
            if site.op.int("group").unwrap_or(1) > 1 {
                return Err("a grouped convolution: no FP8 kernel");
            }
            if window.iter().product::<usize>() > LARGEST_WINDOW {
                return Err("a window of more than 32 elements: no FP8 kernel");
            }
            if *outputs <= FEW_CHANNELS || *inputs <= FEW_CHANNELS {
                return Err("16 channels or fewer: FP8 tiles would be mostly empty");
            }
            Ok(())
        }
        _ => Err("no FP8 kernel"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_refuse_in_the_words_of_their_parser() {
        let said = |version, numbers| lacks(version, numbers).unwrap_or_default();
        let old = said(Version::V8_6, Numbers::Float8);
        assert!(old.contains("Unsupported ONNX data type: FLOAT8E4M3FN (17)"), "{old}");
        assert!(said(Version::V8_6, Numbers::Half(DType::Float16)).contains("operators up to Opset 17"));
        for version in [Version::V10, Version::V11] {
            for numbers in [
                Numbers::Float8,
                Numbers::Half(DType::Float16),
                Numbers::Half(DType::Bfloat16),
                Numbers::Blocks { bits: 4, size: 128 },
            ] {
                assert_eq!(said(version, numbers), "");
            }
            assert!(said(version, Numbers::Blocks { bits: 4, size: 32 }).contains("blocks of 64 and 128"));
            assert!(said(version, Numbers::Blocks { bits: 8, size: 64 }).contains("8 bits"));
        }
    }
}
