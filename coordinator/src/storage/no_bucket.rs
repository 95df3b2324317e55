//! There are no buckets: this was made without the cargo feature `s3`. The configuration refuses them before.

use std::io::Read;
use std::ops::Range;

use drover_os::Deadline;

use super::opened::Opened;
use super::target::{StoreError, Target};
use crate::config::BucketConfig;

/// None at all.
#[derive(Debug)]
pub enum Bucket {}

impl Bucket {
    pub(super) fn new(config: &BucketConfig) -> Result<Self, StoreError> {
        Err(StoreError::Bucket {
            what: format!("use {}", config.address()),
            reason: "this drover was made without buckets (the cargo feature s3)".to_owned(),
        })
    }

    pub(super) fn address(&self) -> &str {
        match *self {}
    }

    pub(super) fn within(&self, _: Deadline) -> Target {
        match *self {}
    }

    pub(super) fn put(&self, _: &mut dyn Read, _: u64, _: &str) -> Result<(), StoreError> {
        match *self {}
    }

    pub(super) fn open(&self, _: &str, _: u64, _: Range<u64>) -> Result<Opened, StoreError> {
        match *self {}
    }

    pub(crate) async fn open_soon(&self, _: &str, _: u64, _: Range<u64>) -> Result<Opened, StoreError> {
        match *self {}
    }

    pub(super) fn size(&self, _: &str) -> Result<Option<u64>, StoreError> {
        match *self {}
    }

    pub(super) fn read(&self, _: &str, _: usize) -> Result<Option<Vec<u8>>, StoreError> {
        match *self {}
    }

    pub(super) fn remove(&self, _: &str) -> Result<(), StoreError> {
        match *self {}
    }
}
