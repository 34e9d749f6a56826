//! `squint qat convert`: a trained model with quantizers around float weights becomes one in integers.

use super::super::failure::Failure;
use super::super::retarget::Door;
use super::super::talk::Talk;
use clap::Args;

/// Make an integer model of one that was trained with quantizers in it.
///
/// Takes what PyTorch (torch.ao, pt2e, pytorch-quantization), TensorFlow through tf2onnx, Brevitas (QCDQ), QONNX and
/// QKeras (Quant nodes) export, and `squint qat export`. Weights are frozen to the integers that training saw, biases
/// become integers on the exact scale, BatchNormalization goes into frozen scales, and quantizers are placed as the target
/// wants them. No range that was trained is measured; what the training did not cover stays in float, with a warning,
/// unless `--data` or `--stats` say the ranges of values that have none.
#[derive(Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    door: Door,
}

impl Convert {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.door.run("converted", "training", talk)
    }
}
