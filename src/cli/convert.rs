//! `squint convert`.

use super::failure::Failure;
use super::model_file::{Input, Output};
use super::options::ModelFormat;
use super::talk::Talk;
use super::unprinted::unprinted;
use clap::Args;
use std::collections::BTreeMap;

/// Write a model in another form, and change nothing else.
///
/// Between protobuf and text, by the names of the files; with weights in a file of their own, or back in the
/// model, by `--external-data`; or with quantized operators in their other form, by `--format`.
#[derive(Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    /// Write quantized operators in this form. Scales, zero points and integers stay what they are. Operators that
    /// the other form cannot say stay, too, and are listed with the reason.
    #[arg(long, value_name = "FORMAT")]
    format: Option<ModelFormat>,
}

impl Convert {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let model = match self.format {
            None => self.model.load(talk)?,
            Some(format) => {
                let mut model = self.model.load_valid(talk)?;
                let notes = squint::convert(&mut model, format.into())?;
                talk.notes(notes.iter());
                model
            }
        };
        self.output.save(&model)?;
        if squint::is_text(&self.output.path) {
            let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
            for item in unprinted(&model) {
                *lost.entry(item.kind).or_default() += 1;
            }
            talk.notes(lost.into_iter().map(|(kind, n)| {
                format!(
                    "text has no place for {kind}: {n} of them {} not written",
                    if n == 1 { "is" } else { "are" }
                )
            }));
        }
        Ok(())
    }
}
