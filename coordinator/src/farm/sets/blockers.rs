//! What holds a set up.

use drover_wire::set::{Blockers, BlockersQuestion, SetRef};

use crate::farm::Farm;
use crate::farm::error::Error;

impl Farm {
    /// The failed and missing derivations below a revision, by how many of its rows they hold up.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn set_blockers(&self, named: SetRef, question: BlockersQuestion) -> Result<Blockers, Error> {
        Err(Error::BadRequest(format!("not yet: {named} {question:?}")))
    }
}
