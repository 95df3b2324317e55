//! Outputs, from the store to the coordinator.

use std::io::{self, Read};
use std::thread;

use drover_wire::agent::{Output, Report, SetupStep};
use drover_wire::{Code, LeaseId};

use super::control::{Control, Heed, Order};
use super::host::{Host, Patience, Refusal, patiently};
use super::pipe::{PipeReader, Skipping, pipe};
use crate::coordinator;
use crate::executor::Error;
use crate::nar_stream;
use crate::retry::Temporary;

/// How well nars are compressed.
const LEVEL: i32 = 3;
/// How often an output is started again from its first byte because the coordinator found it wrong.
const RESTARTS: u32 = 1;
/// How often an output that is there, and whose daemon answers, may fail to be read.
const READ_TRIES: u32 = 10;

/// Why an output was not delivered.
#[derive(Debug)]
pub(super) enum Undelivered {
    /// An order came first.
    Ordered(Order),
    /// It never will be: the build ends with this report instead.
    Instead(Report),
}

/// Sends all outputs; each goes on from where the coordinator's copy ends.
pub(super) fn deliver(
    host: &dyn Host,
    control: &Control,
    lease: LeaseId,
    outputs: &[Output],
) -> Result<(), Undelivered> {
    outputs.iter().try_for_each(|output| deliver_one(host, control, lease, output))
}

fn deliver_one(
    host: &dyn Host,
    control: &Control,
    lease: LeaseId,
    output: &Output,
) -> Result<(), Undelivered> {
    let mut patience = Patience::new();
    let (mut restarts, mut unread) = (0, 0);
    let path = &output.path;
    loop {
        let declared =
            patiently(control, Heed::Any, "declare an output", || host.coordinator().declare(lease, output));
        let received = declared.map_err(refused)?;
        if received.complete {
            return Ok(());
        }
        let wait = |patience: &mut Patience, error: &dyn std::fmt::Display| {
            patience.wait(control, Heed::Any, &format!("upload {path}"), error).map_err(Undelivered::Ordered)
        };
        match send(host, control, lease, output, received.received) {
            Ok(done) if done.complete => return Ok(()),
            Ok(done) => wait(&mut patience, &format!("the coordinator has {} bytes of it", done.received))?,
            Err(coordinator::Error::Source { source, .. }) => {
                if let Some(order) = control.ordered(Heed::Any) {
                    return Err(Undelivered::Ordered(order));
                }
                match is_there(host, output) {
                    Ok(true) => unread += 1,
                    // As after a loss of power, which can take what was not yet written to the disk. It can be made again.
                    Ok(false) => {
                        let message = format!("{path} vanished from the store before it was uploaded");
                        return Err(Undelivered::Instead(Report::HandedBack { message }));
                    }
                    Err(Error::Away(message)) => {
                        host.executor_is_away();
                        wait(&mut patience, &message)?;
                        continue;
                    }
                    Err(error) => return Err(instead(error)),
                }
                if unread >= READ_TRIES {
                    return Err(instead(format!("{path} cannot be read: {source}")));
                }
                wait(&mut patience, &source)?;
            }
            Err(error) if error.code() == Some(Code::BadOutput) && restarts < RESTARTS => {
                restarts += 1;
                wait(&mut patience, &error)?;
            }
            Err(error) if error.is_lease_lost() => return Err(Undelivered::Ordered(Order::Lost)),
            Err(error) if error.is_temporary() || error.received().is_some() => wait(&mut patience, &error)?,
            Err(error) => return Err(instead(error)),
        }
    }
}

/// Compresses from the first byte, and sends from `offset` on: the same nar gives the same bytes.
fn send(
    host: &dyn Host,
    control: &Control,
    lease: LeaseId,
    output: &Output,
    offset: u64,
) -> Result<drover_wire::agent::Received, coordinator::Error> {
    let unreadable =
        |source| coordinator::Error::Source { attempt: format!("upload {}", output.path), source };
    let nar = host.executor().nar(output).map_err(|error| unreadable(io::Error::other(error)))?;
    let (mut writer, reader) = pipe();
    let mut watched = Watched { inner: reader, control };
    thread::scope(|scope| {
        scope.spawn(move || {
            let out = Skipping { inner: &mut writer, left: offset };
            match nar_stream::compress(nar, out, LEVEL) {
                Ok(summary) if summary.nar_hash == output.nar_hash => {}
                // The stream ends well only if it was the right one.
                Ok(_) => writer.fail(io::Error::other("the nar is not what the store says it is")),
                Err(nar_stream::Error::Read(error)) => writer.fail(error),
                // The reader is gone and knows why, or the compressor failed.
                Err(error) => writer.fail(io::Error::other(error)),
            }
        });
        let sent = host.coordinator().upload(lease, &output.path, offset, &mut watched);
        // What the other thread still wants to write, nobody reads.
        drop(watched);
        sent
    })
}

/// Whether the output can be had from the store at all.
fn is_there(host: &dyn Host, output: &Output) -> Result<bool, Error> {
    Ok(host.executor().open()?.missing(std::slice::from_ref(&output.path))?.is_empty())
}

fn refused(refusal: Refusal) -> Undelivered {
    match refusal {
        Refusal::Ordered(order) => Undelivered::Ordered(order),
        Refusal::Lost => Undelivered::Ordered(Order::Lost),
        Refusal::Final(error) => instead(error),
    }
}

fn instead(message: impl ToString) -> Undelivered {
    Undelivered::Instead(Report::SetupFailed { step: SetupStep::Other, message: message.to_string() })
}

/// A stream that an order ends.
struct Watched<'a> {
    inner: PipeReader,
    control: &'a Control,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.control.ordered(Heed::Any).is_some() {
            return Err(io::Error::other("the build was ended"));
        }
        self.inner.read(buffer)
    }
}
