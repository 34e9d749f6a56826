//! What the user asks of the compiler.

use crate::calibration::weights::WeightMethod;
use crate::calibration::{Constraints, Method};
use crate::overrides::Override;
use squint_ir::DType;
use std::fmt;
use std::str::FromStr;

/// How quantized operators are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatorFormat {
    /// Float operators between QuantizeLinear and DequantizeLinear: the runtime finds its integer kernels itself.
    #[default]
    Qdq,
    /// Operators on integers (`QLinearConv`, `QGemm` …): what runs in integers does so whatever the runtime optimizes.
    Qoperator,
}

impl OperatorFormat {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            OperatorFormat::Qdq => "qdq",
            OperatorFormat::Qoperator => "qoperator",
        }
    }
}

/// Numbers that stand between quantizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantized {
    /// Integers of 8 bits.
    #[default]
    Int8,
    /// Floats of 8 bits, E4M3.
    Float8,
}

impl Quantized {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quantized::Int8 => "int8",
            Quantized::Float8 => "fp8",
        }
    }
}

/// Bits of tables that stay in float32.
pub const FLOAT_TABLES: u8 = 32;

/// How weights are quantized where nothing else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Of weights of products: 2, 4 or 8.
    pub bits: u8,
    /// Of tables that Gathers look rows up in: 2, 4, 8 or [`FLOAT_TABLES`]; `None` for what suits the target.
    pub table_bits: Option<u8>,
    /// How many weights in a row along the inner axis share a scale; `None` for what suits the target.
    pub size: Option<usize>,
    /// What is done so that results stay near, besides rounding to the nearest level.
    pub rounding: BlockRounding,
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks { bits: 4, table_bits: None, size: None, rounding: BlockRounding::Auto }
    }
}

/// How weights in blocks are brought onto their levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockRounding {
    /// By all below that brings the outputs closer, if there are samples and effort; to the nearest level otherwise.
    #[default]
    Auto,
    /// To the nearest level.
    Nearest,
    /// Channels of activations are scaled by their magnitudes before (AWQ).
    Awq,
    /// One after another, those that follow making up for the error (GPTQ).
    Gptq,
    /// The latter after the former.
    AwqGptq,
}

/// All ways of rounding.
const ROUNDINGS: [BlockRounding; 5] = [
    BlockRounding::Auto,
    BlockRounding::Nearest,
    BlockRounding::Awq,
    BlockRounding::Gptq,
    BlockRounding::AwqGptq,
];

impl BlockRounding {
    /// Whether samples are needed.
    pub fn needs_samples(self) -> bool {
        matches!(self, BlockRounding::Awq | BlockRounding::Gptq | BlockRounding::AwqGptq)
    }

    /// Whether channels of activations are scaled, perhaps.
    pub(crate) fn scales(self) -> bool {
        matches!(self, BlockRounding::Auto | BlockRounding::Awq | BlockRounding::AwqGptq)
    }

    /// Whether levels are chosen by results, perhaps.
    pub(crate) fn compensates(self) -> bool {
        matches!(self, BlockRounding::Auto | BlockRounding::Gptq | BlockRounding::AwqGptq)
    }
}

impl fmt::Display for BlockRounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockRounding::Auto => "auto",
            BlockRounding::Nearest => "nearest",
            BlockRounding::Awq => "awq",
            BlockRounding::Gptq => "gptq",
            BlockRounding::AwqGptq => "awq+gptq",
        })
    }
}

impl FromStr for BlockRounding {
    type Err = String;

    fn from_str(text: &str) -> Result<BlockRounding, String> {
        ROUNDINGS
            .into_iter()
            .find(|r| r.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of auto, nearest, awq, gptq, awq+gptq"))
    }
}

/// Options of a compilation. Everything that changes the output stands here and in the recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the target, see `squint_targets::target`.
    pub target: String,
    /// How quantized operators are written.
    pub format: OperatorFormat,
    /// When activations are quantized.
    pub scheme: Scheme,
    /// What stands between quantizers.
    pub quantized: Quantized,
    /// With [`Scheme::WeightOnly`]: how weights are quantized.
    pub blocks: Blocks,
    /// The type of 16 bits in which all is computed that is not quantized; `None` leaves what is float32.
    pub compute: Option<DType>,
    /// With `compute`: whether inputs and outputs of the model have that type, too.
    pub compute_io: bool,
    /// How activation ranges are chosen.
    pub method: Method,
    /// How the ranges of weights are chosen.
    pub weight_method: WeightMethod,
    /// What is asked of scales and ranges besides.
    pub constraints: Constraints,
    /// Nodes kept in float, by exact name or by a pattern with `*`.
    pub keep_float: Vec<String>,
    /// What is asked of single nodes and tensors.
    pub overrides: Vec<Override>,
    /// What quantizing each value costs in accuracy, if that is known beforehand; then it is not measured.
    pub guide: Option<Guide>,
    /// Largest tensor, in elements, that constant folding makes.
    pub fold_limit: usize,
    /// How much work goes into accuracy, where there are samples: 0 plans from statistics alone; 1 equalises channels,
    /// tries methods of ranges and corrects biases; 2 rounds weights by the results of their layers, too; 3 refines
    /// ranges one by one, too.
    pub effort: u8,
    /// With effort: whether channels are equalised, which leaves values in other units than those of the float model.
    pub equalize: bool,
    /// With effort: signal to noise at the outputs, in dB, below which the worst operators go back to float.
    pub min_sqnr: f64,
    /// The axis of classes of outputs of which nothing else is known, counted from the end if it is negative: 1 for a
    /// segmentation whose scores lie at pixels, as `[N, C, H, W]`.
    pub class_axis: Option<i64>,
    /// Of a model that is quantized already: whether what was quantized stays so wherever the target can, rather than where
    /// that pays.
    pub faithful: bool,
    /// Worker threads for calibration; `None` for one per core.
    pub threads: Option<usize>,
    /// How many samples the data was cut down to, evenly spread, for the record; `None` if all of it is used.
    pub samples: Option<usize>,
    /// How quantizers around float weights are written, for a framework that trains the result; `None` for a model to be
    /// deployed.
    pub training: Option<Training>,
    /// How calibration data was prepared, for the record: one line, which changes nothing but the model's
    /// metadata. Empty for no record.
    pub data_description: String,
}

