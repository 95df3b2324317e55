//! What is kept for how long: what would go, why something stays, and what the last look came to.

use drover_store::StorePath;
use serde::{Deserialize, Serialize};

use crate::set::{RevisionName, SetName};
use crate::{BuildId, Timestamp};

/// The most paths that are asked about at once.
pub const WHY_LIMIT: usize = 100;

/// Why something is kept: the first of these that was found, through what refers to it, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Ground {
    /// Revisions of sets that a rule keeps.
    Sets {
        /// The rule's pattern.
        names: String,
    },
    /// Revisions of sets that no rule names: they are kept as if by a rule without options.
    SetsWithoutRule,
    /// A build that has not ended needs it or makes it, or an agent holds one that does.
    OpenBuilds,
    /// A client asked for it lately.
    Asked,
    /// A fixed output that was needed lately.
    FixedOutputs,
    /// It came lately.
    Young,
    /// A source of derivations, which goes with them.
    Sources,
    /// There are no rules for sets: nothing goes.
    NoRules,
}

/// How many items there are of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Items.
    pub items: u64,
    /// Bytes of their compressed nars.
    pub bytes: u64,
}

/// What is kept for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFor {
    /// The reason.
    #[serde(flatten)]
    pub ground: Ground,
    /// How much.
    #[serde(flatten)]
    pub amount: Amount,
}

/// A question about what would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionQuestion {
    /// Why these stay or go; [`WHY_LIMIT`] at most.
    #[serde(default)]
    pub why: Vec<StorePath>,
}

/// What would stay and go if it were looked now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPlan {
    /// Whether there are rules: without them no output is ever removed.
    pub removes: bool,
    /// What stays, by the first reason that was found for each.
    pub kept: Vec<KeptFor>,
    /// Fixed outputs that go.
    pub fixed_outputs: Amount,
    /// Everything else that goes.
    pub others: Amount,
    /// What of that which stays is here only as long as no other server is found to have it.
    #[serde(default)]
    pub unless_elsewhere: Amount,
    /// What of that is announced to go: another server has it.
    #[serde(default)]
    pub leaving: Amount,
    /// Items that are not here because another server has them.
    #[serde(default)]
    pub elsewhere: u64,
    /// Revisions of sets that would be forgotten.
    pub revisions: u64,
    /// What was asked about, in the order of the question.
    pub why: Vec<Why>,
}

/// Whether something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is not here.
    NotHeld,
    /// It is kept.
    Kept,
    /// It goes: nothing keeps it.
    Goes,
    /// It is not here: another server has it, and requests are sent there.
    Elsewhere,
}

/// Where else something is, and since when that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherServer {
    /// The server's address.
    pub server: String,
    /// When it was last found to have it.
    pub found_at: Timestamp,
}

/// Why something stays or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What was asked about.
    pub path: StorePath,
    /// Whether it stays.
    pub fate: Fate,
    /// Why it stays.
    pub ground: Option<Ground>,
    /// From what it was reached: each refers to the one before, or was built with it. The last is kept for its own sake.
    pub way: Vec<StorePath>,
    /// A row that wants the last of them.
    pub row: Option<WantedBy>,
    /// A build that needs or makes the last of them.
    pub build: Option<BuildId>,
    /// When it is removed, if that was announced.
    pub due: Option<Timestamp>,
    /// Whether it is kept only as long as no other server is found to have it.
    #[serde(default)]
    pub unless_elsewhere: bool,
    /// The other server that was found to have it.
    #[serde(default)]
    pub other_server: Option<OtherServer>,
    /// When other servers were asked for it last, and none had it.
    #[serde(default)]
    pub missed_at: Option<Timestamp>,
}

/// A row of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedBy {
    /// The set.
    pub set: SetName,
    /// The newest of its revisions that is kept and has the row.
    pub revision: RevisionName,
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// For which system.
    pub system: String,
    /// Its cross target.
    pub target: Option<String>,
}

/// What one look at everything came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRun {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Revisions that were forgotten.
    pub revisions: u64,
    /// Items whose removal was announced.
    pub announced: u64,
    /// Items that stay after all.
    pub rescued: u64,
    /// Items that are not served any more.
    pub withdrawn: u64,
    /// Items that were removed.
    pub removed: Amount,
    /// Items that other servers were asked for.
    #[serde(default)]
    pub asked: u64,
    /// Items that another server has, and whose removal was announced for the sake of that.
    #[serde(default)]
    pub announced_elsewhere: u64,
    /// Items that were removed because another server has them: requests are sent there.
    #[serde(default)]
    pub redirected: Amount,
    /// Items that were not here, and that the other server does not have any more, either.
    #[serde(default)]
    pub lost: u64,
    /// Why it did not get to its end.
    pub error: Option<String>,
}

/// How far removal has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionStatus {
    /// Whether there are rules: without them no output is ever removed.
    pub removes: bool,
    /// Whether everything is being looked through now.
    pub running: bool,
    /// How often everything was looked through since the coordinator started; looks at what is due are not counted.
    pub runs: u64,
    /// The last look.
    pub last: Option<RetentionRun>,
    /// What is to go and is served with a shorter time to live.
    pub announced: Amount,
    /// What is not served any more and goes soon.
    pub withdrawn: Amount,
    /// What is to go because another server has it.
    #[serde(default)]
    pub leaving: Amount,
    /// Items that are not here because another server has them: requests are sent there.
    #[serde(default)]
    pub elsewhere: u64,
    /// Of these, those that were not found there when they were looked for last.
    #[serde(default)]
    pub not_found: u64,
    /// When the next of them is due.
    pub next_due: Option<Timestamp>,
}
