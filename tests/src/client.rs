//! What a test asks of a coordinator as a client.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's tools fail by failing the test")]

use std::collections::HashMap;
use std::io::Cursor;

use drover_store::nar;
use drover_store::path::StorePath;
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{
    AgentSummary, BuildDetails, BuildList, BuildSummary, NewAgent, NewToken, Secret, Submission, Submitted,
    WaitAnswer, WaitQuestion, Wanted,
};
use drover_wire::route::clients;
use drover_wire::{BuildId, BuildState};

use crate::graph::{Graph, Made};
use crate::http::{Answer, Peer};
use crate::wait;

/// A client with the operator's token.
#[derive(Debug, Clone)]
pub struct Client {
    /// For requests that are not here.
    pub peer: Peer,
}

impl Client {
    /// A new agent: its UUID and a password.
    #[track_caller]
    #[must_use]
    pub fn new_agent(&self, name: &str) -> (String, String) {
        let agent: AgentSummary =
            self.peer.post(&clients::NEW_AGENT.path(&[]), &NewAgent { name: name.to_owned() }).value();
        let secret: Secret = self.peer.post(&clients::PASSWORD.path(&[&agent.agent]), &()).value();
        (agent.agent.to_string(), secret.secret)
    }

    /// A new token, with which agents enrol themselves.
    #[track_caller]
    #[must_use]
    pub fn new_agent_token(&self) -> String {
        let new = NewToken { note: "a test".to_owned() };
        self.peer.post(&clients::AGENT_TOKEN.path(&[]), &new).value::<Secret>().secret
    }

    /// All agents.
    #[track_caller]
    #[must_use]
    pub fn agents(&self) -> Vec<AgentSummary> {
        self.peer.get(&clients::AGENTS.path(&[])).value()
    }

