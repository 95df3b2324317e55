//! Between clients (the operators' command line, scripts) and the coordinator.

use std::collections::BTreeMap;

use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

use crate::agent::{Machine, Output, SetupStep};
use crate::set::SetRef;
use crate::{AgentId, BuildId, BuildState, Phase, Timestamp};

/// The most bytes of a tag's name, and of its value.
pub const TAG_LIMIT: usize = 1024;

/// The most tags of a build.
pub const TAGS_LIMIT: usize = 64;

/// Whether these tags can be kept.
///
/// # Errors
/// What is wrong with the first that cannot, in words.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > TAGS_LIMIT {
        return Err(format!("{} tags cannot be kept: a build has at most {TAGS_LIMIT}", tags.len()));
    }
    for (key, value) in tags {
        if key.is_empty() || key.contains('=') || key.len() > TAG_LIMIT || value.len() > TAG_LIMIT {
            let key: String = key.chars().take(40).collect();
            return Err(format!(
                "the tag “{key}” cannot be kept: its name must have 1 to {TAG_LIMIT} bytes without “=”, its value \
                 at most {TAG_LIMIT}"
            ));
        }
    }
    Ok(())
}

/// “Which of these derivations and sources do you lack?”
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingQuestion {
    /// Derivations and sources.
    pub paths: Vec<StorePath>,
}

/// The answer to [`MissingQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingAnswer {
    /// Those that the coordinator does not have, in the order of the question.
    pub missing: Vec<StorePath>,
}

/// What became of an uploaded [`crate::bundle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Derivations that are new.
    pub derivations: u64,
    /// Sources that are new.
    pub sources: u64,
    /// Entries that were here already.
    pub known: u64,
}

/// Builds to submit. Their derivations, with all below them, have been uploaded before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// What is wanted.
    pub builds: Vec<Wanted>,
}

/// One build that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The derivation.
    pub derivation: StorePath,
    /// Higher goes first; 0 by default.
    #[serde(default)]
    pub priority: i64,
    /// Free tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Seconds that the build may take; none: the configuration's default.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Seconds that it may be silent; none: the configuration's default.
    #[serde(default)]
    pub max_silent_time: Option<u64>,
}

/// The answer to [`Submission`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// One for each of the question, in its order.
    pub builds: Vec<SubmittedBuild>,
    /// How many builds were submitted beside them, for inputs that nothing provides.
    pub for_inputs: u64,
    /// Sources that nobody has: the builds that need them wait until somebody uploads them. At most a hundred are named.
    pub missing_sources: Vec<StorePath>,
    /// How many such sources there are.
    pub missing_sources_count: u64,
}

/// One build of [`Submitted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedBuild {
    /// The derivation.
    pub derivation: StorePath,
    /// Its build: a new one, or one that is under way or has succeeded already.
    pub build: BuildId,
    /// Its state.
    pub state: BuildState,
    /// Whether it is new.
    pub new: bool,
}

/// Which builds to list: all that is given must hold. Sent as the query of the address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFilter {
    /// In this state.
    pub state: Option<BuildState>,
    /// For this system.
    pub system: Option<String>,
    /// With this tag: `KEY=VALUE`, or `KEY` with any value.
    pub tag: Option<String>,
    /// Held or ended by this agent: its UUID or its name.
    pub agent: Option<String>,
    /// Whose derivation's name contains this.
    pub name: Option<String>,
    /// Of the outputs that this revision of a set wants.
    pub set: Option<SetRef>,
    /// Only those that were submitted before this one: how the next page is asked for.
    pub before: Option<BuildId>,
    /// At most this many, the newest first; 100 by default, 1,000 at most.
    pub limit: Option<u32>,
}

/// A page of builds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildList {
    /// The newest first.
    pub builds: Vec<BuildSummary>,
    /// Whether there are more.
    pub more: bool,
}

/// A build in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSummary {
    /// The build.
    pub build: BuildId,
    /// Its derivation.
    pub derivation: StorePath,
    /// The derivation's system.
    pub system: String,
    /// Its state.
    pub state: BuildState,
    /// What the agent does with it, while one holds it.
    pub phase: Option<Phase>,
    /// Its priority.
    pub priority: i64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The agent that holds it, or ended it.
    pub agent: Option<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When the builder was first seen to run, in the newest try.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Everything about a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildDetails {
    /// What a list shows.
    pub summary: BuildSummary,
    /// In words: why it is in this state, and what would change it.
    pub why: String,
    /// Whether a client asked for it; else it was submitted as an input of others.
    pub wanted: bool,
    /// Seconds that it may take; none: the agent's default.
    pub timeout: Option<u64>,
    /// Seconds that it may be silent; none: the agent's default.
    pub max_silent_time: Option<u64>,
    /// What it waits for, at most a hundred.
    pub waits_for: Vec<WaitsFor>,
    /// How many things it waits for.
    pub waits_for_count: u64,
    /// Its outputs.
    pub outputs: Vec<BuildOutput>,
    /// Its tries, the oldest first.
    pub attempts: Vec<Attempt>,
}

