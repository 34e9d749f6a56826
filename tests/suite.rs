//! The integration tests, one binary.

mod calibration;
mod cli;
mod cli_errors;
mod docs;
mod filetests;
mod measuring;
mod retarget;