/// What is asked of a model that is quantized to be trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Training {
    /// Levels of weights: `[-7, 7]` with 4 bits, those of the target with 8.
    pub weight_bits: WeightBits,
    /// Whether BatchNormalization stays behind the operator that it could be folded into.
    pub keep_batch_normalization: bool,
}

/// How many bits a weight has in training. Deployed, it is an 8-bit integer either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightBits {
    /// The levels `[-7, 7]`.
    Four,
    /// All levels that the target uses.
    #[default]
    Eight,
}

/// Accuracy as a price, which the placement weighs against speed.
#[derive(Clone, Debug, PartialEq)]
pub struct Guide {
    /// Error at the outputs from quantizing each value alone, by the value's name after fusion.
    pub errors: Vec<(String, f64)>,
    /// Nanoseconds that a unit of that error is worth; 0 quantizes all that pays, an infinite price nothing listed.
    pub price: f64,
}

impl Config {
    /// The default compilation for a target.
    pub fn new(target: &str) -> Config {
        Config {
            target: target.into(),
            format: OperatorFormat::default(),
            scheme: Scheme::Auto,
            quantized: Quantized::default(),
            blocks: Blocks::default(),
            compute: None,
            compute_io: false,
            method: Method::Auto,
            weight_method: WeightMethod::MinMax,
            constraints: Constraints::default(),
            keep_float: Vec::new(),
            overrides: Vec::new(),
            guide: None,
            fold_limit: 4 << 20,
            effort: 1,
            equalize: true,
            min_sqnr: 15.0,
            class_axis: None,
            faithful: true,
            threads: None,
            samples: None,
            training: None,
            data_description: String::new(),
        }
    }

    /// Whether BatchNormalization is left where it stands.
    pub(crate) fn keeps_batch_normalization(&self) -> bool {
        self.training.is_some_and(|t| t.keep_batch_normalization)
    }

    /// True if the user wants the node of this name in float.
    pub fn keeps_float(&self, node: &str) -> bool {
        self.keep_float.iter().any(|p| glob(p.as_bytes(), node.as_bytes()))
    }
}

/// When the scales of activations are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Beforehand or in every run, for each operator by cost and error.
    #[default]
    Auto,
    /// Beforehand, from ranges measured on data.
    Static,
    /// In every run, from the data at hand; needs no calibration.
    Dynamic,
    /// Never: only weights of products are quantized, block by block.
    WeightOnly,
}

/// All schemes.
const SCHEMES: [Scheme; 4] = [Scheme::Auto, Scheme::Static, Scheme::Dynamic, Scheme::WeightOnly];

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Auto => "auto",
            Scheme::Static => "static",
            Scheme::Dynamic => "dynamic",
            Scheme::WeightOnly => "weight-only",
        })
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Scheme, String> {
        SCHEMES
            .into_iter()
            .find(|s| s.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of auto, static, dynamic, weight-only"))
    }
}

/// Matches a name against a pattern in which `*` stands for any run of characters. Linear: on a mismatch
/// only the last star is tried again.
pub(crate) fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && pattern[p] == name[n] {
            p += 1;
            n += 1;
        } else if let Some((sp, sn)) = star {
            star = Some((sp, sn + 1));
            p = sp + 1;
            n = sn + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_read_as_they_are_written() {
        for scheme in SCHEMES {
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
        assert!("int8".parse::<Scheme>().is_err());
        for rounding in ROUNDINGS {
            assert_eq!(rounding.to_string().parse(), Ok(rounding));
        }
        assert!("rtn".parse::<BlockRounding>().is_err());
    }

    #[test]
    fn stars_match_any_run() {
        let mut c = Config::new("cpu-vnni");
        c.keep_float = vec!["/head/*/conv".into(), "exact".into()];
        assert!(c.keeps_float("/head/2/conv"));
        assert!(c.keeps_float("exact"));
        assert!(!c.keeps_float("/head/2/conv_1"));
        assert!(!c.keeps_float("exactly"));
        c.keep_float = vec!["*a*b*".into()];
        assert!(c.keeps_float("xxaxxbxx") && !c.keeps_float("ba"));
    }
}
