//! Items from substitute servers into the store, with what they refer to.
//!
//! What a server says of an item counts only if a trusted key has signed it. Whatever cannot be had is left out: the
//! build then ends with what is missing, as it does where nobody has a substitute.

mod search;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_os::machine::{self, Memory};
use drover_store::compression::Compression;
use drover_store::key::Acl;
use drover_store::path::StorePath;
use drover_tls::Trust;

use super::Stopping;
use super::import::arrivals::{Miss, Wanted, bring_in};
use super::import::nar::{Failure, receive};
use crate::decompress::Decompressors;
use crate::executor::Error;
use crate::http::{Client, Patience, Remote, RemoteError};
use crate::store::{Hold, Item, Received, Store};
use search::{Offer, search};
use server::{Server, Source, origin};

/// The largest window of a zstd-compressed nar, as a power of two: what `zstd --long=27` makes and can be read by default.
const WINDOW_LOG_LIMIT: u32 = 27;
/// The same where memory is short: several come at a time, and who sends them is not known. More than the usual levels of
/// zstd make, those up to 19.
const SMALL_WINDOW_LOG_LIMIT: u32 = 25;
/// Bytes of memory below which it is short.
const ENOUGH_MEMORY: u64 = 2 << 30;
const PATIENCE: Patience = Patience {
    resolve: Duration::from_secs(10),
    connect: Duration::from_secs(15),
    answer: Duration::from_secs(60),
    silence: Duration::from_secs(60),
};

/// Brings what the servers have of these paths into the store, with what they refer to; servers are asked in their order.
///
/// # Errors
/// When the store refuses, and [`Error::Away`] after a stop. What was placed before stays.
pub(super) fn substitute(
    store: &Store,
    hold: &mut Hold,
    keys: &Acl,
    servers: &[String],
    paths: &[StorePath],
    stop: &Stopping,
) -> Result<(), Error> {
    // Narinfos count by their signature, and nars by the hash in these, whoever sends them.
    let client = Client::new(&Trust::AnybodyForCheckedContents, PATIENCE);
    client.while_wanted(stop.as_fd(), || {
        let servers: Vec<Server<'_>> =
            servers.iter().map(|url| Server::new(&client, url, keys, stop)).collect();
        let offers = search(store, hold, &servers, paths, stop)?;
        let items: Vec<Item> = offers.iter().map(|offer| offer.item.clone()).collect();
        let decompressors = Decompressors::new(window_log_limit(machine::memory()));
        let away = Away::default();
        let obtain = |number: usize, wanted: Wanted<'_>| match offers.get(number) {
            Some(offer) => {
                let (client, decompressors, away) = (&client, &decompressors, &away);
                let fetch = Fetch { store, client, decompressors, away, stop, wanted };
                fetch.obtain(&servers, offer)
            }
            None => Err(Miss::LeftOut("nobody offers it".to_owned())),
        };
        bring_in(store, hold, &items, &obtain, stop)
    })
}

fn window_log_limit(memory: Option<Memory>) -> u32 {
    let is_short = memory.is_some_and(|memory| memory.total < ENOUGH_MEMORY);
    if is_short { SMALL_WINDOW_LOG_LIMIT } else { WINDOW_LOG_LIMIT }
}

/// The hosts of nars that did not answer, several times in a row, and are not asked again: each time would be a long
/// wait. Nars need not be where their narinfos are.
#[derive(Default)]
struct Away(Mutex<BTreeSet<String>>);

impl Away {
    fn hosts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, url: &str) -> bool {
        self.hosts().contains(origin(url))
    }

    fn note(&self, url: &str, error: &RemoteError) {
        let host = origin(url);
        if matches!(error, RemoteError::Unreachable(_)) && self.hosts().insert(host.to_owned()) {
            tracing::warn!("no more nars are fetched from {host} for this build: {error}");
        }
    }
}

/// What it takes to have an item.
struct Fetch<'a> {
    store: &'a Store,
    client: &'a Client,
    decompressors: &'a Decompressors,
    away: &'a Away,
    stop: &'a Stopping,
    wanted: Wanted<'a>,
}

impl Fetch<'_> {
    /// Takes it from the first server that has the nar that was offered.
    fn obtain(&self, servers: &[Server<'_>], offer: &Offer) -> Result<Received, Miss> {
        let item = &offer.item;
        let mut misses = Vec::new();
        for (number, server) in servers.iter().enumerate().skip(offer.server) {
            let sources = if number == offer.server {
                offer.sources.clone()
            } else {
                match server.offer(&item.path) {
                    Ok(Some((same, sources))) if same == *item => sources,
                    // Another build of it, with other references perhaps, or none.
                    Ok(_) => continue,
                    Err(why) => {
                        misses.push(why);
                        continue;
                    }
                }
            };
            for source in &sources {
                match self.fetch(item, source) {
                    Ok(received) => return Ok(received),
                    Err(Failure::Disk(error)) => return Err(Miss::Fatal(error)),
                    Err(Failure::Nar(error)) if !self.wanted.holds() => return Err(Miss::Fatal(error)),
                    Err(Failure::Nar(error)) => misses.push(format!("{}: {error}", source.url)),
                }
            }
        }
        Err(Miss::LeftOut(misses.join("; ")))
    }

    fn fetch(&self, item: &Item, source: &Source) -> Result<Received, Failure> {
        tracing::info!("fetching {} from {}", item.path, source.url);
        let attempted = || format!("fetch the nar of {}", item.path);
        let failed = |source| Failure::Nar(Error::Stream { attempted: attempted(), source });
        if self.away.has(&source.url) {
            return Err(failed(io::Error::other("its host did not answer before")));
        }
        let remote = Remote::open_with_patience(self.client, &source.url, self.stop.as_fd());
        let remote = remote.map_err(|error| {
            if !self.stop.is_stopped() {
                self.away.note(&source.url, &error);
            }
            failed(io::Error::other(error))
        })?;
        let nar: Box<dyn Read + '_> = match source.compression {
            Compression::Zstd => Box::new(self.decompressors.read(remote).map_err(failed)?),
            _ => Box::new(remote),
        };
        receive(self.store, item, nar, self.wanted)
    }
}