    /// The coordinator's key, an s-expression.
    #[track_caller]
    #[must_use]
    pub fn key(&self) -> String {
        let answer = self.peer.get(&clients::KEY.path(&[]));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Uploads a bundle: the bytes before compression.
    #[track_caller]
    #[must_use]
    pub fn upload(&self, bundle: &[u8]) -> Answer {
        self.peer.send("POST", &clients::UPLOAD.path(&[]), &zstd::encode_all(Cursor::new(bundle), 1).unwrap())
    }

    /// Uploads everything of a graph and submits these builds.
    #[track_caller]
    #[must_use]
    pub fn submit(&self, graph: &Graph, made: &[&Made]) -> Vec<BuildId> {
        let wanted = made.iter().map(|made| want(made)).collect();
        self.submit_as(graph, wanted)
    }

    /// [`Client::submit`] with all that goes with each build.
    #[track_caller]
    #[must_use]
    pub fn submit_as(&self, graph: &Graph, builds: Vec<Wanted>) -> Vec<BuildId> {
        let answer = self.upload(&bundle(graph));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let submitted: Submitted = self.peer.post(&clients::SUBMIT.path(&[]), &Submission { builds }).value();
        submitted.builds.iter().map(|build| build.build).collect()
    }

    /// Everything about a build.
    #[track_caller]
    #[must_use]
    pub fn show(&self, build: BuildId) -> BuildDetails {
        self.peer.get(&clients::BUILD.path(&[&build])).value()
    }

    /// All builds, the newest first.
    #[track_caller]
    #[must_use]
    pub fn builds(&self) -> Vec<BuildSummary> {
        let mut all: Vec<BuildSummary> = Vec::new();
        loop {
            let before = all.last().map(|build| format!("&before={}", build.build)).unwrap_or_default();
            let page: BuildList =
                self.peer.get(&format!("{}?limit=1000{before}", clients::BUILDS.path(&[]))).value();
            all.extend(page.builds);
            if !page.more {
                return all;
            }
        }
    }

    /// The builds by their derivations.
    #[track_caller]
    #[must_use]
    pub fn by_derivation(&self) -> HashMap<StorePath, BuildSummary> {
        self.builds().into_iter().map(|build| (build.derivation.clone(), build)).collect()
    }

    /// Waits until a build is in this state.
    ///
    /// # Panics
    /// When it is not within [`wait::LONG`], or has ended in another one.
    #[track_caller]
    pub fn wait_state(&self, build: BuildId, state: BuildState) -> BuildDetails {
        wait::until(&format!("{build} should be {state}"), || {
            let details = self.show(build);
            let now = details.summary.state;
            assert!(now == state || !now.is_final(), "{build} is {now}, not {state}: {}", details.why);
            (now == state).then_some(details)
        })
    }

    /// Waits for the end of all these builds; each with its state. As long as it takes, if some of them end every two
    /// minutes.
    ///
    /// # Panics
    /// When none of them ends within [`wait::LONG`].
    #[track_caller]
    #[must_use]
    pub fn wait_ends(&self, builds: &[BuildId]) -> HashMap<BuildId, BuildState> {
        let mut ends = HashMap::new();
        while ends.len() < builds.len() {
            let left: Vec<BuildId> =
                builds.iter().filter(|build| !ends.contains_key(*build)).copied().collect();
            let ended = wait::until(&format!("one of {} builds should end", left.len()), || {
                let question = WaitQuestion { builds: left.clone(), seconds: 20 };
                let answer: WaitAnswer = self.peer.post(&clients::WAIT.path(&[]), &question).value();
                (!answer.ended.is_empty()).then_some(answer.ended)
            });
            ends.extend(ended.into_iter().map(|ended| (ended.build, ended.state)));
        }
        ends
    }

    /// Waits for the end of all these builds, which must be success.
    ///
    /// # Panics
    /// When one of them ends in another way.
    #[track_caller]
    pub fn wait_success(&self, builds: &[BuildId]) {
        for (build, state) in self.wait_ends(builds) {
            if state != BuildState::Succeeded {
                let details = self.show(build);
                panic!("{} is {state}: {}; {:#?}", details.summary.derivation, details.why, details.attempts);
            }
        }
    }

    /// Cancels a build.
    #[track_caller]
    pub fn cancel(&self, build: BuildId) -> BuildDetails {
        self.peer.post(&clients::CANCEL.path(&[&build]), &()).value()
    }

    /// The bytes of a build's log so far.
    #[track_caller]
    #[must_use]
    pub fn log(&self, build: BuildId) -> Vec<u8> {
        let answer = self.peer.get(&clients::LOG.path(&[&build]));
        if answer.status == 200 { answer.body } else { Vec::new() }
    }

    /// Waits until a build's log has this in it.
    ///
    /// # Panics
    /// When it has not within [`wait::LONG`].
    #[track_caller]
    pub fn wait_log(&self, build: BuildId, part: &str) {
        wait::until(&format!("“{part}” should be in the log of {build}"), || {
            let log = self.log(build);
            log.windows(part.len()).any(|window| window == part.as_bytes()).then_some(())
        });
    }
}

/// A build that is wanted, with nothing special about it.
#[must_use]
pub fn want(made: &Made) -> Wanted {
    let tags = std::collections::BTreeMap::new();
    Wanted { derivation: made.path.clone(), priority: 0, tags, timeout: None, max_silent_time: None }
}

/// All of a graph as a bundle, uncompressed.
///
/// # Panics
/// When there is no room for the scratch files.
#[must_use]
pub fn bundle(graph: &Graph) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    graph.write(scratch.path()).unwrap();
    let mut writer = Writer::new(Vec::new());
    for entry in std::fs::read_dir(scratch.path()).unwrap().flatten() {
        let path = StorePath::parse_base(entry.file_name().to_str().unwrap()).unwrap();
        if !path.is_derivation() {
            let mut bytes = Vec::new();
            nar::pack(&entry.path(), &mut bytes).unwrap();
            writer.entry(Kind::Source, &path, bytes.len() as u64, bytes.as_slice()).unwrap();
        }
    }
    for path in graph.derivations() {
        let text = graph.bytes(path).unwrap();
        writer.entry(Kind::Derivation, path, text.len() as u64, text).unwrap();
    }
    writer.finish().unwrap()
}
