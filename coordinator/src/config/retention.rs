//! The table `[retention]`: what is kept for how long.

use serde::Deserialize;

/// The table `[retention]`: what is kept for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {}
