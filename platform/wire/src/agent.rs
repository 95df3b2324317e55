//! Between agents and the coordinator.
//!
//! An agent that has nothing but a dynamic token may send an [`Enrolment`] first. It says [`Hello`] when it starts and whenever the coordinator was away; then it keeps one [`Poll`] open, sends a
//! [`Heartbeat`] at the pace it was told, and for each lease: asks for the [`Closure`], fetches what its store lacks,
//! sends the log in chunks, declares and uploads outputs, and ends it with a [`Report`]. Every message may be sent
//! again after a lost answer: the second one changes nothing.

use drover_store::hash::Sha256Hash;
use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

use crate::{AgentId, BuildId, ItemInfo, LeaseId, Phase};

/// The agent's first message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL`] of the agent.
    pub protocol: u32,
    /// The agent's own version.
    pub version: String,
    /// The systems that it builds for, such as `aarch64-linux`: open strings.
    pub systems: Vec<String>,
    /// The builtin builders that it has, without the prefix: `download`, `git-download`.
    pub builtins: Vec<String>,
    /// How many builds it runs at a time.
    pub max_parallel_builds: u32,
    /// How many builds it wants to hold at a time, the running ones among them.
    pub max_allocated_builds: u32,
    /// The leases that it still has, from before it was restarted or cut off. What the coordinator thinks it holds and
    /// that is not here is given up.
    pub holding: Vec<LeaseId>,
}

/// The coordinator's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who the agent is.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// The coordinator's version.
    pub version: String,
    /// How long a lease lasts without a heartbeat, in seconds.
    pub lease_seconds: u64,
    /// How often a heartbeat is wanted, in seconds.
    pub heartbeat_seconds: u64,
    /// How long a [`Poll`] stays open at most, in seconds.
    pub poll_seconds: u64,
    /// The coordinator's Guix key (an s-expression), which the agent's daemon must have in its ACL.
    pub public_key: String,
    /// The leases of [`Hello::holding`] that the agent has no longer: it drops these builds and what it has of them.
    pub give_up: Vec<LeaseId>,
}

/// “This machine is to have an agent”: asked with a dynamic token and a name, once, by a machine that keeps what it gets. It is
/// the same agent again for the same machine, whatever it has forgotten meanwhile, and with whichever token it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// What tells the machine from all others, such as `serial:` and its serial number.
    pub hardware: String,
}

/// The coordinator's answer to [`Enrolment`]. What an earlier one answered to the same machine is not accepted any more.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Who the agent is.
    pub agent: AgentId,
    /// Its name: the one that it came with first.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolled({}, {}, …)", self.agent, self.name)
    }
}

/// “Give me work”: answered at once if there are [`Orders`], else held open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// How many builds it wants to hold, those of `holding` among them; 0 while it takes nothing new.
    pub accepting: u32,
    /// Every lease that it has. An allocation whose answer was lost is not among them and is sent again.
    pub holding: Vec<LeaseId>,
}

/// The answer to [`Poll`] and [`Heartbeat`]; empty after [`Welcome::poll_seconds`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Builds that the agent now holds.
    #[serde(default)]
    pub allocations: Vec<Allocation>,
    /// Leases that it has no longer: kill what runs, drop what is there.
    #[serde(default)]
    pub give_up: Vec<GiveUp>,
}

/// A build that an agent is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The agent's hold on it.
    pub lease: LeaseId,
    /// The build.
    pub build: BuildId,
    /// What to build: all outputs of this derivation.
    pub derivation: StorePath,
    /// Higher goes first.
    pub priority: i64,
    /// Seconds after which the build is ended; none: the agent's default.
    pub timeout: Option<u64>,
    /// Seconds of silence after which the build is ended; none: the agent's default.
    pub max_silent_time: Option<u64>,
}

/// A lease that ends on the coordinator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUp {
    /// The lease.
    pub lease: LeaseId,
    /// Why.
    pub reason: GiveUpReason,
}

/// Why a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GiveUpReason {
    /// Somebody canceled the build. The agent sends the last of the log and [`Report::Canceled`].
    Canceled,
    /// It ran out and another agent has the build; nothing of it is wanted.
    Lost,
}

/// “I am here”: sent every [`Welcome::heartbeat_seconds`], and at once when a phase changes. It renews the leases named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// As in [`Poll`]; an open poll goes by the newest of the two.
    pub accepting: u32,
    /// What the machine does.
    pub machine: Machine,
    /// The leases that it has, each with what is done for it.
    pub leases: Vec<Progress>,
}

