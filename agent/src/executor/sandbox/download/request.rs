//! What a derivation wants to have downloaded.

use std::fmt::Display;

use drover_store::derivation::{Derivation, Fixed};
use drover_store::{Sha256Hash, StorePath};

use super::datum::Datum;

/// The one algorithm that is known here; Guix's packages have no other.
const ALGORITHM: &str = "sha256";
/// How addresses begin that stand for several.
const MIRROR: &str = "mirror://";
/// The most addresses that a download may have, and the most bytes of all of them: a list of mirrors' addresses and a
/// table multiply.
const ADDRESSES_MAX: usize = 1000;
const ADDRESS_BYTES_MAX: usize = 4 << 20;

/// Why a derivation does not say what is to be downloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Downloads are for outputs whose content is known.
    #[error(
        "builtin:download is for a derivation with one output whose content is fixed by a hash, and this one has none"
    )]
    NotFixed,
    /// A hash that cannot be checked here.
    #[error(
        "the output is fixed by its {0}, and this agent's sandbox knows {ALGORITHM} only: use an agent with a guix-daemon"
    )]
    Algorithm(String),
    /// There is no variable `url`.
    #[error("builtin:download needs the variable 'url', which the derivation does not have")]
    NoUrl,
    /// A variable that cannot be read.
    #[error("read the variable '{variable}' of builtin:download as Scheme wrote it: {problem}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// An address of this machine's own files.
    #[error("builtin:download does not read files of this machine: '{0}'")]
    Local(String),
    /// More than would ever be asked.
    #[error(
        "the derivation has more than {ADDRESSES_MAX} addresses to download from, or more than {ADDRESS_BYTES_MAX} bytes \
         of addresses"
    )]
    TooMany,
    /// The table of mirrors cannot be read.
    #[error("read the table of mirrors {path}: {problem}")]
    Mirrors {
        /// The store item.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// What is to be downloaded: one file, whose content is known by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where it may be, in the order in which to ask, after the farm itself.
    pub(crate) urls: Vec<String>,
    /// Where to ask for it by its hash after that: what addresses begin with. One whose last part is `file` is asked as
    /// `…/file/NAME/sha256/HASH`, as farms and `guix publish` want it, others as `…/sha256/HASH`.
    pub(crate) mirrors: Vec<String>,
    /// Whether the derivation lets it be had by its hash, from whomever.
    pub(crate) by_hash: bool,
    /// The name of the output, without the hash of its path.
    pub(crate) name: String,
    /// The hash of the output.
    pub(crate) hash: Sha256Hash,
    /// Whether that is over the nar, and not the file.
    pub(crate) recursive: bool,
    /// Whether the file is to be executable.
    pub(crate) executable: bool,
    /// The most bytes that it may have.
    pub(crate) size_max: u64,
}

impl Request {
    /// What a derivation wants, which may also be had from `mirrors`. `read` reads a store item that is a file.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) fn of<E: Display>(
        derivation: &Derivation,
        mirrors: &[String],
        read: impl Fn(&StorePath) -> Result<Vec<u8>, E>,
    ) -> Result<Self, RequestError> {
        let (output, fixed) = derivation.fixed().ok_or(RequestError::NotFixed)?;
        let hash = hash_of(fixed)?;
        let url = derivation.env(b"url").ok_or(RequestError::NoUrl)?;
        let mut urls = strings("url", url)?;
        for url in &urls {
            // The daemon does not even begin then; a text without a scheme is a local file's name to Guix.
            if url.starts_with("file:") || !has_scheme(url) {
                return Err(RequestError::Local(url.clone()));
            }
        }
        let is_mirror = |url: &String| url.starts_with(MIRROR);
        let table = if urls.iter().any(is_mirror) { table_of(derivation, read)? } else { Table::new() };
        urls = expand_all(urls, &table)?;
        let (mut mirrors, mut by_hash) = (mirrors.to_vec(), true);
        if let Some(methods) = derivation.env(b"download-methods") {
            let methods = words("download-methods", methods)?;
            let enabled = |method: &str| methods.iter().any(|word| word == method);
            urls.retain(|_| enabled("upstream"));
            by_hash = enabled("content-addressed-mirrors");
            mirrors.retain(|_| by_hash);
        }
        Ok(Self {
            urls,
            mirrors,
            by_hash,
            name: output.path.name().to_owned(),
            hash,
            recursive: fixed.recursive,
            executable: derivation.env(b"executable") == Some(b"1"),
            size_max: u64::MAX,
        })
    }

    /// Whether there is a hash to ask for it by: of a nar's hash nobody knows the file.
    pub(super) fn is_by_hash(&self) -> bool {
        self.by_hash && !self.recursive
    }

    /// All addresses, in the order in which to ask.
    pub(super) fn addresses(&self) -> Vec<String> {
        let mut addresses = self.urls.clone();
        if self.is_by_hash() {
            addresses.extend(self.mirrors.iter().map(|mirror| self.at_mirror(mirror)));
        }
        addresses
    }

    fn at_mirror(&self, mirror: &str) -> String {
        let mirror = mirror.trim_end_matches('/');
        let hash = self.hash.base32();
        if mirror.ends_with("/file") {
            // Of all characters of names, only this one means something in an address.
            format!("{mirror}/{}/{ALGORITHM}/{hash}", self.name.replace('?', "%3F"))
        } else {
            format!("{mirror}/{ALGORITHM}/{hash}")
        }
    }
}

