//! A table `[hooks.NAME]`: what is done when something happened.

use serde::Deserialize;

/// A table `[hooks.NAME]`: what is done when something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HookConfig {}