/// A machine's state; none where the system does not tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Load average of the last minute.
    pub load_1min: Option<f64>,
    /// Processors.
    pub processors: Option<u32>,
    /// Bytes that are free where the store is.
    pub store_free: Option<u64>,
    /// Bytes that the agent's own folder has free.
    pub state_free: Option<u64>,
    /// Bytes of memory that are available.
    pub memory_available: Option<u64>,
}

/// One lease in a [`Heartbeat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The lease.
    pub lease: LeaseId,
    /// What the agent does with it.
    pub phase: Phase,
}

/// Everything that a build needs in the agent's store, from `GET` of the lease's closure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// The derivation, every one below it, and all their sources; what is referred to comes before what refers to it.
    pub texts: Vec<Text>,
    /// The outputs that the derivation itself takes as inputs, and what they refer to as far as the coordinator knows;
    /// what is referred to comes first.
    pub inputs: Vec<InputItem>,
}

/// A derivation or a source: what an agent can add to its store without a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Text {
    /// A .drv file; its references are in its text.
    Derivation {
        /// Its path.
        path: StorePath,
    },
    /// A source that is a text: added by add-text-to-store.
    Text {
        /// Its path.
        path: StorePath,
        /// What it refers to.
        references: Vec<StorePath>,
    },
    /// A source that is a file or a folder: added by add-to-store.
    File {
        /// Its path.
        path: StorePath,
        /// Whether its path is that of its nar, or else of a plain file's bytes.
        recursive: bool,
    },
}

impl Text {
    /// Its path in the store.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        match self {
            Self::Derivation { path } | Self::Text { path, .. } | Self::File { path, .. } => path,
        }
    }
}

/// An input of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputItem {
    /// Its path.
    pub path: StorePath,
    /// The coordinator's copy, with the signature for import; none: it is for the agent's substitute servers.
    pub held: Option<ItemInfo>,
}

/// “Send me these derivations and sources” (at most [`BUNDLE_PATHS_LIMIT`]); the answer is a [`crate::bundle`] in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRequest {
    /// What is wanted.
    pub paths: Vec<StorePath>,
}

/// The most paths that one question may name.
pub const BUNDLE_PATHS_LIMIT: usize = 100_000;

/// An output that the agent is about to upload, or has uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its path, one of the derivation's outputs.
    pub path: StorePath,
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// The bytes of its nar.
    pub nar_size: u64,
    /// What it refers to, as the agent's store has it, sorted.
    pub references: Vec<StorePath>,
}

/// How much of an upload the coordinator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Bytes of the compressed nar, or of the log.
    pub received: u64,
    /// Whether it is whole, verified and kept. Always false for a log.
    pub complete: bool,
}

/// How a lease ends. The answer is sent after the database has it, and a report may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Report {
    /// Built here, and every output is uploaded and complete.
    Succeeded {
        /// All outputs of the derivation.
        outputs: Vec<Output>,
    },
    /// The builder failed.
    Failed {
        /// The daemon's words.
        message: String,
    },
    /// The builder was ended for its time.
    TimedOut {
        /// Which of the two.
        limit: TimeLimit,
        /// The daemon's words.
        message: String,
    },
    /// Ended because the coordinator said so.
    Canceled,
    /// The build could not be started here: the agent's fault, or its machine's, not the build's.
    SetupFailed {
        /// Which step.
        step: SetupStep,
        /// What happened, and what the agent's operator can do.
        message: String,
    },
    /// Inputs that neither the coordinator nor the agent's substitute servers provide; nothing was built.
    MissingInputs {
        /// Which.
        paths: Vec<StorePath>,
    },
    /// Given back unbuilt: the agent stops, or its daemon went away.
    HandedBack {
        /// Why.
        message: String,
    },
}

/// A build's limits in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeLimit {
    /// The whole build.
    Timeout,
    /// Without output.
    Silence,
}

/// The steps of a build's setup, for [`Report::SetupFailed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetupStep {
    /// Adding derivations or sources to the store.
    AddDerivations,
    /// Importing what the coordinator holds; its key may be missing from the daemon's ACL.
    ImportInputs,
    /// An output was there and could not be deleted.
    DeleteOutputs,
    /// The daemon answered success without having built, or built something else first.
    NotBuiltHere,
    /// This machine cannot run the builder.
    UnsupportedPlatform,
    /// The machine's disk was full before the build's end, by the build or by others.
    DiskFull,
    /// Something else.
    #[serde(other)]
    Other,
}

/// The coordinator's answer to a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The state that the build is in now.
    pub state: crate::BuildState,
}
