//! The table `[retention]`: what is kept for how long.

mod ages;

pub use ages::Ages;
use serde::Deserialize;

/// The table `[retention]`: what is kept for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// What was noted: logs, history and so on.
    pub ages: Ages,
}