fn hash_of(fixed: &Fixed) -> Result<Sha256Hash, RequestError> {
    let bytes = <[u8; 32]>::try_from(fixed.hash.as_slice()).ok().filter(|_| fixed.algorithm == ALGORITHM);
    bytes.map(Sha256Hash::from_bytes).ok_or_else(|| RequestError::Algorithm(fixed.algorithm.clone()))
}

fn has_scheme(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// The strings of a variable that is one, or a list of them.
fn strings(variable: &'static str, text: &[u8]) -> Result<Vec<String>, RequestError> {
    let items = match parse(variable, text)? {
        Datum::List(items) => items,
        one => vec![one],
    };
    let strings = items.into_iter().map(|item| match item {
        Datum::Text(string) => Some(string),
        _ => None,
    });
    let strings: Option<Vec<String>> = strings.collect();
    strings.filter(|strings| !strings.is_empty()).ok_or_else(|| {
        let problem = "it is neither a string nor a list of strings".to_owned();
        RequestError::Variable { variable, problem }
    })
}

/// The symbols of a variable that is a list of them.
fn words(variable: &'static str, text: &[u8]) -> Result<Vec<String>, RequestError> {
    match parse(variable, text)? {
        Datum::List(items) => Ok(items
            .into_iter()
            .filter_map(|item| match item {
                Datum::Symbol(word) => Some(word),
                _ => None,
            })
            .collect()),
        _ => Err(RequestError::Variable { variable, problem: "it is no list".to_owned() }),
    }
}

fn parse(variable: &'static str, text: &[u8]) -> Result<Datum, RequestError> {
    Datum::parse(text).map_err(|error| RequestError::Variable { variable, problem: error.to_string() })
}

/// For each name the addresses that it stands for.
type Table = Vec<(String, Vec<String>)>;

/// The table that the derivation names; none if it names none.
fn table_of<E: Display>(
    derivation: &Derivation,
    read: impl Fn(&StorePath) -> Result<Vec<u8>, E>,
) -> Result<Table, RequestError> {
    let Some(name) = derivation.env(b"mirrors") else { return Ok(Table::new()) };
    let name = String::from_utf8_lossy(name).into_owned();
    let failed = |problem: String| RequestError::Mirrors { path: name.clone(), problem };
    let path = StorePath::parse(&name).map_err(|error| failed(error.to_string()))?;
    if !derivation.sources.contains(&path) {
        return Err(failed("it is not among the derivation's sources".to_owned()));
    }
    let text = read(&path).map_err(|error| failed(error.to_string()))?;
    let datum = Datum::parse(&text).map_err(|error| failed(error.to_string()))?;
    entries(datum).ok_or_else(|| failed("it is no list of names with their addresses".to_owned()))
}

fn entries(table: Datum) -> Option<Table> {
    let Datum::List(entries) = table else { return None };
    let entry = |entry| {
        let Datum::List(items) = entry else { return None };
        let mut items = items.into_iter();
        let Some(Datum::Symbol(name)) = items.next() else { return None };
        // Some have procedures in the place of an address in other versions of Guix: these are nothing here.
        let texts = items.filter_map(|item| match item {
            Datum::Text(text) => Some(text),
            _ => None,
        });
        Some((name, texts.collect()))
    };
    entries.into_iter().map(entry).collect()
}

/// What all these addresses stand for, unless that is too much.
fn expand_all(urls: Vec<String>, table: &Table) -> Result<Vec<String>, RequestError> {
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    for url in urls {
        for address in expand(url, table) {
            bytes = bytes.saturating_add(address.len());
            if all.len() >= ADDRESSES_MAX || bytes > ADDRESS_BYTES_MAX {
                return Err(RequestError::TooMany);
            }
            all.push(address);
        }
    }
    Ok(all)
}

/// What an address stands for; itself if it is not one of a mirror, or of one that the table does not have.
fn expand(url: String, table: &Table) -> impl Iterator<Item = String> {
    let bases = url.strip_prefix(MIRROR).and_then(|rest| {
        let (name, _) = rest.split_once('/')?;
        table.iter().find(|(known, _)| known == name).map(|(name, bases)| (name.len(), bases))
    });
    let itself = bases.is_none().then(|| url.clone());
    let mirrors = bases.into_iter().flat_map(move |(name, bases)| {
        let path = url.get(MIRROR.len() + name..).unwrap_or_default().trim_start_matches('/').to_owned();
        bases.iter().map(move |base| format!("{}/{path}", base.trim_end_matches('/')))
    });
    itself.into_iter().chain(mirrors)
}
