//! Sets: what a branch, a patch or a release asks of the farm. Names, the rows that a revision is submitted as, and
//! what is told about them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

use crate::client::check_tags;
use crate::{BuildId, BuildState, Timestamp};

/// The most bytes of a name of a set or of a revision.
pub const NAME_LIMIT: usize = 128;
/// The most rows of a revision.
pub const ROWS_LIMIT: u64 = 1_000_000;
/// The most bytes of a row as a line of JSON.
pub const ROW_LIMIT: usize = 64 * 1024;
/// The most bytes of a package's name, a version, a system or a target.
pub const WORD_LIMIT: usize = 1024;
/// The media type of a revision's rows: lines of JSON, zstd-compressed as a whole.
pub const ROWS_TYPE: &str = "application/x-drover-rows+zstd";

/// Why a text is no name of a set or revision, or no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// A name.
    #[error(
        "“{text}” cannot be {what}: {why}; it has 1 to {NAME_LIMIT} letters, digits and “.”, “_”, “+”, “-”, and \
         begins with a letter or digit"
    )]
    Name {
        /// Its beginning, without control characters.
        text: String,
        /// A set's name, or a revision's.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A row.
    #[error("{0}")]
    Row(String),
}

fn check_name(text: &str, what: &'static str) -> Result<(), SetError> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > NAME_LIMIT {
        "it is too long"
    } else if text.contains('/') {
        "it has a slash (write “-” instead)"
    } else if text.chars().any(char::is_control) {
        "it has control characters"
    } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c)) {
        "it has other characters"
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "it begins with a sign"
    } else {
        return Ok(());
    };
    let text = text.chars().filter(|c| !c.is_control()).take(64).collect();
    Err(SetError::Name { text, what, why })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = SetError;

            fn from_str(text: &str) -> Result<Self, SetError> {
                text.to_owned().try_into()
            }
        }

        impl TryFrom<String> for $name {
            type Error = SetError;

            fn try_from(text: String) -> Result<Self, SetError> {
                check_name(&text, $what)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a set: `master`, `core-updates`, `patch-71234`, `release-1.5`.
    SetName, "the name of a set"
);
name!(
    /// The name of a revision of a set: a commit, a version, a date.
    RevisionName, "the name of a revision"
);

/// A revision of a set: `NAME@REVISION`, or `NAME` for the current one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetRef {
    /// The set.
    pub set: SetName,
    /// The revision; none: the current one.
    pub revision: Option<RevisionName>,
}

impl FromStr for SetRef {
    type Err = SetError;

    fn from_str(text: &str) -> Result<Self, SetError> {
        let (set, revision) = match text.split_once('@') {
            Some((set, revision)) => (set, Some(revision.parse()?)),
            None => (text, None),
        };
        Ok(Self { set: set.parse()?, revision })
    }
}

impl TryFrom<String> for SetRef {
    type Error = SetError;

    fn try_from(text: String) -> Result<Self, SetError> {
        text.parse()
    }
}

impl From<SetRef> for String {
    fn from(set: SetRef) -> Self {
        set.to_string()
    }
}

impl fmt::Display for SetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.set),
            None => self.set.fmt(f),
        }
    }
}

/// One thing that a revision wants: a package for a system, and perhaps for a cross target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRow", into = "RawRow")]
pub struct Row {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The system that it is for, or is built on when there is a target.
    pub system: String,
    /// The triple that it is cross-compiled for.
    pub target: Option<String>,
    /// What is to be built for it.
    pub wanted: RowWanted,
    /// Higher goes first.
    pub priority: i64,
    /// Seconds that the build may take; none: the coordinator's default.
    pub timeout: Option<u64>,
    /// Seconds that it may be silent; none: the coordinator's default.
    pub max_silent_time: Option<u64>,
    /// Whether its outputs may be published.
    pub publish: bool,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
}

/// What a [`Row`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowWanted {
    /// This derivation.
    Derivation(StorePath),
    /// Nothing: the package could not be evaluated, for this reason.
    NotEvaluated(String),
}

