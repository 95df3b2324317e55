//! The rows of a revision come in.

use std::io::Read;
use std::sync::Arc;

use drover_wire::set::{RevisionName, SetName, SetSubmission, SetSubmitted};

use crate::farm::Farm;
use crate::farm::error::Error;

/// A revision that is being submitted.
#[derive(Debug, Clone)]
pub struct Coming {
    /// The set.
    pub set: SetName,
    /// The revision.
    pub revision: RevisionName,
    /// How many rows it has, and whether the set keeps.
    pub terms: SetSubmission,
}

impl Farm {
    /// Takes the rows of a revision, which are read as they come, decompressed already: lines of JSON. When all of
    /// them are good it becomes the current revision of the set.
    ///
    /// # Errors
    /// At the first row that is refused, or when the rows are cut off; nothing is changed then.
    pub async fn submit_set(
        self: &Arc<Self>,
        coming: Coming,
        rows: impl Read + Send + 'static,
    ) -> Result<SetSubmitted, Error> {
        drop(rows);
        Err(Error::BadRequest(format!("not yet: {coming:?}")))
    }
}
