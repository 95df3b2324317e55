//! What differs between two revisions.

use drover_wire::set::{DiffQuestion, SetDiff};

use crate::farm::Farm;
use crate::farm::error::Error;

impl Farm {
    /// Compares two revisions, of one set or of two.
    ///
    /// # Errors
    /// When one of them is not known.
    pub async fn set_diff(&self, question: DiffQuestion) -> Result<SetDiff, Error> {
        Err(Error::BadRequest(format!("not yet: {question:?}")))
    }
}
