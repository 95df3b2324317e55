//! Narinfos as they are served: made and signed outside of the database's thread, completed in it.

use drover_store::derivation::Derivation;
use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Signed, Url};
use drover_store::{Compression, Sha256Hash, StorePath};
use rusqlite::{Connection, OptionalExtension};

use crate::database::narinfos;
use crate::farm::error::Error;
use crate::farm::{files, intake, outputs, paths, unsql};

/// The text of a narinfo as the database has it.
pub(in crate::farm) fn packed(text: &str) -> Vec<u8> {
    narinfos::pack(text)
}

/// The text of a narinfo, from what the database has.
pub(in crate::farm) fn text(packed: Vec<u8>) -> Result<String, Error> {
    let damaged = || Error::Damaged("what is published of an item cannot be read".to_owned());
    narinfos::text(packed).ok_or_else(damaged)
}

/// The text of a narinfo as it is sent. Not every Guix knows zstd: those that do not can have the nar uncompressed, which
/// is done on its way out. Every one knows the others.
/// `elsewhere`: what it names is another server's, and cannot be unpacked here.
pub(in crate::farm) fn served(packed: Vec<u8>, elsewhere: bool) -> Result<String, Error> {
    let mut text = text(packed)?;
    if elsewhere {
        return Ok(text);
    }
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let mut compressions = text.lines().filter_map(|line| line.strip_prefix("Compression: "));
    let plain = match (value("StorePath: /gnu/store/"), value("NarSize: ")) {
        (Some(base), Some(size)) if compressions.all(|word| word == Compression::Zstd.word()) => {
            let base = base.replace('?', "%3F");
            format!("URL: nar/none/{base}\nCompression: none\nFileSize: {size}\n")
        }
        _ => return Ok(text),
    };
    text.push_str(&plain);
    Ok(text)
}

/// What is known of an item before it is signed.
pub(super) struct Unsigned {
    pub(super) info: NarInfo,
    item: i64,
    never: Option<String>,
}

/// A narinfo that is signed; where its nar can be had is added when it is published.
#[derive(Debug)]
pub(super) struct Draft {
    item: i64,
    info: NarInfo,
    /// The key of ours that signed it; none: somebody else's did.
    pub(super) key: Option<i64>,
    /// Why its derivation does not let it be published.
    pub(super) never: Option<String>,
}

