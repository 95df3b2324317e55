//! The names of builds, agents and leases.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{text}” is not {what}: it looks like {example}")]
pub struct IdError {
    text: String,
    what: &'static str,
    example: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self).map_err(|_| IdError {
                    text: text.chars().take(64).collect(),
                    what: $what,
                    example: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11",
                })
            }
        }
    };
}

uuid_id!(
    /// A build's UUID, given by the coordinator when it is submitted.
    BuildId,
    "a build's UUID"
);
uuid_id!(
    /// An agent's UUID, given by the coordinator when it is created.
    AgentId,
    "an agent's UUID"
);

/// A lease: one agent's time-limited hold on one build. A build that is given out again gets a new one, so what comes
/// late from an earlier holder is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LeaseId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| IdError {
            text: text.chars().take(64).collect(),
            what: "a lease's number",
            example: "1742",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_back_as_it_was_printed() {
        let id: BuildId = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse().unwrap();
        assert_eq!(id.to_string().parse::<BuildId>().unwrap(), id);
    }

    #[test]
    fn what_is_no_identifier_is_refused_with_an_example() {
        let error = "hello".parse::<AgentId>().unwrap_err().to_string();
        assert!(error.contains("“hello” is not an agent's UUID"), "{error}");
        assert!("-1".parse::<LeaseId>().is_err());
    }
}
