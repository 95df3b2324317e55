//! What is here and what is not, and bundles of derivations and sources on their way to agents.

use std::io::Write;

use drover_store::StorePath;
use drover_wire::agent::{BUNDLE_PATHS_LIMIT, BundleRequest};
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{MissingAnswer, MissingQuestion};
use rusqlite::{Connection, OptionalExtension, Row};

use super::error::Error;
use super::{Farm, intake, paths, sources, unsql};

impl Farm {
    /// Which of these derivations and sources are not here, or may soon not be: nothing needs them, and they have to be
    /// uploaded again before anything does.
    ///
    /// # Errors
    /// When the database cannot be asked, or there are too many.
    pub async fn missing(&self, question: MissingQuestion) -> Result<MissingAnswer, Error> {
        check_count(question.paths.len())?;
        self.database
            .read(move |sql| {
                let mut missing = Vec::new();
                let mut idle = sql.prepare_cached("SELECT 1 FROM idle WHERE path = ?1")?;
                for path in question.paths {
                    let place = place(sql, &path)?;
                    if place.map_or(Ok(true), |place| idle.exists([place.id()]))? {
                        missing.push(path);
                    }
                }
                Ok(MissingAnswer { missing })
            })
            .await
    }

    /// The sources that derivations which are here name, and nobody has uploaded; as many as a bundle may have.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn missing_sources(&self) -> Result<MissingAnswer, Error> {
        self.database
            .read(|sql| {
                let select = "SELECT p.base FROM missing_sources m JOIN paths p ON p.id = m.path LIMIT ?1";
                let most = i64::try_from(BUNDLE_PATHS_LIMIT).unwrap_or(i64::MAX);
                Ok(MissingAnswer { missing: paths::bases(sql, select, most)? })
            })
            .await
    }

    /// Checks that a bundle of these can be made: for an answer before its first byte.
    ///
    /// # Errors
    /// When there are too many, or one is not here.
    pub async fn check_bundle(&self, request: &BundleRequest) -> Result<(), Error> {
        check_count(request.paths.len())?;
        let paths = request.paths.clone();
        self.database
            .read(move |sql| {
                for path in &paths {
                    place(sql, path)?.ok_or_else(|| absent(path))?;
                }
                Ok(())
            })
            .await
    }

    /// Writes a bundle of these derivations and sources, in their order; whoever asks compresses it. Blocks.
    ///
    /// # Errors
    /// When one is not here, or cannot be read or written.
    pub fn bundle(&self, request: &BundleRequest, out: impl Write) -> Result<(), Error> {
        check_count(request.paths.len())?;
        let mut writer = Writer::new(out);
        for path in &request.paths {
            let failed = |error| Error::io(format!("send {path} in a bundle"), error);
            let found = self.database.read_blocking(|sql| {
                let place = place(sql, path)?.ok_or_else(|| absent(path))?;
                let contents = intake::contents(sql, place.id())?;
                Ok::<_, Error>((place, contents))
            })?;
            match found {
                (Place::Derivation(_), Some(text)) => {
                    writer.entry(Kind::Derivation, path, text.len() as u64, &text[..]).map_err(failed)?;
                }
                (Place::Derivation(_), None) => {
                    return Err(Error::Damaged(format!("the text of {path} is not there")));
                }
                (Place::Source(_, size), small) => {
                    let nar = sources::open(self, path, small)?;
                    writer.entry(Kind::Source, path, size, nar).map_err(failed)?;
                }
            }
        }
        writer.finish().and_then(|mut out| out.flush()).map_err(|error| Error::io("end a bundle", error))
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count <= BUNDLE_PATHS_LIMIT {
        return Ok(());
    }
    Err(Error::BadRequest(format!(
        "{count} store paths are too many for one question; ask for {BUNDLE_PATHS_LIMIT} at most"
    )))
}

fn absent(path: &StorePath) -> Error {
    if path.is_derivation() {
        return Error::UnknownDerivation(path.clone());
    }
    Error::NotFound { what: "source", name: path.to_string() }
}

/// What something that is here is.
enum Place {
    Derivation(i64),
    /// With the bytes of its nar.
    Source(i64, u64),
}

impl Place {
    fn id(&self) -> i64 {
        match self {
            Self::Derivation(id) | Self::Source(id, _) => *id,
        }
    }
}

/// A derivation or source, if it is here.
fn place(sql: &Connection, path: &StorePath) -> Result<Option<Place>, Error> {
    if path.is_derivation() {
        let select = "SELECT id FROM derivations WHERE id = (SELECT id FROM paths WHERE base = ?1)";
        let id = sql.prepare_cached(select)?.query_row([path.base_name()], |row| row.get(0)).optional()?;
        return Ok(id.map(Place::Derivation));
    }
    let select = "SELECT path, nar_size FROM items \
        WHERE path = (SELECT id FROM paths WHERE base = ?1) AND kind = 'source'";
    let read = |row: &Row<'_>| Ok(Place::Source(row.get(0)?, unsql(row.get(1)?)));
    Ok(sql.prepare_cached(select)?.query_row([path.base_name()], read).optional()?)
}
