//! The rows of a revision come in.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::sync::Arc;

use drover_wire::rows::{Digest, Line, Reader, RowsError};
use drover_wire::set::{ROWS_LIMIT, RevisionName, RowWanted, SetName, SetRef, SetSubmission, SetSubmitted};
use rusqlite::{Connection, OptionalExtension};

use super::rows::{Spool, Spooled};
use super::{CURRENT, Revision, current};
use crate::database;
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

/// All rows of a revision, held against the current one of its set.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) coming: Coming,
    /// The current revision at that time.
    pub(super) basis: Option<Revision>,
    /// Its rows, each once.
    pub(super) rows: u64,
    pub(super) not_evaluated: u64,
    /// Those that the current revision does not have.
    pub(super) new: Spooled,
    /// Those of the current revision that it does not have.
    pub(super) gone: Vec<Digest>,
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
        let farm = Arc::clone(self);
        let task = crate::traced::spawn_blocking(move || farm.receive(coming, rows));
        let received = match task.await {
            Ok(received) => received?,
            Err(_) => return Err(database::Error::Panicked.into()),
        };
        if let Some(basis) = received.basis.as_ref().filter(|basis| basis.name == received.coming.revision) {
            let canceled = match received.coming.terms.keep.filter(|keep| *keep != basis.keep) {
                Some(keep) => {
                    let set = basis.set;
                    self.database.write_alone(move |tx| current::keep(tx, set, keep)).await?
                }
                None => 0,
            };
            return Ok(SetSubmitted { canceled, ..unchanged(&received, basis) });
        }
        if !self.substitutes.servers().is_empty() {
            let derivations = received.new.derivations()?;
            self.ask_substitute_servers(derivations.iter()).await?;
        }
        let limits = self.default_limits();
        let submitted =
            self.database.write_alone(move |tx| current::supersede(tx, &received, limits)).await?;
        let SetSubmitted { set, revision, rows, rows_new, rows_gone, builds, for_inputs, canceled, .. } =
            &submitted;
        tracing::info!(
            %set, %revision, rows, rows_new, rows_gone, builds, for_inputs, canceled, "revision submitted"
        );
        Ok(submitted)
    }

    fn receive(&self, coming: Coming, rows: impl Read) -> Result<Received, Error> {
        if coming.terms.rows > ROWS_LIMIT {
            return Err(Error::BadRequest(format!(
                "{} rows were announced, and a revision has at most {ROWS_LIMIT}; submit them as several sets",
                coming.terms.rows
            )));
        }
        let (basis, mut before) = self.database.read_blocking(|sql| {
            let basis = basis(sql, &coming)?;
            let before = basis.as_ref().map(|basis| digests(sql, basis.set)).transpose()?;
            Ok::<_, Error>((basis, before.unwrap_or_default()))
        })?;
        let again = basis.as_ref().is_some_and(|basis| basis.name == coming.revision);
        let conflict = |what: String| {
            Error::Conflict(format!(
                "the revision {} of {} is here already, with other rows: {what}; submit them under another name",
                coming.revision, coming.set
            ))
        };
        let mut lines = Reader::new(BufReader::with_capacity(128 * 1024, rows));
        let mut new = Spool::new()?;
        let (mut count, mut not_evaluated) = (0, 0);
        while let Some(line) = lines.next_row().map_err(bad_row)? {
            let Line { number, row, text, digest, double } = line;
            if double {
                continue;
            }
            count += 1;
            not_evaluated += u64::from(matches!(row.wanted, RowWanted::NotEvaluated(_)));
            if let Some(seen) = before.get_mut(&digest) {
                *seen = true;
            } else if again {
                return Err(conflict(format!("row {number}, {}, is not among them", row.package)));
            } else {
                new.push(number, &text)?;
            }
        }
        let announced = coming.terms.rows;
        if lines.count() != announced {
            return Err(Error::BadRequest(format!(
                "{announced} rows were announced and {} came; nothing of them was taken, send them again",
                lines.count()
            )));
        }
        if count == 0 {
            return Err(Error::BadRequest(format!(
                "a revision without rows wants nothing; to want nothing of {} any more, drop the set",
                coming.set
            )));
        }
        let gone: Vec<Digest> =
            before.into_iter().filter(|(_, seen)| !seen).map(|(digest, _)| digest).collect();
        if again && !gone.is_empty() {
            let package = self.database.read_blocking(|sql| first_package(sql, &coming, &gone))?;
            return Err(conflict(format!("{} of them did not come, {package} among them", gone.len())));
        }
        Ok(Received { coming, basis, rows: count, not_evaluated, new: new.close()?, gone })
    }
}

/// The first package by name of rows of the current revision.
fn first_package(sql: &Connection, coming: &Coming, rows: &[Digest]) -> Result<String, Error> {
    let mut select = sql.prepare_cached(
        "SELECT r.package FROM sets s JOIN set_rows r ON r.in_set = s.id AND r.last = ?2 \
         WHERE s.name = ?1 AND r.digest = ?3",
    )?;
    let mut first = None;
    for digest in rows {
        let package: Option<String> =
            select.query_row((coming.set.as_str(), CURRENT, digest), |row| row.get(0)).optional()?;
        first = [first, package].into_iter().flatten().min();
    }
    Ok(first.unwrap_or_default())
}

fn bad_row(error: RowsError) -> Error {
    match error {
        RowsError::Row { row, why } => Error::BadRow { row, reason: why },
        RowsError::Io { .. } => Error::BadRequest(format!("{error}; nothing was taken, send them again")),
    }
}

/// The current revision of the set, if there is one.
fn basis(sql: &Connection, coming: &Coming) -> Result<Option<Revision>, Error> {
    let named = SetRef { set: coming.set.clone(), revision: None };
    let basis = match super::find(sql, &named) {
        Ok(basis) => basis,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let known: Option<i64> = sql
        .prepare_cached("SELECT id FROM revisions WHERE in_set = ?1 AND name = ?2")?
        .query_row((basis.set, coming.revision.as_str()), |row| row.get(0))
        .optional()?;
    if known.is_some_and(|known| known != basis.id) {
        return Err(Error::Conflict(format!(
            "the revision {} of {} was superseded by {}; to want its rows again, submit them under another name",
            coming.revision, coming.set, basis.name
        )));
    }
    Ok(Some(basis))
}

/// The rows of a set's current revision; none of them has been seen again.
fn digests(sql: &Connection, set: i64) -> Result<HashMap<Digest, bool>, Error> {
    let mut select = sql.prepare_cached("SELECT digest FROM set_rows WHERE in_set = ?1 AND last = ?2")?;
    let rows = select.query_map([set, CURRENT], |row| Ok((row.get::<_, Digest>(0)?, false)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn unchanged(received: &Received, basis: &Revision) -> SetSubmitted {
    SetSubmitted {
        set: basis.set_name.clone(),
        revision: basis.name.clone(),
        superseded: None,
        new: false,
        rows: received.rows,
        rows_new: 0,
        rows_gone: 0,
        not_evaluated: received.not_evaluated,
        builds: 0,
        for_inputs: 0,
        canceled: 0,
        missing_sources: Vec::new(),
        missing_sources_count: 0,
    }
}
