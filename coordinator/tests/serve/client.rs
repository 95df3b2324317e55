//! What a client asks.

use std::io::Read as _;

use drover_store::StorePath;
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{BuildDetails, LogQuery, Submission, Submitted, WaitAnswer, WaitQuestion, Wanted};
use drover_wire::route::clients;
use drover_wire::{BuildId, BuildState};

use crate::graph::Made;
use crate::peer::{Answer, Peer};

#[derive(Clone)]
pub(crate) struct Client(pub(crate) Peer);

impl Client {
    /// Uploads a bundle: the bytes before compression.
    #[track_caller]
    pub(crate) fn upload(&self, bundle: &[u8]) -> Answer {
        self.0.post_bytes(&clients::UPLOAD.path(&[]), &zstd::encode_all(bundle, 1).unwrap())
    }

    /// Uploads these and submits the last of them.
    #[track_caller]
    pub(crate) fn submit(&self, all: &[&Made]) -> BuildId {
        let entries: Vec<_> =
            all.iter().map(|made| (Kind::Derivation, &made.path, made.text.as_slice())).collect();
        let answer = self.upload(&bundle(&entries));
        assert_eq!(answer.status, 200, "{answer:?}");
        let builds = vec![Wanted {
            derivation: all[all.len() - 1].path.clone(),
            priority: 0,
            tags: Default::default(),
            timeout: None,
            max_silent_time: None,
        }];
        let submitted: Submitted = self.0.post(&clients::SUBMIT.path(&[]), &Submission { builds }).value();
        submitted.builds[0].build
    }

    #[track_caller]
    pub(crate) fn show(&self, build: BuildId) -> BuildDetails {
        self.0.get(&clients::BUILD.path(&[&build])).value()
    }

    #[track_caller]
    pub(crate) fn state(&self, build: BuildId) -> BuildState {
        self.show(build).summary.state
    }

    /// Waits for the end of a build, and says which.
    #[track_caller]
    pub(crate) fn end_of(&self, build: BuildId) -> BuildState {
        let question = WaitQuestion { builds: vec![build], seconds: 50 };
        let answer: WaitAnswer = self.0.post(&clients::WAIT.path(&[]), &question).value();
        answer.ended.first().expect("it ends").state
    }

    #[track_caller]
    pub(crate) fn cancel(&self, build: BuildId) -> Answer {
        self.0.post_bytes(&clients::CANCEL.path(&[&build]), b"")
    }

    /// A log from an offset on, or its end, as it comes.
    pub(crate) fn log(&self, build: BuildId, query: &LogQuery) -> ureq::BodyReader<'static> {
        let from = match query.tail {
            Some(tail) => format!("tail={tail}"),
            None => format!("offset={}", query.offset.unwrap_or(0)),
        };
        self.0.stream(&format!("{}?{from}&follow={}", clients::LOG.path(&[&build]), query.follow))
    }

    /// The log as it is.
    #[track_caller]
    pub(crate) fn whole_log(&self, build: BuildId) -> Vec<u8> {
        let mut log = Vec::new();
        self.log(build, &LogQuery::default()).read_to_end(&mut log).unwrap();
        log
    }
}

/// A bundle of these.
pub(crate) fn bundle(entries: &[(Kind, &StorePath, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (kind, path, bytes) in entries {
        writer.entry(*kind, path, bytes.len() as u64, *bytes).unwrap();
    }
    writer.finish().unwrap()
}
