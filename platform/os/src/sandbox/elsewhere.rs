//! Systems without sandboxes.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, RawFd};

use super::{Failure, Sandbox};

/// A way into a sandbox: there is none.
#[derive(Debug)]
pub(crate) struct Plan(Infallible);

impl Plan {
    pub(crate) fn new(_: &Sandbox) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "programs are put into sandboxes on Linux only"))
    }

    pub(crate) fn run<'text>(
        &mut self,
        _: &OsStr,
        _: impl Iterator<Item = &'text OsStr>,
        _: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn only_try(&mut self) {
        match self.0 {}
    }

    pub(crate) fn hand_over(&self, _: impl AsFd) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn failure(&self, _: &str, _: i32, _: &io::Error) -> Option<Failure> {
        match self.0 {}
    }

    pub(crate) fn split_into(&self, _: RawFd, _: RawFd) -> io::Result<()> {
        match self.0 {}
    }
}
