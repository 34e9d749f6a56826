//! `squint sensitivity`.

use super::failure::Failure;
use super::model_file::Input;
use super::options::{CompileFlags, DataFlags, Format};
use super::progress::Bar;
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::Args;
use serde_json::{Value, json};
use squint::passes::compare::Sensitivity as Found;
use squint::{Evidence, Hooks, Samples};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

/// Rank the values of a model by what quantizing each alone does to the outputs.
///
/// The effect is measured at the outputs, with the value's weights and rounding quantized and everything else in
/// float. The model is quantized for this as `squint quantize` does, unless a quantized model is given.
#[derive(Args)]
pub(crate) struct Sensitivity {
    #[command(flatten)]
    model: Input,
    /// Measure the values of this quantized model, of whatever tool, instead.
    #[arg(long, value_name = "FILE")]
    quantized: Option<PathBuf>,
    /// Keep the result in this file, and take it from there when it belongs to the same models, samples and version.
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Show the first N values. 0 for all.
    #[arg(long, value_name = "N", default_value_t = 16)]
    top: usize,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    compile: CompileFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

impl Sensitivity {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let float = self.model.load_valid(talk)?;
        let mut config = self.compile.config(&float, talk)?;
        let data = self.data.open_for("measuring effects needs data", &float, talk)?;
        let executor = self.runtime.executor(talk)?;
        let executor = executor.as_ref();
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let quantized = match &self.quantized {
            Some(path) => self.model.trust.load_valid(path, talk)?,
            None => {
                let mut quantized = float.clone();
                // Each value is put into the float model by itself, so all must be in its units.
                config.equalize = false;
                squint::quantize_with(&mut quantized, Evidence::samples(executor, &data), &config, &hooks)?;
                quantized
            }
        };
        let found =
            squint::sensitivity(&float, &quantized, executor, &data, self.cache.as_deref(), &config, &bar);
        bar.clear();
        let (found, cached) = found?;
        if cached {
            talk.say("note: nothing was measured: the cache belongs to these models and samples");
        }
        let mut out = io::stdout().lock();
        match self.format {
            Format::Text => out.write_all(self.text(&found).as_bytes())?,
            Format::Json => writeln!(out, "{:#}", json(&found))?,
        }
        talk.detail(format_args!("{} samples", data.len()));
        Ok(())
    }

    fn text(&self, found: &Found) -> String {
        let shown = if self.top == 0 { found.effects.len() } else { self.top.min(found.effects.len()) };
        let effects = &found.effects[..shown];
        let width = |f: &dyn Fn(usize) -> usize, head: usize| (0..shown).map(f).max().unwrap_or(0).max(head);
        let names = width(&|i| effects[i].value.chars().count(), 5).min(48);
        let types = width(&|i| effects[i].op_type.chars().count(), 8);
        let mut out =
            format!("{:<names$}  {:<types$}  {:>8}  {:>9}\n", "value", "operator", "SQNR dB", "KL nats");
        for e in effects {
            let op_type = if e.op_type.is_empty() { "input" } else { &e.op_type };
            let kl = e.kl.map_or("-".into(), |kl| format!("{kl:.3e}"));
            let sqnr = -10.0 * e.error.log10();
            let _ = writeln!(out, "{:<names$}  {op_type:<types$}  {sqnr:>8.2}  {kl:>9}", e.value);
        }
        if shown < found.effects.len() {
            let _ = writeln!(out, "and {} more", found.effects.len() - shown);
        }
        out
    }
}

fn json(found: &Found) -> Value {
    let effects = found.effects.iter().map(|e| {
        json!({
            "value": e.value,
            "node": e.node,
            "op_type": e.op_type,
            "layer": e.layer,
            "error": e.error,
            "kl_nats": e.kl,
        })
    });
    json!({"samples": found.samples, "effects": effects.collect::<Vec<_>>()})
}
