//! Sources come in.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use drover_store::export::export_hash;
use drover_store::source::{self, Method};
use drover_store::{Compression, Sha256, Sha256Hash, StorePath, base32};

use super::depend::{self, Provided};
use super::error::Error;
use super::places::Placed;
use super::press::Press;
use super::{Farm, Tx, now, sql};
use super::{files, paths, retention};
use crate::storage::{Plain, Storage, remove_if_there};

/// Up to how many compressed bytes a source is kept in the database.
const SMALL: usize = 64 * 1024;
/// Up to how many bytes a nar is read into memory, so that it can be read twice.
const IN_MEMORY: u64 = 8 << 20;
/// Up to how many bytes a nar is compressed in one piece.
const IN_ONE_PIECE: u64 = 1 << 20;
/// The most references of a text that are looked for.
const REFERENCES: usize = 10_000;
const LEVEL: i32 = 9;

/// A source whose contents are those of its name.
#[derive(Debug)]
pub(super) struct NewSource {
    path: StorePath,
    method: Method,
    nar_hash: Sha256Hash,
    nar_size: u64,
    export_hash: Sha256Hash,
    body: Body,
}

/// Its compressed nar.
#[derive(Debug)]
enum Body {
    Small(Vec<u8>),
    File(TemporaryFile),
    Placed(Placed),
}

impl NewSource {
    /// Reads the nar of the source at `path`, which has `size` bytes. `guesses` says which of some paths a text may
    /// refer to, the likeliest first. Blocks on the disk.
    ///
    /// # Errors
    /// When the contents are not those of the name, `from` fails, or a file cannot be written. The first comes
    /// as [`Error::BadSource`], the second as itself.
    pub(super) fn read(
        storage: &Storage,
        press: &mut Press,
        path: StorePath,
        size: u64,
        mut from: impl Read,
        guesses: impl FnOnce(Vec<StorePath>) -> Result<Vec<Vec<StorePath>>, Error>,
    ) -> Result<Self, ReadError> {
        if size > IN_MEMORY {
            return Self::pass(storage, &path, size, from, &[])?.ok_or_else(|| unfit(&path).into());
        }
        let mut nar = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(64 * 1024) + 1);
        from.read_to_end(&mut nar).map_err(ReadError::Cut)?;
        let hash = {
            let mut hash = Sha256::new();
            hash.update(&nar);
            hash
        };
        let nar_hash = hash.clone().finish();
        let find = |candidates: &[StorePath]| {
            source::method_of_nar(&path, &nar, &nar_hash, candidates)
                .map_err(|error| Error::BadSource { path: path.clone(), reason: error.to_string() })
        };
        let mut method = find(&[])?;
        if method.is_none() {
            let named = named(&nar);
            let guesses = if named.is_empty() { Vec::new() } else { guesses(named)? };
            for references in guesses.iter().filter(|references| !references.is_empty()) {
                method = find(references)?;
                if method.is_some() {
                    break;
                }
            }
        }
        let method = method.ok_or_else(|| unfit(&path))?;
        let body = Body::of(storage, press, &nar)
            .map_err(|error| Error::io(format!("compress the source {path}"), error))?;
        let export_hash = export_hash(hash, &path, references_of(&method), None);
        Ok(Self { path, nar_hash, export_hash, nar_size: size, method, body })
    }

    /// Reads one that is too large for memory: once, with `candidates` for what it refers to. None: the contents do
    /// not belong to the path.
    fn pass(
        storage: &Storage,
        path: &StorePath,
        size: u64,
        from: impl Read,
        candidates: &[StorePath],
    ) -> Result<Option<Self>, ReadError> {
        let mut tee = Tee {
            from,
            hash: Sha256::new(),
            count: 0,
            to: zstd::Encoder::new(Sink { storage, small: Vec::new(), file: None }, LEVEL)
                .map_err(|error| Error::io(format!("compress the source {path}"), error))?,
            cut: None,
            failed: None,
        };
        let method = source::method_of(path, &mut tee, candidates);
        if let Some(error) = tee.failed.take() {
            return Err(Error::io(format!("the source {path}"), error).into());
        }
        if let Some(error) = tee.cut.take() {
            return Err(ReadError::Cut(error));
        }
        let bad = |reason: String| Error::BadSource { path: path.clone(), reason };
        let method = method.map_err(|error| bad(error.to_string()))?;
        if tee.count != size {
            return Err(bad("something follows its nar".to_owned()).into());
        }
        let Some(method) = method else { return Ok(None) };
        let body = tee
            .to
            .finish()
            .and_then(Sink::finish)
            .map_err(|error| Error::io(format!("the source {path}"), error))?;
        Ok(Some(Self {
            path: path.clone(),
            nar_hash: tee.hash.clone().finish(),
            export_hash: export_hash(tee.hash, path, references_of(&method), None),
            nar_size: size,
            method,
            body,
        }))
    }

    /// Gives its file a place, if it has one.
    ///
    /// # Errors
    /// When there is no room for it, or it cannot be put.
    pub(super) fn place(&mut self, farm: &Farm) -> Result<(), Error> {
        let Body::File(temporary) = &self.body else { return Ok(()) };
        let placed = farm.put(&temporary.path, &self.path, Compression::Zstd)?;
        self.body = Body::Placed(placed);
        Ok(())
    }

    /// Its path in the store.
    pub(super) fn path(&self) -> &StorePath {
        &self.path
    }

    /// Whether it refers to nothing.
    pub(super) fn is_plain(&self) -> bool {
        references_of(&self.method).is_empty()
    }

    /// The bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        match &self.body {
            Body::Small(bytes) => bytes.len(),
            Body::File(_) | Body::Placed(_) => 0,
        }
    }
}

