//! `squint qat`: models that are trained with quantizers in them.

mod convert;
mod export;

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, Subcommand};

/// Train with quantizers: make a model that can be trained, and a deployable one of what was trained.
#[derive(Args)]
pub(crate) struct Qat {
    #[command(subcommand)]
    command: Command,
}

/// Each is described where it is defined.
#[derive(Subcommand)]
enum Command {
    Export(Box<export::Export>),
    Convert(Box<convert::Convert>),
}

impl Qat {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        match self.command {
            Command::Export(c) => c.run(talk),
            Command::Convert(c) => c.run(talk),
        }
    }
}