/// A row as its line has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    derivation: Option<StorePath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    package: String,
    version: String,
    system: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    priority: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_silent_time: Option<u64>,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    publish: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<RawRow> for Row {
    type Error = SetError;

    fn try_from(raw: RawRow) -> Result<Self, SetError> {
        let wanted = match (raw.derivation, raw.error) {
            (Some(path), None) if path.is_derivation() => RowWanted::Derivation(path),
            (Some(path), None) => {
                return Err(SetError::Row(format!("{path} is no derivation: its name does not end in .drv")));
            }
            (None, Some(error)) => RowWanted::NotEvaluated(error),
            (Some(_), Some(_)) => {
                return Err(SetError::Row("it has both “derivation” and “error”; give one of them".into()));
            }
            (None, None) => {
                return Err(SetError::Row(
                    "it has neither “derivation” nor “error”; give one of them".into(),
                ));
            }
        };
        let words = [
            ("package", Some(&raw.package)),
            ("version", Some(&raw.version)),
            ("system", Some(&raw.system)),
            ("target", raw.target.as_ref()),
        ];
        for (field, word) in words {
            let Some(word) = word else { continue };
            // Some packages have an empty version.
            if (word.is_empty() && field != "version") || word.len() > WORD_LIMIT {
                return Err(SetError::Row(format!("its “{field}” must have 1 to {WORD_LIMIT} bytes")));
            }
            if word.chars().any(char::is_control) {
                return Err(SetError::Row(format!("its “{field}” has control characters")));
            }
        }
        check_tags(&raw.tags).map_err(SetError::Row)?;
        Ok(Self {
            package: raw.package,
            version: raw.version,
            system: raw.system,
            target: raw.target,
            wanted,
            priority: raw.priority,
            timeout: raw.timeout,
            max_silent_time: raw.max_silent_time,
            publish: raw.publish,
            tags: raw.tags,
        })
    }
}

impl From<Row> for RawRow {
    fn from(row: Row) -> Self {
        let (derivation, error) = match row.wanted {
            RowWanted::Derivation(path) => (Some(path), None),
            RowWanted::NotEvaluated(error) => (None, Some(error)),
        };
        Self {
            derivation,
            error,
            package: row.package,
            version: row.version,
            system: row.system,
            target: row.target,
            priority: row.priority,
            timeout: row.timeout,
            max_silent_time: row.max_silent_time,
            publish: row.publish,
            tags: row.tags,
        }
    }
}

/// The query of a revision's submission, whose body are its rows ([`ROWS_TYPE`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSubmission {
    /// How many rows follow: fewer or more are refused.
    pub rows: u64,
    /// Whether builds that only the revision before wants go on when this one, or a later one, takes its place; none:
    /// as the set has it, and no for a new set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<bool>,
}

/// What became of a [`SetSubmission`]. Nothing of it was done if it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSubmitted {
    /// The set.
    pub set: SetName,
    /// Its current revision now.
    pub revision: RevisionName,
    /// The revision that it took the place of.
    pub superseded: Option<RevisionName>,
    /// Whether the revision is new; else it was here already, with the same rows, and nothing was changed but whether
    /// the set keeps, if that was said.
    pub new: bool,
    /// Its rows; a row that came twice counts once.
    pub rows: u64,
    /// Rows that the revision before did not have.
    pub rows_new: u64,
    /// Rows of the revision before that this one does not have.
    pub rows_gone: u64,
    /// Rows whose package could not be evaluated.
    pub not_evaluated: u64,
    /// New builds for rows.
    pub builds: u64,
    /// New builds beside them, for inputs that nothing provides.
    pub for_inputs: u64,
    /// Builds that were canceled because nobody wants them any more.
    pub canceled: u64,
    /// Sources that nobody has, below the new rows: what needs them waits. At most a hundred are named.
    pub missing_sources: Vec<StorePath>,
    /// How many such sources there are.
    pub missing_sources_count: u64,
}

/// What became of `set drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDropped {
    /// The set.
    pub set: SetName,
    /// The revisions that it had.
    pub revisions: u64,
    /// Builds that were canceled because nobody wants them any more.
    pub canceled: u64,
}

/// How the rows of a revision stand. Each counts once; all but `wanted` add up to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All rows.
    pub wanted: u64,
    /// Their outputs were built.
    pub done: u64,
    /// Their own build failed or timed out.
    pub failed: u64,
    /// Something that they need failed or timed out, or was canceled.
    pub dependency_failed: u64,
    /// An agent has their build.
    pub running: u64,
    /// Their build waits for an agent, for inputs or for sources.
    pub waiting: u64,
    /// Their build was canceled, or there is none.
    pub canceled: u64,
    /// Their package could not be evaluated.
    pub not_evaluated: u64,
}

impl Tally {
    /// How much is done, in hundredths of a percent of all rows, rounded down: only all is 10,000. None of no rows.
    #[must_use]
    pub fn per_myriad(&self) -> Option<u64> {
        (self.done * 10_000).checked_div(self.wanted)
    }

