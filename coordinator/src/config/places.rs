//! A table `[[places]]`: a folder or a bucket for nars.

use serde::Deserialize;

/// A table `[[places]]`: a folder or a bucket for nars.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlaceConfig {}
