//! Reading JSON.

use std::io::{BufReader, Read};

use serde::de::DeserializeOwned;

/// Reads one value, after which nothing follows. All that the agent reads comes through here: for each further kind of
/// reader it would have all of the parsers once more.
///
/// # Errors
/// What is wrong with the text, or what the reader says ([`serde_json::Error::is_io`]).
pub(crate) fn read<T: DeserializeOwned>(from: &mut dyn Read) -> serde_json::Result<T> {
    serde_json::from_reader(BufReader::with_capacity(4096, from))
}
