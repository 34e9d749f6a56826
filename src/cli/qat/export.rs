//! `squint qat export`.

use crate::cli::evidence::EvidenceFlags;
use crate::cli::failure::Failure;
use crate::cli::model_file::{Input, Output};
use crate::cli::options::CompileFlags;
use crate::cli::progress::Bar;
use crate::cli::talk::Talk;
use clap::{Args, ValueEnum};
use squint::Hooks;
use squint::passes::config::{Training, WeightBits};

/// Write a float model with quantizers in it (fake-quant), for a framework that trains it.
///
/// QuantizeLinear and DequantizeLinear stand around float weights and float activations where the target will quantize
/// them. Weights stay float, biases too. The first scales come from data or statistics, as those of `squint quantize` do.
/// `T.scale` and `T.zero_point` are the parameters of the value T; the entry `squint.quantizers` of the model's
/// metadata lists them.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    /// Levels of weights: all 8 bits that the target uses, or the 15 levels -7..7.
    #[arg(long, value_name = "N", default_value = "8")]
    weight_bits: Bits,
    /// Leave BatchNormalization behind the operators that it could be folded into, to be trained as well.
    #[arg(long)]
    keep_batch_normalization: bool,
    #[command(flatten)]
    compile: CompileFlags,
    #[command(flatten)]
    evidence: EvidenceFlags,
}

/// Bits of weights.
#[derive(Clone, Copy, ValueEnum)]
enum Bits {
    #[value(name = "4")]
    Four,
    #[value(name = "8")]
    Eight,
}

impl Export {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let mut model = self.model.load_valid(talk)?;
        let training = Training {
            weight_bits: match self.weight_bits {
                Bits::Four => WeightBits::Four,
                Bits::Eight => WeightBits::Eight,
            },
            keep_batch_normalization: self.keep_batch_normalization,
        };
        let mut config = self.compile.training(training, &model, talk)?;
        let material = self.evidence.read(&model, &config, talk)?;
        config.data_description = material.preprocessing();
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let done = squint::quantize_with(&mut model, material.evidence(), &config, &hooks);
        bar.clear();
        let report = done?;
        self.output.save(&model)?;
        talk.notes(&report.notes);
        let (quantized, all) = report.integer_contractions();
        talk.say(format_args!(
            "{} -> {}: for {}, {quantized} of {all} contractions between quantizers; `squint qat convert` makes \
             integers of it once it is trained",
            self.model.path.display(),
            self.output.path.display(),
            config.target,
        ));
        Ok(())
    }
}
