//! A substitute server: what it offers.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_store::compression::Compression;
use drover_store::key::Acl;
use drover_store::narinfo::{self, NarInfo};
use drover_store::path::StorePath;

use crate::executor::sandbox::Stopping;
use crate::http::{Client, Remote};
use crate::store::Item;

/// The compressions that the agent can read, those it likes best first.
const READABLE: [Compression; 2] = [Compression::Zstd, Compression::None];

/// Where a nar is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The address.
    pub(super) url: String,
    /// How it is compressed.
    pub(super) compression: Compression,
}

/// A server by its address.
pub(super) struct Server<'a> {
    client: &'a Client,
    /// Without a slash at the end.
    url: &'a str,
    keys: &'a Acl,
    stop: &'a Stopping,
    /// It could not be reached, several times in a row, and is not asked again: each time would be a long wait.
    is_away: AtomicBool,
}

impl<'a> Server<'a> {
    pub(super) fn new(client: &'a Client, url: &'a str, keys: &'a Acl, stop: &'a Stopping) -> Self {
        let url = url.trim_end_matches('/');
        Self { client, url, keys, stop, is_away: AtomicBool::new(false) }
    }

    /// What it has under a path, if a trusted key vouches for it: the item, and where its nar can be had. None: nothing.
    ///
    /// # Errors
    /// One sentence, when it has something that is no use, or cannot be asked.
    pub(super) fn offer(&self, path: &StorePath) -> Result<Option<(Item, Vec<Source>)>, String> {
        let said = |why: &dyn std::fmt::Display| format!("{}: {why}", self.url);
        let Some(text) = self.narinfo(path)? else { return Ok(None) };
        let info = NarInfo::parse(&text).map_err(|error| said(&error))?;
        if info.store_path != *path {
            return Err(said(&format!("it answers with {}", info.store_path)));
        }
        info.verify(self.keys).map_err(|error| match &error {
            narinfo::Error::Signature(drover_store::key::Error::Unauthorized(key)) => said(&format!(
                "its key {key} is not among those whose items this agent takes; see --authorized-keys"
            )),
            _ => said(&error),
        })?;
        let sources = self.sources(&info);
        if sources.is_empty() {
            let offered: Vec<_> = info.urls.iter().map(|url| url.compression.as_str()).collect();
            return Err(said(&format!(
                "it has it as {} only, and this agent reads zstd and none",
                if offered.is_empty() { "nothing".to_owned() } else { offered.join(" and ") }
            )));
        }
        let mut references = info.references;
        references.sort_unstable();
        references.dedup();
        let (path, deriver) = (info.store_path, info.deriver);
        Ok(Some((
            Item { path, nar_hash: info.nar_hash, nar_size: info.nar_size, references, deriver },
            sources,
        )))
    }

    /// The text that it has about a path.
    fn narinfo(&self, path: &StorePath) -> Result<Option<Vec<u8>>, String> {
        if self.is_away.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let url = format!("{}/{}.narinfo", self.url, path.hash_part());
        let said = |why: &dyn std::fmt::Display| format!("{}: {why}", self.url);
        let remote = match Remote::open_with_patience(self.client, &url, self.stop.as_fd()) {
            Ok(remote) => remote,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => {
                if error.is_of_the_server() && !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "the substitute server {} is not asked any more for this build: {error}",
                        self.url
                    );
                }
                return Err(said(&error));
            }
        };
        let mut text = Vec::new();
        // One byte more than is read, so that too much of it shows.
        let most = narinfo::SIZE_MAX as u64 + 1;
        remote.take(most).read_to_end(&mut text).map_err(|error| said(&error))?;
        Ok(Some(text))
    }

    /// Where the nar can be had in a form that can be read, the best first.
    fn sources(&self, info: &NarInfo) -> Vec<Source> {
        let sources = info.urls.iter().filter_map(|url| {
            let compression = url.compression.parse().ok().filter(|one| READABLE.contains(one))?;
            Some(Source { url: self.address(&url.url), compression })
        });
        let mut sources: Vec<_> = sources.collect();
        sources.sort_by_key(|source| std::cmp::Reverse(source.compression));
        sources
    }

    /// An address that stands in a narinfo.
    fn address(&self, url: &str) -> String {
        if url.contains("://") {
            return url.to_owned();
        }
        match url.strip_prefix('/') {
            Some(path) => format!("{}/{path}", origin(self.url)),
            None => format!("{}/{url}", self.url),
        }
    }
}

/// Scheme, host and port of an address.
pub(super) fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |place| place + "://".len());
    let end = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |place| host + place);
    url.get(..end).unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_tls::Trust;

    #[test]
    fn addresses_of_nars_are_relative_to_their_server() {
        let (client, keys, stop) =
            (Client::new(&Trust::System, super::super::PATIENCE), Acl::default(), Stopping::new().unwrap());
        let server = Server::new(&client, "https://farm.example:8000/guix/", &keys, &stop);
        for (url, address) in [
            ("nar/zstd/x", "https://farm.example:8000/guix/nar/zstd/x"),
            ("/nar/x", "https://farm.example:8000/nar/x"),
            ("http://elsewhere/x", "http://elsewhere/x"),
        ] {
            assert_eq!(server.address(url), address);
        }
    }
}
