//! `squint convert`.

use super::failure::Failure;
use super::model_file::{Input, Output};
use super::talk::Talk;
use super::unprinted::unprinted;
use clap::Args;
use std::collections::BTreeMap;

/// Write a model in another form, and change nothing else.
///
/// Between protobuf and text, by the names of the files; or with weights in a file of their own, or back
/// in the model, by `--external-data`.
#[derive(Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
}

impl Convert {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let model = self.model.load(talk)?;
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