impl Body {
    /// That of a nar in memory.
    fn of(storage: &Storage, press: &mut Press, nar: &[u8]) -> io::Result<Self> {
        let mut sink = Sink { storage, small: Vec::new(), file: None };
        if nar.len() as u64 <= IN_ONE_PIECE {
            sink.write_all(press.press(nar)?)?;
            return sink.finish();
        }
        let mut encoder = zstd::Encoder::new(sink, LEVEL)?;
        encoder.write_all(nar)?;
        encoder.finish()?.finish()
    }
}

pub(super) fn references_of(method: &Method) -> &[StorePath] {
    match method {
        Method::Text { references } => references,
        Method::Recursive | Method::Flat => &[],
    }
}

fn unfit(path: &StorePath) -> Error {
    Error::BadSource { path: path.clone(), reason: "its contents do not belong to its name".to_owned() }
}

/// Why there is no source.
#[derive(Debug)]
pub(super) enum ReadError {
    /// What it was read from failed.
    Cut(io::Error),
    /// Something else.
    Refused(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The store paths that are written out in these bytes, each once, sorted.
fn named(bytes: &[u8]) -> Vec<StorePath> {
    const PREFIX: &[u8] = b"/gnu/store/";
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| *byte == b'/') {
        rest = &rest[start..];
        let Some(after) = rest.strip_prefix(PREFIX) else {
            rest = &rest[1..];
            continue;
        };
        rest = after;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
        let end = rest.iter().position(|byte| !is_name(byte)).unwrap_or(rest.len());
        let digits = rest.iter().take(32).all(|byte| base32::is_digit(*byte));
        let base = std::str::from_utf8(&rest[..end.min(255)]).ok().filter(|_| digits);
        found.extend(base.and_then(|base| StorePath::parse_base(base).ok()));
        rest = &rest[end..];
        if found.len() >= REFERENCES {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Hashes and compresses what is read through it.
struct Tee<'s, R> {
    from: R,
    hash: Sha256,
    count: u64,
    to: zstd::Encoder<'static, Sink<'s>>,
    cut: Option<io::Error>,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        let n = match self.from.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let told = copy(&error);
                self.cut = Some(error);
                return Err(told);
            }
        };
        self.hash.update(&buffer[..n]);
        self.count += n as u64;
        if let Err(error) = self.to.write_all(&buffer[..n]) {
            let told = copy(&error);
            self.failed = Some(error);
            return Err(told);
        }
        Ok(n)
    }
}

