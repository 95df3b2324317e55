//! `builtin:download`: what guix-daemon does by itself for derivations of downloads, done here in the agent's own process.
//!
//! The content-addressed mirrors of a derivation are Scheme code, which is not run: a list of the configuration is in
//! their place, and the farm itself is asked before anybody else. Disarchive, the Internet Archive, FTP and proxies are left to agents with a daemon.

mod datum;
mod request;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use drover_os::Deadline;
use drover_os::poll::{Interest, wait_one};
use drover_store::hash::HashingWriter;
use drover_store::{Sha256Hash, nar};
use drover_tls::Trust;

use super::Stopping;
use crate::executor::Files;
use crate::http::{Client, Patience, Remote, RemoteError};
use crate::retry::{Backoff, Pauses};
pub(super) use request::Request;

/// The most bytes of a table of mirrors.
pub(super) const TABLE_MAX: u64 = datum::SIZE_MAX as u64;

/// Bytes that are read at a time.
const BUFFER: usize = 64 * 1024;
/// How long servers of strangers are waited for: there may be a dozen of them before the one that has the file.
const PATIENCE: Patience = Patience {
    resolve: Duration::from_secs(10),
    connect: Duration::from_secs(15),
    answer: Duration::from_secs(60),
    silence: Duration::from_secs(60),
};
/// How often those are asked who may have it a moment later.
const ROUNDS: u32 = 3;
/// Between two rounds.
const PAUSES: Pauses = if cfg!(test) {
    Pauses { first: Duration::from_micros(100), longest: Duration::from_millis(1) }
} else {
    Pauses { first: Duration::from_secs(2), longest: Duration::from_secs(10) }
};
/// How often the log says how far it is.
const NEWS: Duration = Duration::from_secs(20);

/// Takes the log of a download.
pub(super) type Log<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Why there is no download.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    /// Nobody has it.
    #[error(
        "download {name}: none of {asked} addresses has a file of the right hash; the log says what each has instead"
    )]
    Nowhere {
        /// The name of the output.
        name: String,
        /// How many were asked.
        asked: usize,
    },
    /// Nobody who could be asked has it, which may be this machine's fault.
    #[error(
        "download {name}: nobody who could be asked has it, and {away}; see whether this machine's network and its name \
         server work"
    )]
    Away {
        /// The name of the output.
        name: String,
        /// Who could not be asked, and why.
        away: String,
    },
    /// It was stopped.
    #[error("the download was stopped")]
    Stopped,
    /// The log could not be kept.
    #[error("keep the log of a download: {0}")]
    Log(#[source] io::Error),
    /// The disk.
    #[error("write a download to {path}: {source}")]
    Disk {
        /// Where.
        path: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Who may have a file.
enum Source<'a> {
    Farm(&'a dyn Files),
    Address(String),
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Farm(_) => f.write_str("the farm"),
            Self::Address(address) => f.write_str(address),
        }
    }
}

/// Why one of them is no use.
enum Miss {
    /// Nobody is asked: it is not an address for us.
    Unusable(String),
    /// It answers, and has not what is wanted.
    Next(String),
    /// It answers that it may have it a moment later.
    Busy(String),
    /// It does not answer, or not to the end: it is away, or this machine is.
    Away(String),
    Final(DownloadError),
}

impl From<DownloadError> for Miss {
    fn from(error: DownloadError) -> Self {
        Self::Final(error)
    }
}

/// Makes the file at `dest`, which must not be there, from the first address that has it; the farm is asked before all
/// of them.
///
/// # Errors
/// [`DownloadError`]; nothing is left at `dest` then.
pub(super) fn download(
    request: &Request,
    farm: Option<&dyn Files>,
    dest: &Path,
    log: &mut Log<'_>,
    stop: &Stopping,
) -> Result<(), DownloadError> {
    // The hash says what is right, whoever sends it.
    let client = Client::new(&Trust::AnybodyForCheckedContents, PATIENCE);
    download_by(&client, request, farm, dest, log, stop)
}

fn download_by(
    client: &Client,
    request: &Request,
    farm: Option<&dyn Files>,
    dest: &Path,
    log: &mut Log<'_>,
    stop: &Stopping,
) -> Result<(), DownloadError> {
    let farm = farm.filter(|_| request.is_by_hash()).map(Source::Farm);
    let mut sources: Vec<_> =
        farm.into_iter().chain(request.addresses().into_iter().map(Source::Address)).collect();
    let asked = sources.len();
    let mut backoff = Backoff::new(PAUSES);
    let mut answers = Answers::default();
    client.while_wanted(stop.as_fd(), || {
        for round in 1..=ROUNDS {
            let mut again = Vec::new();
            for source in sources {
                say(log, &format!("downloading {} from {source}", request.name))?;
                let error = match one(client, request, &source, dest, log, stop) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                // There may be nothing, and the next attempt shows whether it went.
                let _ = fs::remove_file(dest);
                if stop.is_stopped() {
                    return Err(DownloadError::Stopped);
                }
                answers.note(&source, &error);
                match error {
                    Miss::Unusable(why) | Miss::Next(why) => say(log, &format!("  not from there: {why}"))?,
                    Miss::Busy(why) | Miss::Away(why) => {
                        say(log, &format!("  not from there now: {why}"))?;
                        again.push(source);
                    }
                    Miss::Final(error) => return Err(error),
                }
            }
            sources = again;
            if sources.is_empty() || round == ROUNDS {
                break;
            }
            let pause = Deadline::after(backoff.next_pause());
            if wait_one(stop.as_fd(), Interest::Readable, pause).unwrap_or(true) {
                return Err(DownloadError::Stopped);
            }
        }
        let name = request.name.clone();
        Err(match answers.who_is_away() {
            Some(away) => DownloadError::Away { name, away },
            None => DownloadError::Nowhere { name, asked },
        })
    })
}

