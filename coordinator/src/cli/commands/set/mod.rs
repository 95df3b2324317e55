//! `drover set …`

mod blockers;
mod diff;
mod show;
mod submit;

use drover_wire::set::{DiffQuestion, SetDropped, SetsQuestion};

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::{clean, count};
use crate::cli::{Exit, SetArgs, SetCommand};
use crate::client::{ClientError, sets};

pub(in crate::cli) fn run(args: &SetArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match &args.command {
        SetCommand::Submit(args) => return submit::run(args, &coordinator, out, watch),
        SetCommand::List { dropped } => {
            let sets = sets::list(&coordinator, SetsQuestion { dropped: *dropped })?;
            if out.is_json() {
                sets.iter().try_for_each(|set| out.json(set))?;
            } else {
                out.table(&show::list(&sets, *dropped))?;
            }
        }
        SetCommand::Show { set } => {
            let details = sets::details(&coordinator, set)?;
            out.value(&details, |out| show::show(&details, out))?;
        }
        SetCommand::Diff { a, b, fail_if_broken } => {
            let diff = sets::diff(&coordinator, &DiffQuestion { a: a.clone(), b: b.clone() })?;
            out.value(&diff, |out| diff::show(&diff, out))?;
            if *fail_if_broken && diff::breaks(&diff) {
                return Ok(Exit::Failed);
            }
        }
        SetCommand::Blockers { set, limit } => {
            let blockers = sets::blockers(&coordinator, set, Some(*limit))?;
            out.value(&blockers, |out| blockers::show(&blockers, out))?;
        }
        SetCommand::Drop { set } => {
            let dropped = sets::forget(&coordinator, set)?;
            out.value(&dropped, |out| out.line(forgotten(&dropped)))?;
        }
    }
    Ok(Exit::Success)
}

fn forgotten(dropped: &SetDropped) -> String {
    format!(
        "{}: dropped with {}, {} canceled",
        dropped.set,
        count(dropped.revisions, "revision", "revisions"),
        count(dropped.canceled, "build", "builds")
    )
}

/// A system, and what is cross-compiled there.
fn system(system: &str, target: Option<&str>) -> String {
    match target {
        Some(target) => format!("{} for {}", clean(system), clean(target)),
        None => clean(system).into_owned(),
    }
}
