//! The `squint` command.

mod cli;

use std::process::ExitCode;

/// The system's allocator (of glibc) keeps memory that large tensors of many sizes have left in pieces: calibration took
/// more and more of it with the number of samples, and returning it every time costs a fifth of the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option of the allocator that says for how many milliseconds it keeps memory that nothing uses.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Tensors come and go in every run of a sample: giving their memory back in between, after 10 ms by default, and taking
/// it again costs a tenth of the time.
const KEPT_MS: std::ffi::c_long = 500;

fn main() -> ExitCode {
    // SAFETY: the allocator takes any number for this option, at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT_MS) };
    cli::main()
}