/// Keeps bytes in memory until there are many, and then in a file.
struct Sink<'s> {
    storage: &'s Storage,
    small: Vec<u8>,
    file: Option<(TemporaryFile, File)>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.small.len() + bytes.len() > SMALL {
            let path = self.storage.fresh_upload();
            let mut file = File::create_new(&path)?;
            let temporary = TemporaryFile { path };
            file.write_all(&self.small)?;
            self.file = Some((temporary, file));
            self.small = Vec::new();
        }
        match &mut self.file {
            Some((_, file)) => file.write_all(bytes)?,
            None => self.small.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink<'_> {
    fn finish(self) -> io::Result<Body> {
        match self.file {
            Some((temporary, file)) => {
                file.sync_all()?;
                Ok(Body::File(temporary))
            }
            None => Ok(Body::Small(self.small)),
        }
    }
}

/// A file that goes, if it is still there: it may have got a place.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    pub(super) path: PathBuf,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove a file that is not needed");
        }
    }
}

/// How a source gets into a store, as the database has it.
pub(super) fn word(method: &Method) -> &'static str {
    match method {
        Method::Text { .. } => "text",
        Method::Recursive => "recursive",
        Method::Flat => "flat",
    }
}

/// Whether a source is here.
pub(super) fn is_held(sql: &rusqlite::Connection, id: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1 AND kind = 'source'")?.exists([id])?)
}

/// Keeps a source whose file has its place; its number, and whether it is new.
///
/// # Errors
/// When the database cannot be written.
pub(super) fn keep(tx: &mut Tx<'_>, new: &NewSource) -> Result<(i64, bool), Error> {
    let (id, unnamed) = paths::new_number(tx, &new.path, Provided::Held)?;
    if unnamed {
        // Nothing can need what nobody has named.
        insert(tx, id, new)?;
        return Ok((id, true));
    }
    if is_held(tx, id)? {
        return Ok((id, false));
    }
    let is_output = tx
        .prepare_cached("UPDATE items SET kind = 'source', method = ?2 WHERE path = ?1")?
        .execute((id, word(&new.method)))?;
    if is_output > 0 {
        retention::rescue(tx, id)?;
    } else {
        insert(tx, id, new)?;
        depend::provide(tx, id, Provided::Held)?;
    }
    came(tx, id)?;
    Ok((id, true))
}

/// A source is here that was not: what lacked it goes on.
///
/// # Errors
/// When the database cannot be written.
pub(super) fn came(tx: &mut Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM missing_sources WHERE path = ?1")?.execute([id])?;
    need_references(tx, id)?;
    depend::source_came(tx, id)
}

/// These sources, and what those of them that are here refer to, each once.
pub(super) fn with_references(sql: &rusqlite::Connection, sources: Vec<i64>) -> Result<Vec<i64>, Error> {
    let references = "SELECT reference FROM item_references WHERE item = ?1";
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    let mut open = sources;
    while let Some(source) = open.pop() {
        if seen.insert(source) {
            all.push(source);
            if is_held(sql, source)? {
                open.extend(paths::numbers(sql, references, source)?);
            }
        }
    }
    Ok(all)
}

