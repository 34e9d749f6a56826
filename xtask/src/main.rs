//! Development tasks of the repository: `cargo xtask TASK`.
//!
//! What needs Python (the oracle asks the real ONNX Runtime) lives in scripts under `xtask/oracle`; the code here
//! makes their environment, builds the binary under test and starts them. The product itself needs no Python.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]

mod args;
mod bench_calibration;
mod bench_graph;
mod bench_io;
mod bench_quantize;
mod bench_tune;
mod build;
mod executors;
mod files;
mod kernel_costs;
mod oracle;
mod venv;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK

  oracle [--quick] [--only NAME] [--zoo DIR] [--squint BINARY] [--with-torch]
        quantize real models and check the results in ONNX Runtime
        --quick   the quick-start model only
        --only    one case of xtask/oracle/cases.py, or one part: `predict` (predictions against the runtime's own
                  graphs), `tensorrt`, `qat`
        --with-torch  installs PyTorch, 6 GB in target/oracle/torch, and trains a model for `qat`
        --zoo     folder of zoo models (default: ../shared/zoo; skipped if it is not there)
        --squint  binary under test (default: build one in the dev profile)
  executors [--zoo DIR] [--squint BINARY] [--only NAME]
        compare calibration by tract with that by ONNX Runtime; rewrites docs/executors.md
  files [--zoo DIR] [--squint BINARY]
        read and write every model of the zoo and of the onnx package, and compare with onnx
  shapes [--zoo DIR] [--squint BINARY] [--check]
        compare shape inference with onnx's on its node cases; rewrites docs/shape-inference.md
        --check   only say whether that is fresh
  bench-calibration [--zoo DIR] [--squint BINARY] [--observing BINARY] [--only NAME] [--rounds N]
        what observing costs over plain execution, time by stage and peak memory of calibration on every model of the zoo,
        and for 64 and 640 samples of noise, beside ONNX Runtime's own tools (default: release profile, 3 rounds)
        --observing  the benchmark `observing`, built already
  bench-graph [--squint BINARY]
        time graph rewriting on chains of 800 and 8000 Conv+Relu pairs (default: build in the release profile)
  bench-io [--squint BINARY] [--folder DIR]
        time reading, verifying and writing of models of 1 and 4 GB, and their memory (same default)
        --folder  where the models lie, 10 GB (default: target/oracle/bench-io)
  bench-quantize [--zoo DIR] [--squint BINARY] [--only NAME]
        what the default effort adds to the time of calibration, and peak memory, on every model of the zoo (same default)
  bench-tune [--zoo DIR] [--squint BINARY] [--only NAME]
        what `tune` finds by each metric on the classifiers of the zoo, on samples that it did not see, and how fast that is
        beside a file with the worst half of the layers in float (same default)
  kernel-costs [--print]
        time the kernels of ONNX Runtime and write the cost table of this kind of processor
        --print   print the table instead

The oracle's Python packages go to target/oracle/venv; PYTHON names the interpreter that makes it (default: python3).";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest = arguments.collect();
    let done = match task.as_str() {
        "oracle" => oracle::run(rest),
        "executors" => executors::run(rest),
        "files" => files::run(rest),
        "shapes" => files::shapes(rest),
        "bench-calibration" => bench_calibration::run(rest),
        "bench-graph" => bench_graph::run(rest),
        "bench-io" => bench_io::run(rest),
        "bench-quantize" => bench_quantize::run(rest),
        "bench-tune" => bench_tune::run(rest),
        "kernel-costs" => kernel_costs::run(rest),
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
