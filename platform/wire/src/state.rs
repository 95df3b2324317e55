//! The states of a build and the phases of a running one.

/// A word that names no state or phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{text}” is not {what}; there are: {known}")]
pub struct StateError {
    pub(crate) text: String,
    pub(crate) what: &'static str,
    pub(crate) known: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it, as it is on the wire and in the database.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::StateError;

            fn from_str(text: &str) -> Result<Self, $crate::StateError> {
                Self::ALL.iter().copied().find(|x| x.as_str() == text).ok_or_else(|| $crate::StateError {
                    text: text.chars().take(64).collect(),
                    what: $what,
                    known: Self::ALL.iter().map(|x| x.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}
pub(crate) use words;

words!(
    /// The state of a build.
    BuildState, "a build's state" {
    /// Some of its inputs or sources are not there yet.
    Waiting = "waiting",
    /// Everything is there; it goes to the next agent that fits.
    Ready = "ready",
    /// An agent holds it and has not started it.
    Allocated = "allocated",
    /// An agent builds it, or uploads what it built.
    Running = "running",
    /// Built; its outputs are here.
    Succeeded = "succeeded",
    /// The builder failed.
    Failed = "failed",
    /// The builder took too long, or was silent for too long.
    TimedOut = "timed-out",
    /// A build that it waits for failed.
    DependencyFailed = "dependency-failed",
    /// Somebody canceled it.
    Canceled = "canceled",
});

impl BuildState {
    /// Whether the build has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::DependencyFailed | Self::Canceled
        )
    }
}

words!(
    /// What an agent does with a build that it holds.
    Phase, "a phase" {
    /// It waits on the agent for a free slot.
    Queued = "queued",
    /// Derivations, sources and inputs are on their way into the agent's store.
    FetchingInputs = "fetching-inputs",
    /// The builder runs.
    Building = "building",
    /// It is built and waits for its upload.
    UploadQueued = "upload-queued",
    /// Outputs are on their way to the coordinator.
    Uploading = "uploading",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_on_the_wire_is_the_word_that_is_printed() {
        for state in BuildState::ALL {
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
            assert_eq!(state.as_str().parse::<BuildState>().unwrap(), *state);
        }
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(phase).unwrap(), format!("\"{phase}\""));
        }
    }

    #[test]
    fn an_unknown_state_is_refused_with_the_known_ones() {
        let error = "done".parse::<BuildState>().unwrap_err().to_string();
        assert!(error.contains("dependency-failed"), "{error}");
    }
}
