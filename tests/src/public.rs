//! What everybody can ask of a farm, and Guix as a client that does.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's tools fail by failing the test")]

use std::process::Output;

use drover_store::narinfo::NarInfo;
use drover_store::path::StorePath;

use crate::farm::{Farm, words};
use crate::ground::Ground;
use crate::http::Peer;
use crate::wait;

/// The public listener of a farm.
#[derive(Debug, Clone)]
pub struct Public {
    /// Its address, as clients are given it.
    pub url: String,
    /// For requests that are not here.
    pub peer: Peer,
}

impl Public {
    /// That of this farm.
    #[must_use]
    pub fn of(farm: &Farm) -> Self {
        let url = format!("http://{}", farm.public);
        Self { peer: Peer::stranger(&url), url }
    }

    /// The narinfo of an item, if the public can have it.
    ///
    /// # Panics
    /// When the answer is neither a narinfo nor that there is none.
    #[track_caller]
    #[must_use]
    pub fn narinfo(&self, path: &StorePath) -> Option<NarInfo> {
        let answer = self.peer.get(&format!("/{}.narinfo", path.hash_part()));
        match answer.status {
            200 => Some(
                NarInfo::parse(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text())),
            ),
            404 => None,
            status => panic!("the narinfo of {path}: {status} {}", answer.text()),
        }
    }

    /// Waits until the public can have these.
    ///
    /// # Panics
    /// When it cannot within [`wait::LONG`].
    #[track_caller]
    pub fn wait_for(&self, paths: &[&StorePath]) {
        for path in paths {
            wait::until(&format!("{path} should be published"), || self.narinfo(path));
        }
    }

    /// The flag with which Guix is told to ask here, and nobody else.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--substitute-urls={}", self.url)
    }

    /// Has Guix fetch an item into the store of this daemon.
    #[must_use]
    pub fn install(&self, ground: &Ground, path: &StorePath) -> Output {
        ground.run(&["guix", "build", &self.flag(), path.as_str()])
    }
}

/// Has Guix itself authorize a key.
///
/// # Panics
/// When it refuses.
#[track_caller]
pub fn authorize(ground: &Ground, key: &str) {
    let file = ground.dir.join("authorized");
    std::fs::write(&file, key).unwrap();
    let output = ground.run(&["sh", "-c", &format!("guix archive --authorize <{}", file.display())]);
    assert!(output.status.success(), "{}", words(&output));
}
