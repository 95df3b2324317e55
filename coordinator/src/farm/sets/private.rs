//! Sets that are not for everybody.

use std::collections::HashSet;

use drover_wire::set::SetName;
use rusqlite::Connection;

use super::set_name;
use crate::farm::Farm;
use crate::farm::error::Error;

impl Farm {
    /// The sets that have rows that are not to be published, in any of their revisions that are kept.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn private_sets(&self) -> Result<HashSet<SetName>, Error> {
        self.database.read(private).await
    }
}

fn private(sql: &Connection) -> Result<HashSet<SetName>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT s.name FROM sets s WHERE s.id IN \
         (SELECT r.in_set FROM set_rows r INDEXED BY set_rows_private WHERE r.publish = 0)",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.map(|name| set_name(name?)).collect()
}
