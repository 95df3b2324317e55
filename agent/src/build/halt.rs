//! How a build ends before it is built.

use std::io;

use drover_wire::agent::{Report, SetupStep};

use super::control::{Control, Heed, Order};
use super::host::Refusal;
use crate::executor::Error;

/// Why a build goes no further.
#[derive(Debug)]
pub(super) enum Halt {
    /// Somebody said so.
    Ordered(Order),
    /// It ends with this report.
    Report(Report),
    /// As a report, and the executor is away.
    Away(Report),
}

impl Halt {
    pub(super) fn setup(step: SetupStep, message: impl ToString) -> Self {
        Self::Report(Report::SetupFailed { step, message: message.to_string() })
    }

    /// What a failed step of the executor means for the build. What failed after an order failed because of it.
    pub(super) fn of(step: SetupStep, control: &Control, error: Error) -> Self {
        if let Some(order) = control.ordered(Heed::Any) {
            return Self::Ordered(order);
        }
        match error {
            Error::Away(message) => Self::Away(Report::HandedBack { message }),
            Error::Untrusted(words) => Self::setup(SetupStep::ImportInputs, words),
            Error::Refused(message) if is_full(&message) => Self::Report(Report::HandedBack {
                message: format!("the disk of this machine's store is full: {message}"),
            }),
            Error::Refused(message) => Self::setup(step, message),
            Error::Stream { attempted, source } if source.kind() == io::ErrorKind::StorageFull => {
                Self::Report(Report::HandedBack {
                    message: format!("the agent's disk is full: {attempted}: {source}"),
                })
            }
            error @ Error::Stream { .. } => Self::setup(step, error),
        }
    }

    /// What the coordinator's “no” means for the build.
    pub(super) fn refused(step: SetupStep, refusal: Refusal) -> Self {
        match refusal {
            Refusal::Ordered(order) => Self::Ordered(order),
            Refusal::Lost => Self::Ordered(Order::Lost),
            Refusal::Final(error) => Self::setup(step, error),
        }
    }
}

/// Whether these words of the daemon are about a full disk.
pub(super) fn is_full(words: &str) -> bool {
    words.contains("No space left on device") || words.contains("database or disk is full")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt(error: Error) -> Report {
        match Halt::of(SetupStep::AddDerivations, &Control::default(), error) {
            Halt::Report(report) | Halt::Away(report) => report,
            Halt::Ordered(order) => panic!("{order:?}"),
        }
    }

    #[test]
    fn an_input_by_a_stranger_fails_the_import_in_whatever_step_it_shows() {
        let report = halt(Error::Untrusted("a stranger's".into()));
        let expected = Report::SetupFailed { step: SetupStep::ImportInputs, message: "a stranger's".into() };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_full_disk_and_an_absent_daemon_hand_the_build_back() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for error in [
            Error::Away("gone".into()),
            Error::Stream { attempted: "build".into(), source: full },
            Error::Refused("writing to file: No space left on device".into()),
        ] {
            assert!(matches!(halt(error), Report::HandedBack { .. }));
        }
    }

    #[test]
    fn what_fails_after_an_order_fails_because_of_it() {
        let control = Control::default();
        control.order(Order::Canceled);
        let halt = Halt::of(SetupStep::Other, &control, Error::Away("gone".into()));
        assert!(matches!(halt, Halt::Ordered(Order::Canceled)));
    }
}
