//! A real coordinator, spoken to over HTTP by clients and by agents that do what the test wants.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod agent;
mod browser;
mod browsing;
mod client;
mod graph;
mod house;
mod peer;

mod bundles;
mod details;
mod enrolment;
mod events;
mod hooks;
mod http;
mod lives;
mod log_pages;
mod logs;
mod metrics;
mod nars;
mod pages;
mod public;
mod requests;
mod restarts;
mod revisions;
mod sets;
mod sources;
mod uploads;
