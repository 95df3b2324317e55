//! The coordinator of the drover build farm, and its operators' command line.

pub mod cli;
pub mod client;
pub mod config;
pub mod database;
pub mod farm;
pub mod key;
mod logging;
pub mod schedule;
pub mod serve;
pub mod storage;
mod substitutes;
mod traced;
mod web;
