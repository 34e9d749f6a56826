//! `squint optimize`.

use super::failure::Failure;
use super::model_file::{Input, Output};
use super::options::known_target;
use super::progress::Bar;
use super::talk::Talk;
use clap::Args;
use squint::{Config, Hooks};

/// Rewrite the float graph only: fold constants, fuse operators, remove dead code.
///
/// The result computes the same in float, with fewer operators.
#[derive(Args)]
pub(crate) struct Optimize {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    /// The runtime and processor that the result is for; `host` is that of this machine. Name it where the result
    /// must not depend on the machine that squint runs on.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
}

impl Optimize {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let mut model = self.model.load_valid(talk)?;
        let config = Config::new(known_target(&self.target)?);
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let report = squint::optimize(&mut model, &config, &hooks)?;
        bar.clear();
        self.output.save(&model)?;
        talk.notes(&report.notes);
        for (pass, seconds) in &report.timing {
            talk.detail(format_args!("{seconds:9.3} s  {pass}"));
        }
        talk.say(format_args!(
            "wrote `{}`: {} operators, {} before",
            self.output.path.display(),
            report.ops_fused,
            report.ops_before
        ));
        Ok(())
    }
}
