//! Hooks: what is done when something happened, how it stands, and what programs are told.

use std::fmt;
use std::str::FromStr;

use drover_store::StorePath;
use serde::{Deserialize, Serialize};

use crate::client::BuildDetails;
use crate::state::words;
use crate::{BuildId, ItemInfo, Timestamp};

words!(
    /// What can happen.
    Event, "an event" {
    /// There is a new build.
    BuildSubmitted = "build-submitted",
    /// An agent's builder was seen to run.
    BuildStarted = "build-started",
    /// A build succeeded: its outputs are items.
    BuildSuccess = "build-success",
    /// A build failed, or took too long.
    BuildFailure = "build-failure",
    /// A build was canceled.
    BuildCanceled = "build-canceled",
    /// An agent lacked inputs of a build that nobody provides.
    MissingInputs = "missing-inputs",
    /// The public can have an item.
    Published = "published",
});

words!(
    /// What hooks can do.
    HookKind, "what a hook does" {
    /// Show outputs to the public, as soon as all that they refer to can be had.
    Publish = "publish",
    /// Have what an agent lacked and nobody provides built.
    SubmitMissingInputs = "submit-missing-inputs",
    /// Build again what failed, on another agent.
    Retry = "retry",
    /// Copy what is published to a folder or a bucket, as any web server can serve it.
    Push = "push",
    /// Run a program.
    Command = "command",
});

/// A text that cannot be the name of a hook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” cannot be the name of a hook: one has 1 to 64 small letters, digits and “-”")]
pub struct HookNameError(String);

/// The name of a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HookName(String);

impl HookName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for HookName {
    type Err = HookNameError;

    fn from_str(text: &str) -> Result<Self, HookNameError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(HookNameError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for HookName {
    type Error = HookNameError;

    fn try_from(text: String) -> Result<Self, HookNameError> {
        text.parse()
    }
}

impl From<HookName> for String {
    fn from(name: HookName) -> Self {
        name.0
    }
}

/// A hook in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSummary {
    /// Its name.
    pub hook: HookName,
    /// What it does; none: it is not in the configuration any more, and its runs wait until it is.
    pub kind: Option<HookKind>,
    /// What it starts from.
    pub on: Vec<Event>,
    /// Whether it is switched on.
    pub enabled: bool,
    /// How many runs wait for their turn, or for their next try.
    pub waiting: u64,
    /// How many of those go on at the moment.
    pub running: u64,
    /// How many runs were given up.
    pub failed: u64,
    /// Why the last run that failed since the coordinator started did, or else one that was given up.
    pub last_error: Option<String>,
}

/// The runs of a hook that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRuns {
    /// How many there are.
    pub failed: u64,
    /// The newest of them, at most a hundred.
    pub runs: Vec<FailedRun>,
}

/// A run that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// What it started from.
    pub event: Event,
    /// The build that it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildId>,
    /// The store item that it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<StorePath>,
    /// How often it was tried.
    pub tries: u32,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// Why the last try failed.
    pub error: String,
}

/// Runs that are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRetried {
    /// How many.
    pub runs: u64,
}

/// What a program of a hook reads from its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookInput {
    /// The hook's name.
    pub hook: HookName,
    /// What happened.
    pub event: Event,
    /// When that was.
    pub at: Timestamp,
    /// The number of this run: the same again when it is tried again.
    pub run: u64,
    /// Which try it is; the first is 1.
    pub attempt: u32,
    /// The build, as it is now, if the event is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildDetails>,
    /// The store item, if the event is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemInfo>,
    /// What was missing, with `missing-inputs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<StorePath>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_escaping_in_an_address() {
        for good in ["publish", "to-mirror-2"] {
            assert_eq!(good.parse::<HookName>().unwrap().to_string(), good);
        }
        for bad in ["", "Push", "a/b", "..", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<HookName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_word_of_an_event_is_the_same_everywhere() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_string(event).unwrap(), format!("\"{event}\""));
            assert_eq!(event.as_str().parse::<Event>().unwrap(), *event);
        }
        for kind in HookKind::ALL {
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
