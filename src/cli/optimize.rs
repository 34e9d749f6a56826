//! `squint optimize`.

use super::failure::Failure;
use super::model_file::{Input, Output};
use super::options::known_target;
use super::progress::Bar;
use super::talk::Talk;
use clap::{ArgGroup, Args};
use squint::passes::pipeline::RuleTrace;
use squint::{Config, Hooks};
use std::io::{self, Write};

/// Rewrite the float graph only: fold constants, fuse operators, remove dead code.
///
/// The result computes the same in float, with fewer operators. `docs/rewrites.md` lists the rules.
#[derive(Args)]
#[command(group = ArgGroup::new("product").args(["output", "trace_rule"]).required(true).multiple(true))]
#[command(mut_arg("output", |arg| arg.required(false)))]
pub(crate) struct Optimize {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Option<Output>,
    /// The runtime and processor that the result is for; `host` is that of this machine. Name it where the result
    /// must not depend on the machine that squint runs on.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
    /// Print, for each operator at which the pattern of this rule begins to fit, why the rule did not apply
    /// there. No output needs to be written then.
    #[arg(long, value_name = "RULE")]
    trace_rule: Option<String>,
}

impl Optimize {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        if let Some(output) = &self.output {
            output.check(&self.model)?;
        }
        let mut model = self.model.load_valid(talk)?;
        let config = Config::new(known_target(&self.target)?);
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let (report, trace) = match &self.trace_rule {
            None => (squint::optimize(&mut model, &config, &hooks)?, None),
            Some(rule) => {
                let (report, trace) = squint::optimize_traced(&mut model, rule, &config, &hooks)?;
                (report, Some(trace))
            }
        };
        bar.clear();
        if let Some(output) = &self.output {
            output.save(&model)?;
        }
        talk.notes(&report.notes);
        for (pass, seconds) in &report.timing {
            talk.detail(format_args!("{seconds:9.3} s  {pass}"));
        }
        for (rule, n) in &report.rewrites {
            talk.detail(format_args!("{n:9} x  {rule}"));
        }
        if let (Some(rule), Some(trace)) = (&self.trace_rule, &trace) {
            print(trace)?;
            let (applied, missed) = (trace.applied, trace.missed.len());
            talk.say(format_args!("`{rule}` applied {applied} times; {missed} places where it did not"));
        }
        let counts = format!("{} operators, {} before", report.ops_fused, report.ops_before);
        match &self.output {
            Some(output) => talk.say(format_args!("wrote `{}`: {counts}", output.path.display())),
            None => talk.say(format_args!("nothing written: {counts}")),
        }
        Ok(())
    }
}

/// One line for each place.
fn print(trace: &RuleTrace) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for note in &trace.missed {
        writeln!(out, "{note}")?;
    }
    Ok(out.flush()?)
}