    /// Counts a row whose newest build is in this state; none: there is no build.
    pub fn count(&mut self, state: Option<BuildState>, rows: u64) {
        self.wanted += rows;
        *match state {
            Some(BuildState::Succeeded) => &mut self.done,
            Some(BuildState::Failed | BuildState::TimedOut) => &mut self.failed,
            Some(BuildState::DependencyFailed) => &mut self.dependency_failed,
            Some(BuildState::Allocated | BuildState::Running) => &mut self.running,
            Some(BuildState::Waiting | BuildState::Ready) => &mut self.waiting,
            Some(BuildState::Canceled) | None => &mut self.canceled,
        } += rows;
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.wanted += other.wanted;
        self.done += other.done;
        self.failed += other.failed;
        self.dependency_failed += other.dependency_failed;
        self.running += other.running;
        self.waiting += other.waiting;
        self.canceled += other.canceled;
        self.not_evaluated += other.not_evaluated;
    }
}

/// A set in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSummary {
    /// Its name.
    pub set: SetName,
    /// Its current revision.
    pub revision: RevisionName,
    /// When that was submitted.
    pub submitted_at: Timestamp,
    /// How many revisions of it are known.
    pub revisions: u64,
    /// Whether builds of superseded revisions go on.
    pub keep: bool,
    /// When it was dropped, if it was; its rows are those of its last revision then.
    #[serde(default)]
    pub dropped_at: Option<Timestamp>,
    /// How its rows stand.
    pub total: Tally,
}

/// The query of a list of sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetsQuestion {
    /// Those that were dropped, and not the others.
    #[serde(default)]
    pub dropped: bool,
}

/// Everything about a revision of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetDetails {
    /// The set.
    pub set: SetName,
    /// The revision.
    pub revision: RevisionName,
    /// Whether it is the current one.
    pub current: bool,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// Whether builds of superseded revisions go on.
    pub keep: bool,
    /// One for each system and target, by name.
    pub parts: Vec<SetPart>,
    /// All of them together.
    pub total: Tally,
    /// When everything that can be built will be, if that can be said.
    pub estimate: Option<Estimate>,
    /// All revisions of the set, the newest first; at most a hundred.
    pub revisions: Vec<RevisionSummary>,
}

/// The rows of one system and target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetPart {
    /// The system.
    pub system: String,
    /// The cross target.
    pub target: Option<String>,
    /// How they stand.
    pub tally: Tally,
    /// When those that wait or run will be done, if that can be said.
    pub estimate: Option<Estimate>,
}

/// An estimate, with what it rests on: so many rows ended in so much time, and the rest will go on at that pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Seconds from now.
    pub seconds: u64,
    /// How many rows' builds ended.
    pub ended: u64,
    /// In how many seconds before now.
    pub within: u64,
}

/// A revision in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionSummary {
    /// Its name.
    pub revision: RevisionName,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// Its rows.
    pub rows: u64,
}

/// The query of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffQuestion {
    /// Before.
    pub a: SetRef,
    /// After.
    pub b: SetRef,
}

/// What differs between two revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDiff {
    /// Before, with its revision.
    pub a: SetRef,
    /// After, with its revision.
    pub b: SetRef,
    /// By package, system and target.
    pub changes: Vec<Difference>,
    /// How many there are of each kind.
    pub counts: BTreeMap<DifferenceKind, u64>,
    /// How many rows are the same in both and not broken.
    pub same: u64,
}

/// One package, system and target that differs, or is broken on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What of it.
    pub kind: DifferenceKind,
    /// The package.
    pub package: String,
    /// The system.
    pub system: String,
    /// The cross target.
    pub target: Option<String>,
    /// How it is before.
    pub before: Option<RowState>,
    /// How it is after.
    pub after: Option<RowState>,
}

/// How a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowState {
    /// The version.
    pub version: String,
    /// The derivation; none if it could not be evaluated.
    pub derivation: Option<StorePath>,
    /// Its newest build.
    pub build: Option<BuildId>,
    /// That build's state; none: there is no build, or nothing to build.
    pub state: Option<BuildState>,
    /// Why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a [`Difference`] is. A row is broken when it could not be evaluated, or it or something that it needs failed
/// or timed out; it is whole when it was built; else it is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// Whole before, broken after.
    NewlyBroken,
    /// Broken before, whole after.
    Fixed,
    /// Broken before and after.
    StillBroken,
    /// Not known before, broken after.
    Broken,
    /// Only after.
    New,
    /// Only before.
    Gone,
    /// Another derivation, or another priority, timeout and so on, and nothing that is said above.
    Changed,
}

