//! What the versions of TensorRT accept, as far as they differ.
//!
//! Read from `docs/operators.md`, `docs/Changelog.md` and the importers of onnx-tensorrt at the branches `8.6-GA` and
//! `10.1-GA` and at 10.15, and from the opset guide of TensorRT 11.

use squint_ir::DType;
use std::ops::RangeInclusive;

/// A version of TensorRT, with its parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 8.6.
    V8_6,
    /// 10, as of 10.15.
    V10,
    /// 11.
    V11,
}

impl Version {
    /// As people write it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Version::V8_6 => "8.6",
            Version::V10 => "10",
            Version::V11 => "11",
        }
    }

    /// Default operator sets that the parser reads.
    pub(crate) fn opsets(self) -> RangeInclusive<i64> {
        match self {
            Version::V8_6 => 7..=17,
            Version::V10 => 9..=24,
            Version::V11 => 9..=25,
        }
    }

    /// True if the parser has the element type, of data or of quantized values.
    pub(crate) fn has(self, dtype: DType) -> bool {
        match dtype {
            DType::Bfloat16 | DType::Float8e4m3fn | DType::Int4 => self > Version::V8_6,
            _ => true,
        }
    }

    /// True if the parser has an importer for an operator of the default domain.
    pub(crate) fn imports(self, op_type: &str) -> bool {
        let since = SINCE.iter().find(|(name, _)| *name == op_type).map(|(_, version)| *version);
        !NEVER.contains(&op_type) && since.is_none_or(|since| self >= since)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

/// Operators with an importer from a version on that is not the oldest one here.
const SINCE: &[(&str, Version)] = &[
    ("Attention", Version::V10),
    ("BlackmanWindow", Version::V10),
    ("CastLike", Version::V10),
    ("DeformConv", Version::V10),
    ("Gelu", Version::V10),
    ("HammingWindow", Version::V10),
    ("HannWindow", Version::V10),
    ("Hardmax", Version::V10),
    ("Mish", Version::V10),
    ("RMSNormalization", Version::V10),
    ("RotaryEmbedding", Version::V10),
    ("STFT", Version::V10),
    ("Swish", Version::V11),
    ("TensorScatter", Version::V10),
];

/// Operators that no version has an importer for. (Those on integers have findings of their own.)
const NEVER: &[&str] = &[
    "AffineGrid",
    "Bernoulli",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "ConcatFromSequence",
    "DFT",
    "Det",
    "ImageDecoder",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "RegexFullMatch",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    "Unique",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow() {
        let all = [Version::V8_6, Version::V10, Version::V11];
        for pair in all.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].opsets().end() < pair[1].opsets().end());
            for d in [DType::Float16, DType::Bfloat16, DType::Float8e4m3fn, DType::Int4] {
                assert!(!pair[0].has(d) || pair[1].has(d));
            }
        }
        assert!(!Version::V8_6.imports("Gelu") && Version::V10.imports("Gelu"));
        assert!(!Version::V10.imports("Swish") && Version::V11.imports("Swish"));
        assert!(Version::V8_6.imports("Conv") && !Version::V11.imports("Unique"));
        assert!(NEVER.is_sorted() && SINCE.is_sorted_by_key(|(name, _)| *name));
    }
}