/// Something that a build waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WaitsFor {
    /// An output that is not here.
    Input {
        /// The output.
        path: StorePath,
        /// The build that will make it, if there is one.
        build: Option<BuildId>,
        /// That build's state.
        state: Option<BuildState>,
    },
    /// A source that nobody has uploaded.
    Source {
        /// The source.
        path: StorePath,
        /// The derivation that names it: this build's own, or one below it.
        derivation: StorePath,
    },
}

/// An output of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOutput {
    /// The output's name: `out`, `lib`, …
    pub name: String,
    /// Its path.
    pub path: StorePath,
    /// What is kept of it, if it is here.
    pub kept: Option<Output>,
    /// How it stands with its publication, if it is here.
    #[serde(default)]
    pub publication: Option<Publication>,
}

/// How it stands with the publication of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Publication {
    /// The public can have it.
    Published {
        /// Since when.
        since: Timestamp,
        /// Until when, if it is about to be removed.
        until: Option<Timestamp>,
    },
    /// It waits until what it refers to can be had, too.
    Waiting {
        /// What it waits for, at most a hundred.
        waits_for: Vec<PublicationWait>,
        /// How many things it waits for.
        count: u64,
    },
    /// It is never published.
    Never {
        /// In words.
        why: String,
    },
    /// It was not looked at yet.
    Pending,
}

/// Something that an output refers to and that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationWait {
    /// Its path.
    pub path: StorePath,
    /// Whether it is here: then it waits for something itself.
    pub held: bool,
    /// Why it is never published, if that is so.
    pub never: Option<String>,
}

/// One try at a build by one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The first is 1.
    pub number: u32,
    /// The agent's name.
    pub agent: String,
    /// When it was given to the agent.
    pub allocated_at: Timestamp,
    /// When the builder was first seen to run.
    pub started_at: Option<Timestamp>,
    /// When the try ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended: a report's outcome (`succeeded`, `setup-failed`, …), or `lease-lost`; none while it goes on.
    pub outcome: Option<String>,
    /// The step that failed, with `setup-failed`.
    pub step: Option<SetupStep>,
    /// What the agent said.
    pub message: Option<String>,
    /// Bytes of its log.
    pub log_size: u64,
}

/// “Tell me when one of these has ended”: held open until one has, at most `seconds` (60 at most).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitQuestion {
    /// Builds that had not ended when last heard of.
    pub builds: Vec<BuildId>,
    /// How long to wait at most.
    pub seconds: u64,
}

/// The answer to [`WaitQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// Those of the question that have ended.
    pub ended: Vec<Ended>,
    /// How many builds of the whole farm are in each state, for a progress line.
    pub counts: BTreeMap<BuildState, u64>,
}

/// A build that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The build.
    pub build: BuildId,
    /// Its derivation.
    pub derivation: StorePath,
    /// Its final state.
    pub state: BuildState,
    /// In words, unless it succeeded.
    pub why: Option<String>,
}

/// The header with the offset at which the bytes of a log begin that are sent.
pub const LOG_OFFSET_HEADER: &str = "drover-log-offset";

/// The header with the bytes that the whole log has, or has so far. It is not there where nobody knows without reading all.
pub const LOG_SIZE_HEADER: &str = "drover-log-size";

/// The query of a log's address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// The first byte that is wanted; 0 by default.
    pub offset: Option<u64>,
    /// Instead of that: how many of the last bytes are wanted, of those that are there now. The answer's header
    /// [`LOG_OFFSET_HEADER`] says where they begin.
    pub tail: Option<u64>,
    /// Which try; the newest by default.
    pub attempt: Option<u32>,
    /// Keep the answer open and send what comes, until the try ends.
    #[serde(default)]
    pub follow: bool,
}

/// An agent to be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAgent {
    /// Its name: 1 to 64 characters out of letters, digits, `.`, `_` and `-`; unique.
    pub name: String,
}

/// An agent in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentSummary {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Whether it has been heard of within the lease time.
    pub online: bool,
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// The version of its program.
    pub version: Option<String>,
    /// The systems that it said it builds for.
    pub systems: Vec<String>,
    /// The builtins that it said it has.
    pub builtins: Vec<String>,
    /// How many builds it wants to hold now.
    pub accepting: u32,
    /// What its machine does.
    pub machine: Machine,
    /// What tells its machine from others, if that enrolled itself by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The builds that it holds.
    pub builds: Vec<BuildSummary>,
}

/// A secret that is shown once: an agent's new password, or a new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The secret.
    pub secret: String,
}

/// A token to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// What it is for.
    #[serde(default)]
    pub note: String,
}
