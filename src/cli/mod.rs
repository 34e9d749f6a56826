//! The command line: what users type, and how squint answers.
//!
//! What a command makes goes to standard output or into the file named by `-o`; everything else that is
//! said goes to standard error. Exit status 0: done; 1: the model, the data or the output is at fault;
//! 2: the command line is; 101: squint itself is.

mod bench;
mod calibrate;
mod check;
mod compare;
mod config_file;
mod convert;
mod diff;
mod evaluate;
mod evidence;
mod explain;
mod failure;
mod forecast;
mod gate;
mod inferred;
mod inspect;
mod model_file;
mod numbers;
mod optimize;
mod options;
mod print;
mod progress;
mod qat;
mod quantize;
mod retarget;
mod run;
mod run_passes;
mod runtime;
mod sensitivity;
mod stats;
mod summary;
mod talk;
mod tune;
mod unprinted;

use clap::{Args, CommandFactory, Parser, Subcommand};
use failure::Failure;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use talk::Talk;

/// Compiles float ONNX models to quantized ONNX models that the deployment runtime really runs in integers.
#[derive(Parser)]
#[command(name = "squint", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    talk: TalkFlags,
}

#[derive(Args)]
struct TalkFlags {
    /// Say nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,
    /// Say more: every note, and the time of every pass.
    #[arg(short, long, global = true, help_heading = "Output")]
    verbose: bool,
}

/// Each is described where it is defined.
#[derive(Subcommand)]
enum Command {
    Quantize(quantize::Quantize),
    Retarget(retarget::Retarget),
    Qat(qat::Qat),
    Explain(explain::Explain),
    Compare(compare::Compare),
    Evaluate(evaluate::Evaluate),
    Sensitivity(sensitivity::Sensitivity),
    Tune(tune::Tune),
    Run(run::Run),
    Check(gate::Check),
    Bench(bench::Bench),
    Calibrate(calibrate::Calibrate),
    Stats(stats::Stats),
    Optimize(optimize::Optimize),
    Inspect(inspect::Inspect),
    Print(print::Print),
    Diff(diff::Diff),
    Convert(convert::Convert),
    RunPasses(run_passes::RunPasses),
}

/// Reads the command line, does what it says, and reports.
pub(crate) fn main() -> ExitCode {
    static PANIC: Mutex<Option<String>> = Mutex::new(None);
    // The first panic is the one that matters: others follow from it. (The hook of the executor stands in
    // front of this one and keeps what it handles.)
    panic::set_hook(Box::new(|info| {
        let mut first = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| info.to_string());
    }));
    let arguments = config_file::expand(std::env::args_os().collect(), &Cli::command());
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(failure) => {
            let _ = write!(io::stderr().lock(), "{failure}");
            return ExitCode::FAILURE;
        }
    };
    let cli = Cli::parse_from(arguments);
    match panic::catch_unwind(|| run(cli)) {
        Ok(code) => code,
        Err(_) => {
            let what = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let what = what.unwrap_or_else(|| "panicked".into()).replace('\n', " ");
            let _ = writeln!(
                io::stderr().lock(),
                "error: this is a bug in squint {}: {what}\n  help: please report it, with the command and, if \
                 possible, the model; `--dump-ir DIR` shows the passes before it",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::from(101)
        }
    }
}

fn run(cli: Cli) -> ExitCode {
    let talk = Talk::new(cli.talk.quiet, cli.talk.verbose);
    let done = match cli.command {
        Command::Quantize(c) => c.run(&talk),
        Command::Retarget(c) => c.run(&talk),
        Command::Qat(c) => c.run(&talk),
        Command::Explain(c) => c.run(&talk),
        Command::Compare(c) => c.run(&talk),
        Command::Evaluate(c) => c.run(&talk),
        Command::Sensitivity(c) => c.run(&talk),
        Command::Tune(c) => c.run(&talk),
        Command::Run(c) => c.run(&talk),
        Command::Check(c) => c.run(&talk),
        Command::Bench(c) => c.run(&talk),
        Command::Calibrate(c) => c.run(&talk),
        Command::Stats(c) => c.run(&talk),
        Command::Optimize(c) => c.run(&talk),
        Command::Inspect(c) => c.run(&talk),
        Command::Print(c) => c.run(&talk),
        Command::Diff(c) => c.run(&talk),
        Command::Convert(c) => c.run(&talk),
        Command::RunPasses(c) => c.run(&talk),
    };
    match done {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(io::stderr().lock(), "{failure}");
            ExitCode::FAILURE
        }
    }
}
