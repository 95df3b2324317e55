//! The exit codes: one table, for the program and for its help.

use drover_wire::BuildState;

use crate::client::ClientError;
use crate::serve::ServeError;

macro_rules! exits {
    ($($name:ident = $code:literal, $words:literal;)+) => {
        /// How the program ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Exit { $(#[doc = $words] $name = $code),+ }

        impl Exit {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What it means, in words.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words),+ }
            }
        }

        /// The table of exit codes, for the help.
        pub const EXITS: &str = concat!("Exit codes:" $(, "\n  ", $code, "  ", $words)+);
    };
}

exits! {
    Success = 0, "all is well";
    Failed = 1, "the build failed, a mismatch was found, or what came is not what was promised";
    BadInput = 2, "wrong usage, or a file that is missing or not what it should be";
    Unreachable = 3, "the coordinator did not answer";
    Refused = 4, "the coordinator refused: the token, or what was asked for";
    Local = 5, "something on this machine failed, such as a full disk";
    TimedOut = 6, "the build took too long, or was silent for too long";
    DependencyFailed = 7, "a build that it waits for failed";
    Canceled = 8, "the build was canceled";
}

impl Exit {
    /// How a command ends that waited for a build which ended like this.
    #[must_use]
    pub fn of_build(state: BuildState) -> Self {
        match state {
            BuildState::Failed => Self::Failed,
            BuildState::TimedOut => Self::TimedOut,
            BuildState::DependencyFailed => Self::DependencyFailed,
            BuildState::Canceled => Self::Canceled,
            BuildState::Succeeded
            | BuildState::Waiting
            | BuildState::Ready
            | BuildState::Allocated
            | BuildState::Running => Self::Success,
        }
    }

    /// The worse of two: what failed by itself goes before what was ended, and that before what was never tried.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Success => 0,
            Self::Canceled => 1,
            Self::DependencyFailed => 2,
            Self::TimedOut => 3,
            Self::Failed => 4,
            Self::Refused => 5,
            Self::BadInput => 6,
            Self::Unreachable => 7,
            Self::Local => 8,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&ClientError> for Exit {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Usage(_)
            | ClientError::NoToken { .. }
            | ClientError::BadToken { .. }
            | ClientError::BadUrl { .. }
            | ClientError::BadDerivation { .. }
            | ClientError::MissingDerivations { .. }
            | ClientError::NoSuchDerivation { .. }
            | ClientError::BadRow { .. }
            | ClientError::Exists { .. } => Self::BadInput,
            ClientError::Unreachable { .. } | ClientError::NotACoordinator { .. } => Self::Unreachable,
            ClientError::Refused { .. } => Self::Refused,
            ClientError::Local { .. } => Self::Local,
            ClientError::Corrupt { .. } | ClientError::NoLog { .. } => Self::Failed,
            // Whoever reads has seen enough.
            ClientError::OutputClosed => Self::Success,
        }
    }
}

impl From<&ServeError> for Exit {
    fn from(error: &ServeError) -> Self {
        match error {
            ServeError::Config(_) => Self::BadInput,
            #[allow(unreachable_patterns, reason = "every other way of failing to serve is this machine's")]
            _ => Self::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in Exit::ALL {
            assert!(EXITS.contains(&format!("\n  {}  {}", *exit as u8, exit.words())));
        }
    }

    #[test]
    fn every_end_of_a_build_but_success_has_a_code_of_its_own() {
        let ends = BuildState::ALL.iter().filter(|s| s.is_final() && **s != BuildState::Succeeded);
        let codes: std::collections::HashSet<_> = ends.clone().map(|s| Exit::of_build(*s)).collect();
        assert_eq!(codes.len(), ends.count());
        assert!(!codes.contains(&Exit::Success));
    }

    #[test]
    fn a_failure_goes_before_what_only_follows_from_it() {
        let all = [Exit::Success, Exit::DependencyFailed, Exit::Failed, Exit::Canceled, Exit::TimedOut];
        assert_eq!(all.into_iter().fold(Exit::Success, Exit::worse), Exit::Failed);
    }
}
