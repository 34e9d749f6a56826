//! The integration tests, one binary.

mod allocations;
mod calibration;
mod cli;
mod cli_errors;
mod damage;
mod docs;
mod filetests;
mod measuring;
mod mutations;
mod readers;
mod reasons;
mod retarget;
mod weight_blocks;