/// Whom the lack of a file is to be laid to.
#[derive(Default)]
struct Answers {
    /// An address has answered, so that this machine has a network.
    any: bool,
    /// The last one that did not.
    address: Option<String>,
    /// The farm did not, at last; it may be the only one that has the file.
    farm: Option<String>,
}

impl Answers {
    fn note(&mut self, source: &Source<'_>, miss: &Miss) {
        let away = match miss {
            Miss::Away(why) => Some(format!("{source} is away: {why}")),
            _ => None,
        };
        match (source, miss) {
            (Source::Farm(_), _) => self.farm = away,
            (Source::Address(_), Miss::Next(_) | Miss::Busy(_)) => self.any = true,
            (Source::Address(_), _) => self.address = away.or(self.address.take()),
        }
    }

    /// Who may have the file for all that is known.
    fn who_is_away(self) -> Option<String> {
        self.farm.or(self.address.filter(|_| !self.any))
    }
}

fn one(
    client: &Client,
    request: &Request,
    source: &Source<'_>,
    dest: &Path,
    log: &mut Log<'_>,
    stop: &Stopping,
) -> Result<(), Miss> {
    let address = match source {
        Source::Address(address) => address,
        Source::Farm(files) => {
            let opened = files.open(&request.name, &request.hash, stop.as_fd());
            let Some(mut file) = opened.map_err(|error| Miss::Away(error.to_string()))? else {
                return Err(Miss::Next("it has no such file".to_owned()));
            };
            return keep(request, &mut file, None, dest, log);
        }
    };
    if address.starts_with("mirror:") {
        return Err(Miss::Unusable("the derivation's table has no mirrors of that name".to_owned()));
    }
    if !address.starts_with("http://") && !address.starts_with("https://") {
        return Err(Miss::Unusable("this agent's sandbox knows HTTP and HTTPS only".to_owned()));
    }
    let mut remote = Remote::open(client, address, stop.as_fd()).map_err(|error| match &error {
        RemoteError::Address(_) => Miss::Unusable(error.to_string()),
        RemoteError::Unreachable(_) => Miss::Away(error.to_string()),
        RemoteError::Status(_) if error.is_temporary() => Miss::Busy(error.to_string()),
        RemoteError::Status(_) => Miss::Next(error.to_string()),
    })?;
    if let Some(led_to) = remote.led_to(address) {
        say(log, &format!("  which leads to {led_to}"))?;
    }
    let size = remote.size();
    if size.is_some_and(|size| size > request.size_max) {
        return Err(too_large(request));
    }
    keep(request, &mut remote, size, dest, log)
}

/// Makes the file of what comes, if that is what is wanted.
fn keep(
    request: &Request,
    from: &mut dyn Read,
    size: Option<u64>,
    dest: &Path,
    log: &mut Log<'_>,
) -> Result<(), Miss> {
    let disk = |source| Miss::Final(DownloadError::Disk { path: dest.display().to_string(), source });
    let mode = if request.executable { 0o755 } else { 0o644 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(dest).map_err(disk)?;
    let mut file = HashingWriter::new(file);
    let mut buffer = vec![0; BUFFER];
    let mut said = Instant::now();
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It begins anew in the next round: nobody else may have it any more.
            read => read.map_err(|error| Miss::Away(format!("it broke off: {error}")))?,
        };
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        file.write_all(bytes).map_err(disk)?;
        if file.count() > request.size_max {
            return Err(too_large(request));
        }
        if said.elapsed() >= NEWS {
            said = Instant::now();
            let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
            say(log, &format!("  {}{of} bytes so far", file.count()))?;
        }
    }
    let (file, hash, count) = file.finish();
    // Whatever the umask was.
    file.set_permissions(Permissions::from_mode(mode)).map_err(disk)?;
    let hash = if request.recursive { hash_of_nar(dest).map_err(disk)? } else { hash };
    if hash != request.hash {
        return Err(Miss::Next(format!(
            "it sends {count} bytes of the SHA-256 {}, and {} is wanted",
            hash.base32(),
            request.hash.base32()
        )));
    }
    say(log, &format!("  {count} bytes of the right hash"))?;
    Ok(())
}

fn too_large(request: &Request) -> Miss {
    Miss::Next(format!("it has more than {} bytes, which is the limit of outputs here", request.size_max))
}

fn hash_of_nar(path: &Path) -> io::Result<Sha256Hash> {
    let mut hash = HashingWriter::new(io::sink());
    nar::pack(path, &mut hash)?;
    Ok(hash.finish().1)
}

fn say(log: &mut Log<'_>, line: &str) -> Result<(), DownloadError> {
    // Addresses are somebody's words: they do not end a line.
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    log(format!("{line}\n").as_bytes()).map_err(DownloadError::Log)
}
