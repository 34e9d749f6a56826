//! The integration tests, one binary.

mod calibration;
mod cli;
mod filetests;
