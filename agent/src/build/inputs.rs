//! A build's inputs: what other builds made, from the coordinator or from substitute servers into the store.

use std::io::{self, Read};

use drover_store::path::StorePath;
use drover_wire::ItemInfo;
use drover_wire::agent::{InputItem, Report, SetupStep};

use super::control::{Control, Heed};
use super::halt::Halt;
use super::host::{Host, Patience};
use super::texts::WINDOW_LOG_LIMIT;
use crate::coordinator::Download;
use crate::decompress::Decompressors;
use crate::executor::{Nars, Workplace};
use crate::retry::Temporary;

const STEP: SetupStep = SetupStep::ImportInputs;

/// Makes all of `inputs` valid in the store, or ends the build with those that cannot be had.
pub(super) fn add(
    host: &dyn Host,
    control: &Control,
    place: &mut dyn Workplace,
    inputs: &[InputItem],
) -> Result<(), Halt> {
    let executor = |error| Halt::of(STEP, control, error);
    let paths: Vec<StorePath> = inputs.iter().map(|input| input.path.clone()).collect();
    place.protect(&mut paths.iter()).map_err(executor)?;
    let mut missing = place.missing(&paths).map_err(executor)?;
    if missing.is_empty() {
        return Ok(());
    }
    let elsewhere: Vec<_> = inputs.iter().filter(|i| i.held.is_none() && missing.contains(&i.path)).collect();
    let servers = &host.config().non_derivation_substitute_urls;
    if !elsewhere.is_empty() && !servers.is_empty() {
        let paths: Vec<_> = elsewhere.iter().map(|input| input.path.clone()).collect();
        place.substitute(servers, &paths).map_err(executor)?;
        // With what they refer to, which may be among what the coordinator holds.
        missing = place.missing(&missing).map_err(executor)?;
    }
    let held: Vec<&ItemInfo> =
        inputs.iter().filter_map(|i| i.held.as_ref()).filter(|i| missing.contains(&i.path)).collect();
    if !held.is_empty() {
        let decompressors = Decompressors::new(WINDOW_LOG_LIMIT);
        place.import(&held, &FromCoordinator { host, control, decompressors }).map_err(executor)?;
    }
    let missing = place.missing(&paths).map_err(executor)?;
    if missing.is_empty() { Ok(()) } else { Err(Halt::Report(Report::MissingInputs { paths: missing })) }
}

/// Nars that the coordinator holds.
struct FromCoordinator<'a> {
    host: &'a dyn Host,
    control: &'a Control,
    decompressors: Decompressors,
}

impl Nars for FromCoordinator<'_> {
    fn open<'a>(&'a self, item: &'a ItemInfo) -> io::Result<Box<dyn Read + Send + 'a>> {
        let compressed = Resuming {
            host: self.host,
            control: self.control,
            item,
            at: 0,
            again: 0,
            ended: false,
            download: None,
            patience: Patience::new(),
        };
        Ok(Box::new(self.decompressors.read(compressed)?))
    }
}

/// A compressed nar that is fetched on from where its connection broke.
struct Resuming<'a> {
    host: &'a dyn Host,
    control: &'a Control,
    item: &'a ItemInfo,
    at: u64,
    /// What is left out of the download, where it cannot begin at `at`.
    again: u64,
    ended: bool,
    download: Option<Download>,
    patience: Patience,
}

impl Resuming<'_> {
    /// Whether it is not known how long it is: it is compressed as it comes, the same each time, and has no parts.
    fn is_made_anew(&self) -> bool {
        self.item.file_size == 0
    }

    fn is_whole(&self) -> bool {
        if self.is_made_anew() { self.ended } else { self.at >= self.item.file_size }
    }

    fn connect(&mut self) -> Result<Download, crate::coordinator::Error> {
        self.again = if self.is_made_anew() { self.at } else { 0 };
        self.host.coordinator().nar(&self.item.path, self.at - self.again)
    }

    fn again(&mut self, error: &dyn std::fmt::Display) -> io::Result<()> {
        self.download = None;
        self.patience
            .wait(self.control, Heed::Any, "fetch an input", error)
            .map_err(|_| io::Error::other("the build was ended"))
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_whole() {
            if self.control.ordered(Heed::Any).is_some() {
                return Err(io::Error::other("the build was ended"));
            }
            let Some(download) = &mut self.download else {
                match self.connect() {
                    Ok(download) => self.download = Some(download),
                    Err(error) if error.is_temporary() => self.again(&error)?,
                    Err(error) => return Err(io::Error::other(error)),
                }
                continue;
            };
            match download.read(buffer) {
                Ok(0) if self.is_made_anew() && self.again == 0 => self.ended = true,
                Ok(0) => self.again(&format!("{} broke off at byte {}", self.item.path, self.at))?,
                Ok(n) if self.again > 0 => {
                    let left_out = usize::try_from(self.again).unwrap_or(usize::MAX).min(n);
                    self.again -= left_out as u64;
                    buffer.copy_within(left_out..n, 0);
                    if left_out < n {
                        self.at += (n - left_out) as u64;
                        return Ok(n - left_out);
                    }
                }
                Ok(n) => {
                    self.at += n as u64;
                    self.patience.reset();
                    return Ok(n);
                }
                Err(error) => self.again(&error)?,
            }
        }
        Ok(0)
    }
}
