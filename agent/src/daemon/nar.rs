//! Reading a store item's nar out of the daemon.

use std::io::{self, Read};

use drover_store::path::StorePath;

use super::channel::Message;
use super::connection::{Connection, early_end};
use super::error::Error;

const EXPORT_PATH: u64 = 16;

/// The nar of a store item, as the daemon sends it; dropping it early ends the conversation.
#[derive(Debug)]
pub struct ExportedNar {
    connection: Connection,
    left: u64,
}

impl Connection {
    /// Starts to send the nar of a valid path, which has `nar_size` bytes (see [`super::PathInfo`]). What the daemon
    /// sends after the nar (references and deriver) is left out.
    ///
    /// # Errors
    /// When the daemon is away. A refusal comes with the first read.
    pub fn export_nar(mut self, path: &StorePath, nar_size: u64) -> Result<ExportedNar, Error> {
        let sign = 0;
        let channel = &mut self.channel;
        channel
            .write_u64(EXPORT_PATH)
            .and_then(|()| channel.write_bytes(path.as_str().as_bytes()))
            .and_then(|()| channel.write_u64(sign))
            .and_then(|()| channel.flush())
            .map_err(|fault| fault.during(format!("read {path}")))?;
        Ok(ExportedNar { connection: self, left: nar_size })
    }
}

impl Read for ExportedNar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let channel = &mut self.connection.channel;
        loop {
            let n = channel.body(&mut buffer[..most])?;
            if n > 0 {
                self.left -= n as u64;
                return Ok(n);
            }
            // A log message in between is skipped by asking for the next message again.
            loop {
                match channel
                    .message()
                    .map_err(|fault| io::Error::other(fault.during("read a store item")))?
                {
                    Message::Data => break,
                    Message::Text => {}
                    Message::Last => return Err(early_end()),
                    Message::Wanted(_) => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "guix-daemon wants data in an export",
                        ));
                    }
                }
            }
        }
    }
}
