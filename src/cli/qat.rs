//! `squint qat`: models around quantization-aware training.

mod convert;

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, Subcommand};
use convert::Convert;

/// Models for quantization-aware training, and from it.
#[derive(Args)]
pub(crate) struct Qat {
    #[command(subcommand)]
    command: QatCommand,
}

/// Each is described where it is defined.
#[derive(Subcommand)]
enum QatCommand {
    Convert(Convert),
}

impl Qat {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        match self.command {
            QatCommand::Convert(c) => c.run(talk),
        }
    }
}
