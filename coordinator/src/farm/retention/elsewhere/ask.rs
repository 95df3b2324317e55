//! Whether another server verifiably has an item: its narinfo is signed by a key that we trust, speaks of the same nar,
//! and the nar is there.

use std::time::Duration;

use drover_store::key::{Acl, PublicKey};
use drover_store::narinfo::{self, NarInfo};
use drover_store::{Compression, Sha256Hash, StorePath};
use drover_tls::Trust;
use drover_wire::LEAVING_HEADER;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use ureq::http::{HeaderMap, HeaderName};

use crate::config::{Config, ConfigError, ElsewhereConfig};
use crate::farm::import::stays_below;
use crate::web;

/// The most bytes of a narinfo that are looked at.
const NARINFO_LIMIT: u64 = 1 << 20;

/// The servers that may have things in our stead.
#[derive(Debug)]
pub(in crate::farm) struct Elsewhere {
    servers: Vec<String>,
    keys: Acl,
    agent: ureq::Agent,
}

/// An item that a server verifiably has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) server: String,
    /// Where its nar can be had; at least one.
    pub(super) nars: Vec<Nar>,
    /// Whether its contents can be had by their hash.
    pub(super) file: bool,
}

/// A nar at another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nar {
    pub(super) compression: Compression,
    /// Its whole address.
    pub(super) url: String,
    /// Its bytes, if they were said.
    pub(super) size: Option<u64>,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Has(Found),
    /// It does not have it, or another nar of that name.
    HasNot(String),
    /// What it says is signed by nobody whom we trust.
    Untrusted(String),
}

/// Why a server did not say whether it has something.
#[derive(Debug, thiserror::Error)]
#[error("the server {server} did not say whether it has {path}: {reason}")]
pub(super) struct AskError {
    server: String,
    path: StorePath,
    reason: String,
}

/// What came of one question.
enum Reply {
    There { size: Option<u64> },
    NotThere(String),
}

impl Elsewhere {
    /// Those of the configuration, with their keys.
    ///
    /// # Errors
    /// When a file has no keys in it.
    pub(in crate::farm) fn new(config: &Config) -> Result<Self, ConfigError> {
        let ElsewhereConfig { servers, keys, .. } = &config.retention.elsewhere;
        // For clients that have no trust of their own. An error when somebody has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let limit = Duration::from_secs(config.substitute_seconds.max(1));
        // One that sends us on does not have it itself; it might send us back here.
        let settings = web::settings().timeout_global(Some(limit)).max_redirects(0);
        Ok(Self {
            servers: servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect(),
            keys: read_keys(keys)?,
            agent: web::client(settings, Trust::System),
        })
    }