/// What is to be signed of an item; none if it is not held.
pub(super) fn unsigned(sql: &Connection, item: i64) -> Result<Option<Unsigned>, Error> {
    type Columns = (Sha256Hash, i64, Option<i64>);
    let columns: Option<Columns> = sql
        .prepare_cached("SELECT nar_hash, nar_size, deriver FROM items WHERE path = ?1")?
        .query_row([item], |row| Ok((paths::hash(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((nar_hash, nar_size, deriver)) = columns else { return Ok(None) };
    let store_path = paths::path(sql, item)?;
    let never = match deriver {
        _ if store_path.is_derivation() => Some("it is a derivation".to_owned()),
        Some(deriver) => forbidden(sql, deriver)?,
        // A source that a derivation makes as well.
        None => newest_maker(sql, item)?.map_or(Ok(None), |maker| forbidden(sql, maker))?,
    };
    let info = NarInfo {
        urls: Vec::new(),
        nar_hash,
        nar_size: unsql(nar_size),
        references: outputs::references(sql, item)?,
        deriver: deriver.map(|deriver| paths::path(sql, deriver)).transpose()?,
        system: deriver.map(|deriver| system(sql, deriver)).transpose()?.flatten(),
        signature: None,
        store_path,
    };
    Ok(Some(Unsigned { info, item, never }))
}

fn system(sql: &Connection, derivation: i64) -> Result<Option<String>, Error> {
    let select = "SELECT p.name FROM derivations d JOIN platforms p ON p.id = d.system WHERE d.id = ?1";
    Ok(sql.prepare_cached(select)?.query_row([derivation], |row| row.get(0)).optional()?)
}

fn newest_maker(sql: &Connection, item: i64) -> Result<Option<i64>, Error> {
    let select = "SELECT max(derivation) FROM derivation_outputs WHERE path = ?1";
    Ok(sql.prepare_cached(select)?.query_row([item], |row| row.get(0))?)
}

/// Why a derivation does not let its outputs be published.
fn forbidden(sql: &Connection, derivation: i64) -> Result<Option<String>, Error> {
    let Some(contents) = intake::contents(sql, derivation)? else { return Ok(None) };
    let path = || -> Result<StorePath, Error> { paths::path(sql, derivation) };
    let parsed = match Derivation::parse(&contents) {
        Ok(parsed) => parsed,
        Err(error) => return Err(Error::Damaged(format!("the text of {}: {error}", path()?))),
    };
    // The daemon takes an empty value as it takes none.
    let allowed = matches!(parsed.env(b"allowSubstitutes"), None | Some(b"" | b"1"));
    Ok(if allowed {
        None
    } else {
        Some(format!("its derivation {} forbids substitutes (allowSubstitutes)", path()?.base_name()))
    })
}

impl Unsigned {
    pub(super) fn sign(mut self, key: i64, secret: &SecretKey) -> Draft {
        self.info.sign(&host(), secret);
        Draft { item: self.item, info: self.info, key: Some(key), never: self.never }
    }
}

/// In whose name is signed. It is informative: the key counts.
pub(super) fn host() -> String {
    let name = drover_os::machine::host_name().unwrap_or_default();
    // It stands between semicolons on a line.
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    let name: String = name.chars().filter(|letter| plain(*letter)).collect();
    if name.is_empty() { "drover".to_owned() } else { name }
}

impl Draft {
    /// From a narinfo that somebody else signed, and that was checked.
    pub(super) fn foreign(sql: &Connection, item: i64, narinfo: &str) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadRequest(format!("the narinfo cannot be published: {reason}"));
        let mut info = NarInfo::parse(narinfo.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let path = paths::path(sql, item)?;
        if info.store_path != path {
            return Err(bad(format!("it is of {}, not of {path}", info.store_path)));
        }
        let Some(Signed { text, signature, .. }) = &info.signature else {
            return Err(bad("it is not signed".to_owned()));
        };
        // What we signed ourselves, before we lost it, is signed anew as all is that we sign.
        let key = sql
            .prepare_cached("SELECT id FROM keys WHERE public = ?1")?
            .query_row([signature.public().to_text()], |row| row.get(0))
            .optional()?;
        if text.lines().any(|line| line.starts_with("URL:")) {
            return Err(bad("it has URLs above its signature, and they are not ours".to_owned()));
        }
        info.urls.clear();
        let never = unsigned(sql, item)?.and_then(|unsigned| unsigned.never);
        Ok(Self { item, info, key, never })
    }

    /// Whether it is still what the item is.
    pub(super) fn fits(&self, sql: &Connection) -> bool {
        let select = "SELECT nar_hash FROM items WHERE path = ?1";
        let found = sql
            .prepare_cached(select)
            .and_then(|mut select| select.query_row([self.item], |row| paths::hash(row, 0)));
        found.is_ok_and(|hash| hash == self.info.nar_hash)
    }

    /// The whole text, with where the nar can be had now.
    pub(super) fn print(&self, sql: &Connection, item: i64) -> Result<String, Error> {
        let mut info = self.info.clone();
        info.urls = urls(sql, item, &info.store_path)?;
        Ok(info.print())
    }
}

/// Where a nar of an item is, relative to the narinfo.
pub(super) fn nar_url(compression: Compression, path: &StorePath) -> String {
    // All other letters that a name may have stand for themselves.
    format!("nar/{}/{}", compression.word(), path.base_name().replace('?', "%3F"))
}

/// Where the nar of an item can be had, relative to the narinfo.
pub(super) fn urls(sql: &Connection, item: i64, path: &StorePath) -> Result<Vec<Url>, Error> {
    let url = |compression: Compression, size: u64| Url {
        url: nar_url(compression, path),
        compression: compression.word().to_owned(),
        file_size: Some(size),
    };
    let files = files::of(sql, item)?;
    if !files.is_empty() {
        return Ok(files.iter().map(|file| url(file.compression, file.size)).collect());
    }
    let small: Option<i64> = sql
        .prepare_cached("SELECT length(bytes) FROM contents WHERE path = ?1")?
        .query_row([item], |row| row.get(0))
        .optional()?;
    match small {
        Some(size) => Ok(vec![url(Compression::Zstd, unsql(size))]),
        None => Err(Error::Damaged(format!("the nar of {path} is nowhere"))),
    }
}
