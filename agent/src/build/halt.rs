//! How a build ends before it is built.

use drover_wire::agent::{Report, SetupStep};

use super::control::{Control, Heed, Order};
use super::host::Refusal;
use crate::executor::{self, Error};

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

    /// For want of disk in the store. That is counted: it may be the derivation that fills every disk there is.
    pub(super) fn full(message: &str) -> Self {
        Self::setup(SetupStep::DiskFull, format!("the disk of this machine's store is full: {message}"))
    }

    /// What a failed step of the executor means for the build. What failed after an order failed because of it.
    pub(super) fn of(step: SetupStep, control: &Control, error: Error) -> Self {
        if let Some(order) = control.ordered(Heed::Any) {
            return Self::Ordered(order);
        }
        match error {
            Error::Away(message) => Self::Away(Report::HandedBack { message }),
            Error::Untrusted(words) => Self::setup(SetupStep::ImportInputs, words),
            Error::Full(message) => Self::full(&message),
            Error::Refused(message) => Self::setup(step, message),
            Error::Stream { attempted, source } if executor::is_full(&source) => {
                Self::setup(SetupStep::DiskFull, format!("the agent's disk is full: {attempted}: {source}"))
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

#[cfg(test)]
mod tests {
    use std::io;

    use drover_store::nar;

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
    fn an_absent_daemon_hands_the_build_back() {
        assert!(matches!(halt(Error::Away("gone".into())), Report::HandedBack { .. }));
    }

    #[test]
    fn a_full_disk_is_counted_and_told_by_the_system_and_not_by_words() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let tree = || nar::Error::Tree { action: "write", path: "x".into(), error: full() };
        for error in [
            Error::Full("no room".into()),
            Error::Stream { attempted: "build".into(), source: full() },
            Error::refused("copy".into(), &full()),
            Error::refused("copy".into(), &io::Error::from(io::ErrorKind::QuotaExceeded)),
            Error::refused("copy".into(), &tree()),
            Error::refused("copy".into(), &io::Error::other(tree())),
        ] {
            let report = halt(error);
            assert!(matches!(report, Report::SetupFailed { step: SetupStep::DiskFull, .. }), "{report:?}");
        }
        let words = "look at No space left on device";
        let report = halt(Error::refused(words.into(), &io::Error::other(words)));
        assert!(matches!(report, Report::SetupFailed { step: SetupStep::AddDerivations, .. }), "{report:?}");
    }

    #[test]
    fn what_fails_after_an_order_fails_because_of_it() {
        let control = Control::default();
        control.order(Order::Canceled);
        let halt = Halt::of(SetupStep::Other, &control, Error::Away("gone".into()));
        assert!(matches!(halt, Halt::Ordered(Order::Canceled)));
    }
}
