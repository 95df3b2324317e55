//! `drover set submit …`

use std::fs::File;

use drover_wire::client::Uploaded;
use drover_wire::set::SetSubmitted;
use serde::Serialize;

use crate::cli::commands::warn_of_sources;
use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::{count, thousands};
use crate::cli::{Exit, SubmitArgs};
use crate::client::rows::Rows;
use crate::client::sets::{self, Outcome};
use crate::client::{ClientError, Coordinator, Watch};

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    submitted: &'a SetSubmitted,
    uploaded: Uploaded,
}

pub(super) fn run(
    args: &SubmitArgs,
    coordinator: &Coordinator,
    out: &mut Out,
    watch: &Progress,
) -> Result<Exit, ClientError> {
    let rows = read(args, watch)?;
    let named = (&args.set, &args.revision);
    let outcome = sets::submit(coordinator, named, &rows, args.keeps(), &args.store, watch)?;
    watch.end();
    warn_of_sources(&outcome.sent.nowhere, watch);
    let summary = Summary { submitted: &outcome.submitted, uploaded: outcome.sent.uploaded };
    out.value(&summary, |out| words(&outcome, args.keeps()).iter().try_for_each(|line| out.line(line)))?;
    Ok(Exit::Success)
}

fn read(args: &SubmitArgs, watch: &Progress) -> Result<Rows, ClientError> {
    if args.from.as_os_str() == "-" {
        return Rows::read(std::io::stdin().lock(), "standard input", watch);
    }
    let file = File::open(&args.from).map_err(|error| {
        ClientError::Usage(format!("the rows in {} cannot be read: {error}", args.from.display()))
    })?;
    Rows::read(file, &args.from.display().to_string(), watch)
}

fn words(outcome: &Outcome, keeps: Option<bool>) -> Vec<String> {
    let Outcome { sent, submitted, resent } = outcome;
    let name = format!("{}@{}", submitted.set, submitted.revision);
    let mut words = vec![count(submitted.rows, "row", "rows")];
    if !submitted.new {
        let what = if *resent {
            "submitted; the first answer was lost, so what it changed is not known: drover set show has how it stands"
        } else {
            match keeps {
                None => "submitted before with the same rows; nothing has changed",
                Some(true) => {
                    "submitted before with the same rows; builds that only superseded revisions want go on from now on"
                }
                Some(false) => {
                    "submitted before with the same rows; builds that only superseded revisions want are canceled"
                }
            }
        };
        return vec![format!("{name}: {}, {what}", words[0])];
    }
    match &submitted.superseded {
        Some(before) => {
            words.push(format!("{} new", thousands(submitted.rows_new)));
            words.push(format!("{} gone since {before}", thousands(submitted.rows_gone)));
        }
        None => words.push("the first revision".to_owned()),
    }
    if submitted.not_evaluated > 0 {
        words.push(format!("{} not evaluated", thousands(submitted.not_evaluated)));
    }
    let mut builds = vec![count(submitted.builds, "new build", "new builds")];
    if submitted.for_inputs > 0 {
        builds.push(format!("{} for inputs", thousands(submitted.for_inputs)));
    }
    if submitted.canceled > 0 {
        builds.push(format!("{} canceled", thousands(submitted.canceled)));
    }
    builds.push(format!(
        "uploaded {} and {}",
        count(sent.uploaded.derivations, "derivation", "derivations"),
        count(sent.uploaded.sources, "source", "sources")
    ));
    let mut lines = vec![format!("{name}: {}", words.join(", ")), builds.join(", ")];
    if submitted.missing_sources_count > 0 {
        let sources = count(submitted.missing_sources_count, "source", "sources");
        lines.push(format!(
            "waiting for {sources} that nobody has uploaded: drover set blockers {} names what they hold up",
            submitted.set
        ));
    }
    lines
}
