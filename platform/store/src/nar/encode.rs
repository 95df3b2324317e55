//! The one writer of nars.

use std::io::Write;

use super::{Error, Visitor};
use crate::framing::{padding, push_bytes, push_u64};

/// Appends the bytes of a nar to a buffer, all but the contents of files.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// Directories that are open.
    depth: usize,
    /// Zeros after the contents of the file that is open.
    zeros: usize,
}

impl Encoder {
    pub(super) fn start(&mut self, to: &mut Vec<u8>) {
        push_bytes(to, b"nix-archive-1");
    }

    pub(super) fn regular(&mut self, to: &mut Vec<u8>, executable: bool, size: u64) {
        strings(to, &[b"(", b"type", b"regular"]);
        if executable {
            strings(to, &[b"executable", b""]);
        }
        push_bytes(to, b"contents");
        push_u64(to, size);
        self.zeros = padding(size);
    }

    pub(super) fn end_regular(&mut self, to: &mut Vec<u8>) {
        to.extend_from_slice(&[0; 8][..self.zeros]);
        self.end_node(to);
    }

    pub(super) fn symlink(&mut self, to: &mut Vec<u8>, target: &[u8]) {
        strings(to, &[b"(", b"type", b"symlink", b"target", target]);
        self.end_node(to);
    }

    pub(super) fn directory(&mut self, to: &mut Vec<u8>) {
        strings(to, &[b"(", b"type", b"directory"]);
        self.depth += 1;
    }

    pub(super) fn entry(&mut self, to: &mut Vec<u8>, name: &[u8]) {
        strings(to, &[b"entry", b"(", b"name", name, b"node"]);
    }

    pub(super) fn leave(&mut self, to: &mut Vec<u8>) {
        self.depth = self.depth.saturating_sub(1);
        self.end_node(to);
    }

    /// Closes the node and the entry that it is of.
    fn end_node(&mut self, to: &mut Vec<u8>) {
        push_bytes(to, b")");
        if self.depth > 0 {
            push_bytes(to, b")");
        }
    }
}

fn strings(to: &mut Vec<u8>, strings: &[&[u8]]) {
    for string in strings {
        push_bytes(to, string);
    }
}

/// Writes a nar from what its methods as a [`Visitor`] are told. It writes what it is told: entries out of
/// order, or fewer contents than announced, make a nar that no reader takes.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    encoder: Encoder,
    buffer: Vec<u8>,
}

/// Small pieces are gathered up to this size.
const GATHER: usize = 32 * 1024;

impl<W: Write> Writer<W> {
    /// Starts a nar.
    pub fn new(to: W) -> Self {
        let mut writer = Self { to, encoder: Encoder::default(), buffer: Vec::new() };
        writer.encoder.start(&mut writer.buffer);
        writer
    }

    /// Writes what is left and gives the stream back.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn finish(mut self) -> Result<W, Error> {
        self.write_out()?;
        Ok(self.to)
    }

    fn write_out(&mut self) -> Result<(), Error> {
        self.to.write_all(&self.buffer).map_err(|error| Error::Io { action: "write", error })?;
        self.buffer.clear();
        Ok(())
    }

    fn written(&mut self) -> Result<(), Error> {
        if self.buffer.len() >= GATHER { self.write_out() } else { Ok(()) }
    }
}

impl<W: Write> Visitor for Writer<W> {
    fn regular(&mut self, executable: bool, size: u64) -> Result<(), Error> {
        self.encoder.regular(&mut self.buffer, executable, size);
        self.written()
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() < GATHER {
            self.buffer.extend_from_slice(bytes);
            return self.written();
        }
        self.write_out()?;
        self.to.write_all(bytes).map_err(|error| Error::Io { action: "write", error })
    }

    fn end_regular(&mut self) -> Result<(), Error> {
        self.encoder.end_regular(&mut self.buffer);
        self.written()
    }

    fn symlink(&mut self, target: &[u8]) -> Result<(), Error> {
        self.encoder.symlink(&mut self.buffer, target);
        self.written()
    }

    fn directory(&mut self) -> Result<(), Error> {
        self.encoder.directory(&mut self.buffer);
        self.written()
    }

    fn entry(&mut self, name: &[u8]) -> Result<(), Error> {
        self.encoder.entry(&mut self.buffer, name);
        self.written()
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.encoder.leave(&mut self.buffer);
        self.written()
    }
}
