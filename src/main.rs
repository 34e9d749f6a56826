//! The `squint` command.

mod cli;

use std::process::ExitCode;

/// The system's allocator (of glibc) keeps memory that large tensors of many sizes have left in pieces: calibration took
/// more and more of it with the number of samples, and returning it every time costs a fifth of the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
