//! Builds without anybody's help: a sandbox of our own over a store of our own.

#![allow(dead_code, reason = "the executor that uses these comes next")]

mod download;
mod import;
mod slots;
mod stopping;
mod substitute;

use super::Error;
use crate::store::StoreError;
pub(crate) use stopping::Stopping;

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.to_string())
    }
}
