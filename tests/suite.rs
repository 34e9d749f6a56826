//! The integration tests, one binary.

mod calibration;
mod cli;
mod docs;
mod filetests;
mod measuring;
mod retarget;
