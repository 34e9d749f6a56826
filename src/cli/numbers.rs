//! Flags of numbers beside float32 and 8-bit integers.

use super::failure::Failure;
use clap::{Args, ValueEnum};
use squint::ir::DType;
use squint::passes::config::{BlockRounding, Blocks, FLOAT_TABLES, Quantized};
use squint::{Config, Scheme};
use std::num::NonZeroUsize;

/// Which numbers the quantized model computes with.
#[derive(Args)]
#[command(next_help_heading = "Numbers")]
pub(crate) struct NumberFlags {
    /// What stands between quantizers.
    #[arg(long, value_name = "TYPE", default_value = "int8")]
    quantize_to: QuantizeTo,
    /// Compute what is not quantized in this type, for TensorRT 10 and newer, which takes types from the graph: Casts
    /// stand at inputs and outputs, and at operators that must stay in float32. [default: float32; float16 for
    /// `--scheme weight-only` on TensorRT].
    #[arg(long, value_name = "TYPE")]
    compute: Option<Compute>,
    /// With `--compute`: let inputs and outputs of float32 have that type, too.
    #[arg(long, requires = "compute")]
    compute_io: bool,
    /// With `--scheme weight-only`: how many bits weights of products have, 2, 4 or 8. [default: 4].
    #[arg(long, value_name = "BITS", value_parser = bits)]
    weight_bits: Option<u8>,
    /// With `--scheme weight-only`: how many bits tables have that rows are looked up in, 2, 4 or 8 on CPUs, or 32, which
    /// leaves them in float32. [default: 8 on CPUs, 32 on TensorRT].
    #[arg(long, value_name = "BITS", value_parser = table_bits)]
    table_bits: Option<u8>,
    /// With `--scheme weight-only`: how many weights in a row share a scale. On CPUs a power of two from 16 on, on
    /// TensorRT 64 or 128. [default: 32 on CPUs, 128 on TensorRT].
    #[arg(long, value_name = "N")]
    block_size: Option<NonZeroUsize>,
    /// With `--scheme weight-only`: how weights are brought onto their levels. nearest: each to the nearest one. awq:
    /// channels of activations are scaled by their magnitudes before. gptq: one after another, those that follow making
    /// up for the error. awq+gptq: both. auto: what of these brings the outputs closer on samples, if there is `--data`
    /// and effort, which all but nearest need. [default: auto]
    #[arg(long, value_name = "WAY")]
    weight_rounding: Option<BlockRounding>,
}

/// Numbers between quantizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum QuantizeTo {
    /// Integers of 8 bits.
    Int8,
    /// Floats of 8 bits (E4M3), for TensorRT 10 and newer.
    Fp8,
}

/// Types of what is not quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compute {
    /// As the model has it.
    Float32,
    /// 5 bits of exponent, 10 of mantissa.
    Float16,
    /// 8 bits of exponent, 7 of mantissa.
    Bfloat16,
}

impl NumberFlags {
    /// Adds what the flags say to a configuration.
    ///
    /// # Errors
    /// If they go with another scheme.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        let given = [
            ("--weight-bits", self.weight_bits.is_some()),
            ("--table-bits", self.table_bits.is_some()),
            ("--block-size", self.block_size.is_some()),
            ("--weight-rounding", self.weight_rounding.is_some()),
        ];
        let flag = given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
        if let (false, Some(flag)) = (config.scheme == Scheme::WeightOnly, flag) {
            return Err(Failure::with_help(
                format!(
                    "`{flag}` is about weights with a scale for each block, and activations are quantized here"
                ),
                "add `--scheme weight-only`",
            ));
        }
        config.quantized = match self.quantize_to {
            QuantizeTo::Int8 => Quantized::Int8,
            QuantizeTo::Fp8 => Quantized::Float8,
        };
        config.compute = match self.compute {
            None | Some(Compute::Float32) => None,
            Some(Compute::Float16) => Some(DType::Float16),
            Some(Compute::Bfloat16) => Some(DType::Bfloat16),
        };
        config.compute_io = self.compute_io;
        let default = Blocks::default();
        config.blocks = Blocks {
            bits: self.weight_bits.unwrap_or(default.bits),
            table_bits: self.table_bits,
            size: self.block_size.map(NonZeroUsize::get),
            rounding: self.weight_rounding.unwrap_or(default.rounding),
        };
        Ok(())
    }
}

fn bits(text: &str) -> Result<u8, String> {
    match text {
        "2" => Ok(2),
        "4" => Ok(4),
        "8" => Ok(8),
        _ => Err("weights of blocks have 2, 4 or 8 bits".into()),
    }
}

fn table_bits(text: &str) -> Result<u8, String> {
    match text {
        "32" => Ok(FLOAT_TABLES),
        _ => bits(text).map_err(|_| "tables have 2, 4, 8 or 32 bits".into()),
    }
}