/// A text cannot be added to a store before what it refers to: the derivations that name it need that, too. They
/// lack at least the source itself until [`depend::source_came`].
fn need_references(tx: &Tx<'_>, source: i64) -> Result<(), Error> {
    for reference in with_references(tx, vec![source])? {
        let derivations = {
            let mut insert = tx.prepare_cached(
                "INSERT OR IGNORE INTO derivation_sources \
                 SELECT derivation, ?2 FROM derivation_sources WHERE path = ?1 RETURNING derivation",
            )?;
            let rows = insert.query_map([source, reference], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<i64>>>()?
        };
        if !is_held(tx, reference)? && !derivations.is_empty() {
            tx.prepare_cached("INSERT OR IGNORE INTO missing_sources VALUES (?1)")?.execute([reference])?;
            for derivation in derivations {
                tx.prepare_cached("UPDATE derivations SET lacking = lacking + 1 WHERE id = ?1")?
                    .execute([derivation])?;
            }
        }
    }
    Ok(())
}

fn insert(tx: &Tx<'_>, id: i64, new: &NewSource) -> Result<(), Error> {
    let file_size = match &new.body {
        Body::Small(bytes) => {
            tx.prepare_cached("INSERT INTO contents VALUES (?1, ?2)")?.execute((id, bytes))?;
            bytes.len() as u64
        }
        Body::Placed(placed) => {
            files::add(tx, id, &placed.file)?;
            placed.file.size
        }
        Body::File(_) => return Err(Error::Damaged(format!("the source {} has no place", new.path))),
    };
    tx.prepare_cached("INSERT INTO items VALUES (?1, 'source', ?2, ?3, ?4, ?5, NULL, ?6, ?7)")?.execute((
        id,
        word(&new.method),
        new.nar_hash.as_bytes(),
        sql(new.nar_size),
        sql(file_size),
        new.export_hash.as_bytes(),
        sql(now()),
    ))?;
    if let Method::Text { references } = &new.method {
        for reference in references {
            let reference = paths::number(tx, reference)?;
            tx.prepare_cached("INSERT INTO item_references VALUES (?1, ?2)")?.execute([id, reference])?;
        }
    }
    Ok(())
}

/// What a text may refer to that names these: the sources among them that are here; or all but the outputs of
/// derivations, for a text that comes before what it refers to, which nobody may have.
pub(super) fn guesses(
    sql: &rusqlite::Connection,
    named: Vec<StorePath>,
) -> Result<Vec<Vec<StorePath>>, Error> {
    let (mut held, mut others) = (Vec::new(), Vec::new());
    for path in named {
        let (is_held, is_output) = match paths::find(sql, &path)? {
            Some(id) => (is_held(sql, id)?, is_output(sql, id)?),
            None => (false, false),
        };
        if is_held {
            held.push(path.clone());
        }
        if !is_output {
            others.push(path);
        }
    }
    Ok(if held == others { vec![held] } else { vec![held, others] })
}

/// Whether a derivation that is here makes this path.
fn is_output(sql: &rusqlite::Connection, id: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM derivation_outputs WHERE path = ?1")?.exists([id])?)
}

/// The plain nar of a held source, as a stream with the bytes that it has.
pub(super) fn open(
    farm: &Farm,
    path: &StorePath,
    small: Option<Vec<u8>>,
) -> Result<Box<dyn Read + Send>, Error> {
    if let Some(nar) = small {
        return Ok(Box::new(io::Cursor::new(nar)));
    }
    let found = farm.database.read_blocking::<_, Error>(|sql| match paths::find(sql, path)? {
        Some(id) => files::of(sql, id),
        None => Ok(Vec::new()),
    })?;
    // What was imported may be here in any other compression, and in none else.
    let file = found.iter().find(|file| file.compression == Compression::Zstd).or(found.first());
    let file = file.ok_or_else(|| Error::NotFound { what: "nar of", name: path.to_string() })?;
    let compressed = farm.open_file(file, 0..file.size)?.reader(file.size);
    let failed = |error| Error::io(format!("read the nar of {path}"), error);
    Ok(Box::new(Plain::new(file.compression, compressed).map_err(failed)?))
}
