//! End-to-end tests, test grounds, the demonstration graph and the benches of drover.

use std::path::{Path, PathBuf};

pub mod authority;
pub mod bench;
pub mod board;
pub mod browser;
pub mod bucket;
pub mod client;
pub mod demo;
pub mod direct;
pub mod elf;
pub mod emulated;
pub mod farm;
pub mod graph;
pub mod ground;
pub mod hand;
pub mod herd;
pub mod http;
pub mod load;
pub mod proxy;
pub mod public;
pub mod random;
pub mod replay;
pub mod service;
pub mod shelf;
pub mod shell;
pub mod site;
pub mod sqlite;
pub mod tree;
pub mod wait;
pub mod whole_guix;

/// The top folder of the workspace.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}
