//! Numbers beside float32 and 8-bit integers: whether the target computes with them, what else they settle, and which
//! operator set can say them.

use crate::calibration::Method;
use crate::config::{BlockRounding, Config, FLOAT_TABLES, Quantized, Scheme};
use crate::pass::{PassCx, PassError};
use crate::plan::resolve_target;
use crate::weight_blocks::SLICE;
use squint_ir::{DType, Model};
use squint_targets::{Numbers, Placement, Target};
use std::borrow::Cow;

/// Weights in a row that share a scale, where a kernel on a CPU multiplies them.
pub(crate) const CPU_BLOCK: usize = 32;

/// Bits of tables there: 4 save little more, and cost what shows in every layer.
const TABLE_BITS: u8 = 8;

/// Weights in a row that share a scale, for TensorRT.
const TENSORRT_BLOCK: usize = 128;

/// The configuration with what its numbers settle.
///
/// # Errors
/// If the target does not compute with the numbers that are asked for, or the options contradict each other.
pub(crate) fn settled(config: Cow<'_, Config>) -> Result<Cow<'_, Config>, PassError> {
    let weights_only = config.scheme == Scheme::WeightOnly;
    if config.quantized == Quantized::Int8 && !weights_only && config.compute.is_none() && !config.compute_io
    {
        return Ok(config);
    }
    let mut config = config.into_owned();
    let target = resolve_target(&config.target)?;
    if weights_only {
        settle_blocks(&mut config, target)?;
    }
    if config.quantized == Quantized::Float8 {
        expect(target, Numbers::Float8)?;
        if config.scheme == Scheme::Dynamic || weights_only {
            return Err(PassError::Config(format!("the scheme `{}` has no 8-bit floats", config.scheme)));
        }
        // A float grid is as fine for small numbers as for large ones: clipping large ones buys nothing, and rounding
        // to the nearest integer is no measure of it.
        (config.effort, config.method, config.weight_method) = (0, Method::MinMax, Method::MinMax);
    }
    if let Some(dtype) = config.compute {
        expect(target, Numbers::Half(dtype))?;
        config.constraints.scale_type = Some(dtype);
    } else if config.compute_io {
        return Err(PassError::Config(
            "inputs and outputs can have a type of 16 bits only if the model computes in one".into(),
        ));
    }
    Ok(Cow::Owned(config))
}

fn settle_blocks(config: &mut Config, target: &dyn Target) -> Result<(), PassError> {
    let on_gpu = target.placement() == Placement::Inputs;
    let size = config.blocks.size.unwrap_or(if on_gpu { TENSORRT_BLOCK } else { CPU_BLOCK });
    config.blocks.size = Some(size);
    expect(target, Numbers::Blocks { bits: config.blocks.bits, size })?;
    let table_bits = config.blocks.table_bits.unwrap_or(if on_gpu { FLOAT_TABLES } else { TABLE_BITS });
    config.blocks.table_bits = Some(table_bits);
    if table_bits != FLOAT_TABLES {
        expect(target, Numbers::Tables { bits: table_bits })?;
    }
    if !matches!(config.weight_method, Method::MinMax | Method::Mse) {
        return Err(PassError::Config(format!(
            "ranges of blocks of weights are found by minmax or mse, not by `{}`",
            config.weight_method
        )));
    }
    let blocks = &mut config.blocks;
    if size > SLICE && blocks.rounding != BlockRounding::Nearest {
        if blocks.rounding.needs_samples() {
            return Err(PassError::Config(format!(
                "blocks of {size} weights are rounded to the nearest level only, not by `{}`, which takes up to {SLICE}",
                blocks.rounding
            )));
        }
        blocks.rounding = BlockRounding::Nearest;
    }
    if on_gpu && config.compute.is_none() {
        config.compute = Some(DType::Float16);
    }
    Ok(())
}

fn expect(target: &dyn Target, numbers: Numbers) -> Result<(), PassError> {
    let Some(why) = target.lacks(numbers) else { return Ok(()) };
    let what = match numbers {
        Numbers::Half(dtype) => format!("{dtype}"),
        Numbers::Float8 => "8-bit floats".into(),
        Numbers::Blocks { bits, size } => format!("weights of {bits} bits in blocks of {size}"),
        Numbers::Tables { bits } => format!("tables of {bits} bits"),
    };
    Err(PassError::Config(format!("target `{}` takes no {what}: {why}", target.name())))
}

/// The oldest operator set that has quantizers with scales of a type.
pub(crate) fn opset_of(dtype: DType) -> i64 {
    match dtype {
        // QuantizeLinear takes it since 19, but Conv, pools and normalisations since 22.
        DType::Bfloat16 => 22,
        DType::Float16 | DType::Float8e4m3fn => 19,
        DType::Int4 | DType::Uint4 => 21,
        DType::Uint2 => 25,
        _ => 13,
    }
}

/// Raises the model to the operator set that a type needs.
///
/// # Errors
/// If the target does not read that operator set, or an operator has no counterpart in it.
pub(crate) fn raise(model: &mut Model, cx: &mut PassCx<'_>, dtype: DType) -> Result<(), PassError> {
    let to = opset_of(dtype);
    let target = resolve_target(&cx.config.target)?;
    if to > target.max_opset() {
        return Err(PassError::Config(format!(
            "{dtype} needs operator set {to}, and {} supports operators up to Opset {}",
            target.name(),
            target.max_opset()
        )));
    }
    crate::raise_opset::raise_to(model, cx, to, &format!("`{dtype}`"))?;
    // The first versions of the file format that know the type.
    let ir = match dtype {
        DType::Float8e4m3fn => 9,
        DType::Int4 | DType::Uint4 => 10,
        DType::Uint2 => 13,
        _ => 8,
    };
    model.ir_version = model.ir_version.max(ir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled_for(target: &str, change: impl Fn(&mut Config)) -> Result<Config, String> {
        let mut config = Config::new(target);
        change(&mut config);
        settled(Cow::Owned(config)).map(Cow::into_owned).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_target_lacks_is_refused() {
        let half = |c: &mut Config| c.compute = Some(DType::Float16);
        assert!(settled_for("cpu-vnni", half).unwrap_err().contains("no kernels for float16"));
        assert!(settled_for("tensorrt-8.6", half).unwrap_err().contains("flag FP16"));
        assert_eq!(settled_for("tensorrt", half).unwrap().constraints.scale_type, Some(DType::Float16));
        let float8 = |c: &mut Config| c.quantized = Quantized::Float8;
        assert!(settled_for("arm64", float8).unwrap_err().contains("8-bit floats"));
        assert_eq!(settled_for("tensorrt-10", float8).unwrap().effort, 0);
        let both = |c: &mut Config| (c.quantized, c.scheme) = (Quantized::Float8, Scheme::WeightOnly);
        assert!(settled_for("tensorrt", both).unwrap_err().contains("weight-only"));
        assert!(settled_for("tensorrt", |c| c.compute_io = true).unwrap_err().contains("16 bits only if"));
    }

    #[test]
    fn blocks_suit_their_target() {
        let weights = |c: &mut Config| c.scheme = Scheme::WeightOnly;
        let cpu = settled_for("cpu-avx2", weights).unwrap();
        assert_eq!((cpu.blocks.size, cpu.compute), (Some(32), None));
        let gpu = settled_for("tensorrt-10", weights).unwrap();
        assert_eq!((gpu.blocks.size, gpu.compute), (Some(128), Some(DType::Float16)));
        let odd = |c: &mut Config| (c.scheme, c.blocks.size) = (Scheme::WeightOnly, Some(48));
        assert!(settled_for("cpu-vnni", odd).unwrap_err().contains("powers of two"));
        let entropy = |c: &mut Config| (c.scheme, c.weight_method) = (Scheme::WeightOnly, Method::Entropy);
        assert!(settled_for("cpu-vnni", entropy).unwrap_err().contains("minmax or mse"));
        let long = |rounding| {
            settled_for("cpu-vnni", |c| {
                c.scheme = Scheme::WeightOnly;
                (c.blocks.size, c.blocks.rounding) = (Some(4096), rounding);
            })
        };
        assert_eq!(long(BlockRounding::Auto).unwrap().blocks.rounding, BlockRounding::Nearest);
        assert!(long(BlockRounding::Gptq).unwrap_err().contains("up to 2048"));
    }
}