/// The query of a list of blockers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockersQuestion {
    /// At most this many; 100 by default, 10,000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What holds a set up, that which holds up most rows first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blockers {
    /// The set.
    pub set: SetName,
    /// The revision.
    pub revision: RevisionName,
    /// What holds it up.
    pub blockers: Vec<Blocker>,
    /// How many there are.
    pub count: u64,
    /// How many rows are held up by at least one of them, those that failed themselves among them.
    pub rows: u64,
}

/// Something that failed or is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The derivation that failed or was canceled, that no build makes, or that names the missing source: the first
    /// one that does and that rows need.
    pub derivation: StorePath,
    /// Its system.
    pub system: String,
    /// Its newest build.
    pub build: Option<BuildId>,
    /// That build's state.
    pub state: Option<BuildState>,
    /// A source of it that nobody has uploaded, where that is the reason. It is one blocker, whatever names it.
    pub missing_source: Option<StorePath>,
    /// How many rows wait for it: they need it, or are it. What failed holds up what needs it through builds that
    /// wait or failed with it; what is below it is not looked at.
    pub holds_up: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRV: &str = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello-2.12.2.drv";

    fn row(json: &str) -> Result<Row, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn names_with_slashes_control_characters_or_nothing_are_refused_with_the_reason() {
        for (name, why) in [
            ("wip/foo", "slash"),
            ("a\u{7}b", "control"),
            ("", "empty"),
            ("-x", "begins"),
            ("..", "begins"),
            ("a b", "other"),
            ("ä", "other"),
            (&*"x".repeat(129), "too long"),
        ] {
            let error = name.parse::<SetName>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains('\u{7}'), "{error}");
        }
        for name in ["master", "core-updates", "patch-71234", "release-1.5", "1.5+git"] {
            assert_eq!(name.parse::<SetName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_set_is_named_with_or_without_its_revision() {
        let named: SetRef = "master@abc123".parse().unwrap();
        assert_eq!(named.revision.as_ref().map(RevisionName::as_str), Some("abc123"));
        assert_eq!(named.to_string(), "master@abc123");
        assert_eq!("master".parse::<SetRef>().unwrap().revision, None);
        assert!("master@".parse::<SetRef>().is_err());
        assert!("a@b@c".parse::<SetRef>().is_err());
    }

    #[test]
    fn a_row_has_its_defaults_and_comes_back_as_it_was() {
        let short = format!(
            r#"{{"derivation":"{DRV}","package":"hello","version":"2.12.2","system":"x86_64-linux"}}"#
        );
        let parsed = row(&short).unwrap();
        assert!(parsed.publish && parsed.priority == 0 && parsed.target.is_none());
        assert_eq!(serde_json::to_string(&parsed).unwrap(), short);
        let failed =
            r#"{"error":"unbound variable","package":"x","version":"","system":"s","publish":false}"#;
        assert_eq!(row(failed).unwrap().wanted, RowWanted::NotEvaluated("unbound variable".into()));
    }

    #[test]
    fn rows_that_say_too_little_too_much_or_the_wrong_thing_are_refused() {
        let rest = r#""package":"x","version":"1","system":"s"}"#;
        assert!(row(&format!("{{{rest}")).unwrap_err().to_string().contains("neither"));
        let both = format!(r#"{{"derivation":"{DRV}","error":"e",{rest}"#);
        assert!(row(&both).unwrap_err().to_string().contains("both"));
        let source = format!(r#"{{"derivation":"{}",{rest}"#, DRV.trim_end_matches(".drv"));
        assert!(row(&source).unwrap_err().to_string().contains("no derivation"));
        let typo = format!(r#"{{"derivation":"{DRV}","timout":3,{rest}"#);
        assert!(row(&typo).unwrap_err().to_string().contains("timout"));
        let control = format!(r#"{{"derivation":"{DRV}","package":"a\u001b","version":"1","system":"s"}}"#);
        assert!(row(&control).unwrap_err().to_string().contains("control"));
        let tag = format!(r#"{{"derivation":"{DRV}","tags":{{"a=b":"c"}},{rest}"#);
        assert!(row(&tag).unwrap_err().to_string().contains("the tag “a=b”"));
    }

    #[test]
    fn a_tally_adds_up_and_only_all_is_all() {
        let mut tally = Tally::default();
        tally.count(Some(BuildState::Succeeded), 29_999);
        tally.count(Some(BuildState::Running), 1);
        assert_eq!(tally.per_myriad(), Some(9_999));
        assert_eq!(tally.wanted, 30_000);
        assert_eq!(Tally::default().per_myriad(), None);
    }
}
