//! Development tasks of the repository: `cargo xtask TASK`.
//!
//! What needs Python (the oracle asks the real ONNX Runtime) lives in scripts under `xtask/oracle`; the code here
//! makes their environment, builds the binary under test and starts them. The product itself needs no Python.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]

mod args;
mod bench_graph;
mod build;
mod oracle;
mod venv;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK

  oracle [--quick] [--only NAME] [--zoo DIR] [--squint BINARY]
        quantize real models and check the results in ONNX Runtime
        --quick   the quick-start model only
        --only    one case of xtask/oracle/cases.py
        --zoo     folder of zoo models (default: ../shared/zoo; skipped if it is not there)
        --squint  binary under test (default: build one in the dev profile)
  bench-graph [--squint BINARY]
        time graph rewriting on chains of 800 and 8000 Conv+Relu pairs (default: build in the release profile)

The oracle's Python packages go to target/oracle/venv; PYTHON names the interpreter that makes it (default: python3).";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest = arguments.collect();
    let done = match task.as_str() {
        "oracle" => oracle::run(rest),
        "bench-graph" => bench_graph::run(rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
