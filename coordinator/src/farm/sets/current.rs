//! A revision becomes the current one, or a set goes.

use drover_wire::set::{SetDropped, SetName};

use crate::farm::Farm;
use crate::farm::error::Error;

impl Farm {
    /// Forgets a set. Builds that nobody else wants and that have not started are canceled.
    ///
    /// # Errors
    /// When there is no such set.
    pub async fn drop_set(&self, set: SetName) -> Result<SetDropped, Error> {
        Err(Error::BadRequest(format!("not yet: {set}")))
    }
}
