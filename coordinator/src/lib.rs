//! The coordinator of the drover build farm, and its operators' command line.

pub mod config;
pub mod serve;
