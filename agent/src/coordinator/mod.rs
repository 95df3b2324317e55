//! The coordinator, as an agent sees it: one method for each route of [`drover_wire::route::agents`].
//!
//! Nothing here tries again by itself: errors say whether that helps ([`crate::retry::Temporary`]), and callers know
//! what else has to happen first.

mod call;
mod error;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod files;

use std::io::Read;
use std::time::Duration;

use drover_store::path::StorePath;
use drover_wire::LeaseId;
use drover_wire::agent::{
    BundleRequest, Closure, Enrolled, Enrolment, Heartbeat, Hello, Orders, Output, Poll, Received, Report,
    Reported, Welcome,
};
use drover_wire::route::agents as routes;

use crate::config::Config;
use crate::http::{Client, Patience};
use call::Caller;
pub use call::Download;
pub use error::Error;
#[cfg(all(target_os = "linux", not(drover_portable)))]
pub use files::FarmFiles;

/// The most bytes of an answer that holds little.
const SMALL: u64 = 1 << 20;
/// The most bytes of a closure: the largest known one has some 25,000 entries of less than a kilobyte.
const CLOSURE_LIMIT: u64 = 256 << 20;

/// A coordinator. Its methods may be called from any thread at the same time; each call waits for its answer.
#[derive(Debug)]
pub struct Coordinator {
    calls: Caller,
    /// Apart from the others, so that they can be ended while these go on.
    polls: Caller,
}

impl Coordinator {
    /// The coordinator of a configuration. Connects at the first call.
    pub fn new(config: &Config) -> Self {
        Self::with_patience(config, Patience::default())
    }

    /// As [`Coordinator::new`], with other time limits.
    pub fn with_patience(config: &Config, patience: Patience) -> Self {
        let caller =
            || Caller::new(Client::new(&config.trust, patience), &config.coordinator, &config.credentials);
        Self { calls: caller(), polls: caller() }
    }

    /// Has this machine made an agent, with the token that it has.
    ///
    /// # Errors
    /// [`Error`]; final ones mean that the token is none, or the name another's.
    pub fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, Error> {
        self.calls.ask(&routes::ENROL, &[], enrolment, "enrol this machine", SMALL)
    }

    /// Introduces this agent.
    ///
    /// # Errors
    /// [`Error`]; final ones mean that the coordinator does not want us.
    pub fn hello(&self, hello: &Hello) -> Result<Welcome, Error> {
        self.calls.ask(&routes::HELLO, &[], hello, "say hello", SMALL)
    }

    /// Asks for work. The coordinator holds the question open for up to `open` ([`Welcome::poll_seconds`]).
    ///
    /// # Errors
    /// [`Error`]; [`Error::Unreachable`] also after [`Coordinator::interrupt_poll`].
    pub fn poll(&self, poll: &Poll, open: Duration) -> Result<Orders, Error> {
        self.polls.ask_and_wait(&routes::POLL, poll, "ask for work", open)
    }

    /// Ends every open [`Coordinator::poll`], in whatever thread.
    pub fn interrupt_poll(&self) {
        self.polls.cancel();
    }

    /// Ends every call that is under way, polls included: what is left to do when the agent must leave now.
    pub fn interrupt_all(&self) {
        self.polls.cancel();
        self.calls.cancel();
    }

    /// Says that this agent lives, and what it does.
    ///
    /// # Errors
    /// [`Error`].
    pub fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Orders, Error> {
        self.calls.ask(&routes::HEARTBEAT, &[], heartbeat, "send a heartbeat", SMALL)
    }

    /// What a lease's build needs.
    ///
    /// # Errors
    /// [`Error`].
    pub fn closure(&self, lease: LeaseId) -> Result<Closure, Error> {
        self.calls.get(&routes::CLOSURE, &[&lease], "ask what a build needs", CLOSURE_LIMIT)
    }

    /// Derivations and sources, as a zstd-compressed [`drover_wire::bundle`].
    ///
    /// # Errors
    /// [`Error`]; a connection that breaks later shows in reading.
    pub fn bundle(&self, request: &BundleRequest) -> Result<Download, Error> {
        self.calls.ask_for_stream(&routes::BUNDLE, request, "fetch derivations and sources")
    }

    /// The zstd-compressed nar of a store item, from a byte offset on.
    ///
    /// # Errors
    /// [`Error`]; a connection that breaks later shows in reading.
    pub fn nar(&self, item: &StorePath, from: u64) -> Result<Download, Error> {
        self.calls.get_stream(&routes::NAR, &[&item.base_name()], "fetch an input", from)
    }

    /// Sends a part of a lease's log, at most [`drover_wire::LOG_CHUNK_LIMIT`] bytes, which begins at this offset.
    ///
    /// # Errors
    /// [`Error`]; see [`Error::received`] for a wrong offset.
    pub fn append_log(&self, lease: LeaseId, offset: u64, bytes: &[u8]) -> Result<Received, Error> {
        self.calls.append(&routes::LOG, &[&lease], offset, bytes, "send a piece of log")
    }

    /// Says what is about to be uploaded; the answer says from which offset.
    ///
    /// # Errors
    /// [`Error`].
    pub fn declare(&self, lease: LeaseId, output: &Output) -> Result<Received, Error> {
        self.calls.ask(&routes::DECLARE, &[&lease], output, "declare an output", SMALL)
    }

    /// Sends the zstd-compressed nar of an output from an offset to its end, in chunks as they come.
    ///
    /// # Errors
    /// [`Error::Source`] when `nar` cannot be read, which leaves what was sent to be continued; else as the others.
    pub fn upload(
        &self,
        lease: LeaseId,
        output: &StorePath,
        offset: u64,
        nar: &mut dyn Read,
    ) -> Result<Received, Error> {
        self.calls.stream(&routes::UPLOAD, &[&lease, &output.base_name()], offset, nar, "upload an output")
    }

    /// Says how a lease ended.
    ///
    /// # Errors
    /// [`Error`].
    pub fn report(&self, lease: LeaseId, report: &Report) -> Result<Reported, Error> {
        self.calls.ask(&routes::REPORT, &[&lease], report, "report a build", SMALL)
    }

    /// The coordinator's public Guix key, an s-expression.
    ///
    /// # Errors
    /// [`Error`].
    pub fn key(&self) -> Result<String, Error> {
        self.calls.get_text(&routes::KEY, "ask for the coordinator's key", SMALL)
    }
}

#[cfg(test)]
mod tests;
