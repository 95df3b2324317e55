//! How sets stand.

use drover_wire::set::{SetDetails, SetRef, SetSummary};

use crate::farm::Farm;
use crate::farm::error::Error;

impl Farm {
    /// All sets, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn sets(&self) -> Result<Vec<SetSummary>, Error> {
        Err(Error::BadRequest("not yet".to_owned()))
    }

    /// How a revision stands, by system and target.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn set(&self, named: SetRef) -> Result<SetDetails, Error> {
        self.database
            .read(move |sql| {
                let revision = super::find(sql, &named)?;
                Err(Error::BadRequest(format!("not yet: {revision:?}")))
            })
            .await
    }
}
