//! Sets: submitting revisions and asking how they stand.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use drover_wire::route::clients;
use drover_wire::set::{
    Blockers, BlockersQuestion, DiffQuestion, RevisionName, SetDetails, SetDiff, SetDropped, SetName, SetRef,
    SetSubmission, SetSubmitted, SetSummary, SetsQuestion,
};

use super::retry::Patience;
use super::rows::Rows;
use super::upload::{Sent, bring_paths};
use super::{ClientError, Coordinator, Unit, Watch};

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was uploaded for it.
    pub sent: Sent,
    /// What the coordinator says of it.
    pub submitted: SetSubmitted,
    /// Whether the rows were sent more than once, since an answer was lost: a revision that is not new may then be new
    /// all the same.
    pub resent: bool,
}

/// Makes these rows a revision of this set. Derivations and sources that the coordinator lacks are looked for in
/// `places`, which are folders with items by their base names, and uploaded first. Safe to be repeated.
///
/// # Errors
/// A row whose derivation is nowhere; what uploading says; a refusal, or a coordinator that stays away.
pub fn submit(
    coordinator: &Coordinator,
    (set, revision): (&SetName, &RevisionName),
    rows: &Rows,
    keep: Option<bool>,
    places: &[PathBuf],
    watch: &dyn Watch,
) -> Result<Outcome, ClientError> {
    let sent = match &*rows.wanted() {
        [] => Sent::default(),
        wanted => {
            watch.begin("reading derivations", None, Unit::Things);
            bring_paths(coordinator, wanted, places, watch).map_err(|error| of_row(error, rows, places))?
        }
    };
    let doing = format!("submitting {set}@{revision}");
    let terms = SetSubmission { rows: rows.count(), keep };
    let mut patience = Patience::some();
    let mut resent = false;
    loop {
        watch.begin("submitting rows", Some(rows.body().len() as u64), Unit::Bytes);
        let mut body = Watched { bytes: rows.body(), watch };
        match coordinator.submit_rows(&doing, (set, revision), &terms, &mut body) {
            Ok(submitted) => return Ok(Outcome { sent, submitted, resent }),
            Err(error) if error.is_temporary() => patience.wait_after(error, watch)?,
            Err(error) => return Err(error),
        }
        resent = true;
    }
}

/// What is wrong with a derivation as a fault of the row that wants it.
fn of_row(error: ClientError, rows: &Rows, places: &[PathBuf]) -> ClientError {
    let folders =
        || places.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" nor in ");
    let blamed = match &error {
        ClientError::NoSuchDerivation { file } => base_name(file).and_then(|name| {
            rows.blame(name, |path| {
                format!(
                    "its derivation {path} is neither in {} nor at the coordinator: compute it again, since it may \
                     have been collected as garbage, or say with --store where it is",
                    folders()
                )
            })
        }),
        ClientError::BadDerivation { file, why } => base_name(file).and_then(|name| {
            rows.blame(name, |_| format!("its derivation {} cannot be submitted: {why}", file.display()))
        }),
        _ => None,
    };
    blamed.unwrap_or(error)
}

/// Every set, by name.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn list(coordinator: &Coordinator, question: SetsQuestion) -> Result<Vec<SetSummary>, ClientError> {
    coordinator.ask_query("listing sets", &clients::SETS, &[], &question)
}

/// How a set stands, or a revision of it.
///
/// # Errors
/// As [`list`]; there is no such set or revision, here and below.
pub fn details(coordinator: &Coordinator, set: &SetRef) -> Result<SetDetails, ClientError> {
    coordinator.ask(&format!("asking about the set {set}"), &clients::SET, &[set])
}

/// What differs between two revisions, of one set or of two.
///
/// # Errors
/// As [`details`].
pub fn diff(coordinator: &Coordinator, question: &DiffQuestion) -> Result<SetDiff, ClientError> {
    let doing = format!("comparing {} with {}", question.a, question.b);
    coordinator.ask_query(&doing, &clients::DIFF, &[], question)
}

/// What holds a set up, at most so many things.
///
/// # Errors
/// As [`details`].
pub fn blockers(
    coordinator: &Coordinator,
    set: &SetRef,
    limit: Option<u32>,
) -> Result<Blockers, ClientError> {
    let doing = format!("asking what holds up {set}");
    coordinator.ask_query(&doing, &clients::BLOCKERS, &[set], &BlockersQuestion { limit })
}

/// Forgets a set, and cancels what only it wanted.
///
/// # Errors
/// As [`details`].
pub fn forget(coordinator: &Coordinator, set: &SetName) -> Result<SetDropped, ClientError> {
    coordinator.ask(&format!("dropping the set {set}"), &clients::DROP_SET, &[set])
}

fn base_name(file: &Path) -> Option<&str> {
    file.file_name().and_then(|name| name.to_str())
}

/// Bytes that are being sent.
struct Watched<'a> {
    bytes: &'a [u8],
    watch: &'a dyn Watch,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.bytes.read(buffer)?;
        self.watch.advance(n as u64);
        Ok(n)
    }
}
