//! `drover hooks …`

use drover_wire::hook::{FailedRuns, HookSummary};

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{ago, clean, count, now, thousands};
use crate::cli::{Exit, HooksArgs, HooksCommand};
use crate::client::{ClientError, hooks};

/// Letters of an error in the table.
const ERROR: usize = 100;

pub(in crate::cli) fn run(args: &HooksArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match &args.command {
        None => {
            let all = hooks::list(&coordinator)?;
            if out.is_json() {
                all.iter().try_for_each(|hook| out.json(hook))?;
            } else {
                out.table(&table(&all))?;
            }
        }
        Some(HooksCommand::Failed { hook }) => {
            let failed = hooks::failed(&coordinator, hook)?;
            out.value(&failed, |out| show(&failed, out))?;
        }
        Some(HooksCommand::Retry { hook }) => {
            let retried = hooks::retry(&coordinator, hook)?;
            let runs = count(retried.runs, "run is tried again", "runs are tried again");
            out.value(&retried, |out| out.line(runs))?;
        }
    }
    Ok(Exit::Success)
}

fn table(all: &[HookSummary]) -> Table {
    let mut table = Table::new(&[
        Column::new("HOOK"),
        Column::new("DOES"),
        Column::new("ON").dispensable(1),
        Column::new("WAITING").right(),
        Column::new("RUNNING").right(),
        Column::new("FAILED").right(),
        Column::new("LAST ERROR").dispensable(2),
    ]);
    for hook in all {
        let kind = match hook.kind {
            None => "not configured".to_owned(),
            Some(kind) if hook.enabled => kind.to_string(),
            Some(kind) => format!("{kind}, switched off"),
        };
        let on: Vec<&str> = hook.on.iter().map(|event| event.as_str()).collect();
        let error: String = hook.last_error.as_deref().unwrap_or("-").chars().take(ERROR).collect();
        table.row([
            hook.hook.to_string(),
            kind,
            on.join(" "),
            // Those under way wait no more.
            thousands(hook.waiting.saturating_sub(hook.running)),
            thousands(hook.running),
            thousands(hook.failed),
            clean(&error).into_owned(),
        ]);
    }
    table
}

fn show(failed: &FailedRuns, out: &mut Out) -> Result<(), ClientError> {
    let now = now();
    for run in &failed.runs {
        let about = match (&run.build, &run.item) {
            (Some(build), _) => build.to_string(),
            (None, Some(item)) => item.to_string(),
            (None, None) => "something that is gone".to_owned(),
        };
        let tries = count(u64::from(run.tries), "try", "tries");
        let error = clean(&run.error);
        out.line(format!("{} of {about}, {}, {tries}: {error}", run.event, ago(run.queued_at, now)))?;
    }
    let more = failed.failed.saturating_sub(failed.runs.len() as u64);
    if more > 0 {
        out.line(format!("and {} more", thousands(more)))?;
    }
    Ok(())
}
