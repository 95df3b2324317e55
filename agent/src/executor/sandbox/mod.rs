//! Builds without anybody's help: a sandbox of our own over a store of our own.

mod slots;
mod stopping;

pub(crate) use stopping::Stopping;