    /// The servers, in the order of the configuration.
    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Asks a server whether it has the same item; `file`: the hash of its contents, if they are one file that is fixed.
    /// Blocks.
    pub(super) fn ask(
        &self,
        server: &str,
        ours: &NarInfo,
        file: Option<&Sha256Hash>,
    ) -> Result<Answer, AskError> {
        let path = &ours.store_path;
        let failed = |reason: String| AskError { server: server.to_owned(), path: path.clone(), reason };
        let url = format!("{server}/{}.narinfo", path.hash_part());
        let mut answer = self.agent.get(&url).call().map_err(|error| failed(web::words(&error)))?;
        match answer.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(Answer::HasNot("it has no narinfo of it".to_owned())),
            status => return Err(failed(format!("it answered {status}"))),
        }
        let body = answer.body_mut().with_config().limit(NARINFO_LIMIT).read_to_vec();
        let body = body.map_err(|error| failed(error.to_string()))?;
        let theirs = NarInfo::parse(&body).map_err(|error| failed(error.to_string()))?;
        // Ours has a signature of its own: what matters is whether theirs may be believed.
        if let Err(error) = theirs.verify(&self.keys) {
            return Ok(Answer::Untrusted(error.to_string()));
        }
        if let Some(difference) = difference(ours, &theirs) {
            return Ok(Answer::HasNot(format!("what it has is something else: its {difference} is another")));
        }
        let mut nars: Vec<Nar> = Vec::new();
        let mut absent = "its narinfo names no nar that is known here".to_owned();
        for url in &theirs.urls {
            let Some(nar) = nar(server, url) else { continue };
            if nars.iter().any(|known| known.compression == nar.compression) {
                continue;
            }
            match self.look(&nar.url, nar.size).map_err(failed)? {
                Reply::There { size } => nars.push(Nar { size: nar.size.or(size), ..nar }),
                Reply::NotThere(why) => absent = format!("{}: {why}", nar.url),
            }
        }
        if nars.is_empty() {
            return Ok(Answer::HasNot(absent));
        }
        let file = file.is_some_and(|hash| {
            let there = self.look(&file_url(server, path, hash), None);
            matches!(there, Ok(Reply::There { .. }))
        });
        Ok(Answer::Has(Found { server: server.to_owned(), nars, file }))
    }

    /// Whether something is at an address, with this length if it was said.
    fn look(&self, url: &str, said: Option<u64>) -> Result<Reply, String> {
        let head = self.agent.head(url).call().map_err(|error| web::words(&error))?;
        let (status, headers) = match head.status().as_u16() {
            200 => (200, head.headers().clone()),
            // Not every server knows the question: its first byte will do, and nothing more is read.
            _ => {
                let part = self.agent.get(url).header(RANGE, "bytes=0-0").call();
                let part = part.map_err(|error| web::words(&error))?;
                (part.status().as_u16(), part.headers().clone())
            }
        };
        let size = match status {
            200 => number(&headers, &CONTENT_LENGTH, |value| Some(value)),
            206 => number(&headers, &CONTENT_RANGE, |value| value.rsplit_once('/').map(|(_, size)| size)),
            300..400 => return Ok(Reply::NotThere("it is sent on from there".to_owned())),
            404 | 410 => return Ok(Reply::NotThere("there is nothing".to_owned())),
            status => return Err(format!("{url} answered {status}")),
        };
        if headers.contains_key(LEAVING_HEADER) {
            return Ok(Reply::NotThere("it is about to go from there".to_owned()));
        }
        match (said, size) {
            (Some(said), Some(size)) if said != size => {
                Ok(Reply::NotThere(format!("it has {size} bytes, and {said} were said")))
            }
            (Some(said), None) => {
                Ok(Reply::NotThere(format!("{said} bytes were said, and it does not say how many it has")))
            }
            (_, size) => Ok(Reply::There { size }),
        }
    }
}

/// Where a server has the contents of a fixed output, if it has them by their hash as `guix publish` does.
pub(in crate::farm) fn file_url(server: &str, path: &StorePath, hash: &Sha256Hash) -> String {
    format!("{server}/file/{}/sha256/{}", path.name().replace('?', "%3F"), hash.base32())
}

/// A nar that a narinfo names, if it is below the server's own address.
fn nar(server: &str, url: &narinfo::Url) -> Option<Nar> {
    let compression = url.compression.parse().ok()?;
    let below = url.url.strip_prefix(server).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&url.url);
    stays_below(below).then(|| Nar { compression, url: format!("{server}/{below}"), size: url.file_size })
}

/// What tells two narinfos of one item apart.
fn difference(ours: &NarInfo, theirs: &NarInfo) -> Option<&'static str> {
    let references = |info: &NarInfo| {
        let mut all = info.references.clone();
        all.sort_unstable();
        all.dedup();
        all
    };
    [
        ("StorePath", ours.store_path != theirs.store_path),
        ("NarHash", ours.nar_hash != theirs.nar_hash),
        ("NarSize", ours.nar_size != theirs.nar_size),
        ("References", references(ours) != references(theirs)),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

fn number(headers: &HeaderMap, name: &HeaderName, of: impl Fn(&str) -> Option<&str>) -> Option<u64> {
    of(headers.get(name)?.to_str().ok()?)?.trim().parse().ok()
}

fn read_keys(files: &[std::path::PathBuf]) -> Result<Acl, ConfigError> {
    let mut keys = Vec::new();
    for path in files {
        let bad = |reason: String| ConfigError::Keys { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        match PublicKey::parse(&text) {
            Ok(key) => keys.push(key),
            Err(error) => {
                // Where both fail, a list says less about a file that has one key.
                let is_list = text.trim_start().starts_with("(acl");
                let list = Acl::parse(&text)
                    .map_err(|of_list| bad(if is_list { of_list } else { error }.to_string()))?;
                if list.keys().is_empty() {
                    return Err(bad("it is a list without a key".to_owned()));
                }
                keys.extend(list.keys().iter().copied());
            }
        }
    }
    Ok(keys.into_iter().collect())
}
