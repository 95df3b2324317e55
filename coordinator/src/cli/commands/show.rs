//! `drover show …`

use drover_wire::client::{Attempt, BuildDetails, BuildOutput, Publication, WaitsFor};
use drover_wire::{BuildState, Timestamp};

use super::builds::state;
use crate::cli::out::Out;
use crate::cli::table::{Column, Table, wrap};
use crate::cli::text::{ago, clean, now, size, span, time};
use crate::cli::{Exit, ShowArgs};
use crate::client::{ClientError, builds};

const LABEL: usize = 13;

pub(in crate::cli) fn run(args: &ShowArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let details = builds::details(&args.connection.coordinator()?, args.build)?;
    out.value(&details, |out| show(&details, now(), out))?;
    Ok(Exit::Success)
}

fn show(details: &BuildDetails, now: Timestamp, out: &mut Out) -> Result<(), ClientError> {
    facts(details, now, out.width()).into_iter().try_for_each(|line| out.line(line))?;
    if !details.waits_for.is_empty() {
        out.line("")?;
        let shown = details.waits_for.len() as u64;
        out.line(match details.waits_for_count {
            all if all > shown => format!("Waits for {all} things; the first {shown}:"),
            _ => "Waits for:".to_owned(),
        })?;
        out.table(&waits_for(&details.waits_for))?;
    }
    out.line("")?;
    out.table(&outputs(&details.outputs, now))?;
    for output in &details.outputs {
        held_back(output).into_iter().try_for_each(|line| out.line(line))?;
    }
    if !details.attempts.is_empty() {
        out.line("")?;
        out.table(&attempts(&details.attempts, now))?;
        for attempt in &details.attempts {
            if let Some(message) = &attempt.message {
                out.line("")?;
                out.line(format!("Try {} on {}:", attempt.number, clean(&attempt.agent)))?;
                for line in message.lines() {
                    out.line(format!("  {}", clean(line)))?;
                }
            }
        }
    }
    Ok(())
}

fn facts(details: &BuildDetails, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let summary = &details.summary;
    let mut lines = Vec::new();
    let mut fact = |label: &str, value: &str| lines.push(format!("{label:LABEL$}{value}"));
    fact("build", &summary.build.to_string());
    fact("derivation", summary.derivation.as_str());
    fact("system", &clean(&summary.system));
    let agent = summary.agent.as_deref().map(|agent| format!(" on {}", clean(agent)));
    fact("state", &format!("{}{}", state(summary), agent.unwrap_or_default()));
    let why = clean(&details.why);
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(LABEL).max(20));
    for (i, line) in wrap(&why, room).iter().enumerate() {
        fact(if i == 0 { "why" } else { "" }, line);
    }
    fact("priority", &summary.priority.to_string());
    fact("asked for", if details.wanted { "by a client" } else { "as an input of others" });
    for (key, value) in &summary.tags {
        fact("tag", &format!("{}={}", clean(key), clean(value)));
    }
    if let Some(timeout) = details.timeout {
        fact("may take", &span(timeout.saturating_mul(1000)));
    }
    if let Some(silence) = details.max_silent_time {
        fact("silent for", &format!("{} at most", span(silence.saturating_mul(1000))));
    }
    fact("submitted", &at(summary.submitted_at, now));
    if let Some(started) = summary.started_at {
        fact("started", &at(started, now));
    }
    if let Some(ended) = summary.ended_at {
        fact("ended", &at(ended, now));
        if let Some(started) = summary.started_at {
            fact("took", &span(ended.saturating_sub(started)));
        }
    } else if let (BuildState::Running, Some(started)) = (summary.state, summary.started_at) {
        fact("runs for", &span(now.saturating_sub(started)));
    }
    lines
}

fn at(then: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", time(then), ago(then, now))
}

fn waits_for(things: &[WaitsFor]) -> Table {
    let mut table = Table::new(&[
        Column::new("KIND"),
        Column::new("STATE"),
        Column::new("BUILD").dispensable(1),
        Column::new("PATH"),
    ]);
    for thing in things {
        match thing {
            WaitsFor::Input { path, build, state } => table.row([
                "input".to_owned(),
                state.map_or_else(|| "no build".to_owned(), |state| state.to_string()),
                build.map_or_else(|| "-".to_owned(), |build| build.to_string()),
                path.to_string(),
            ]),
            WaitsFor::Source { path, derivation } => table.row([
                "source".to_owned(),
                "not uploaded".to_owned(),
                "-".to_owned(),
                format!("{path} (of {})", derivation.name()),
            ]),
        }
    }
    table
}

fn outputs(outputs: &[BuildOutput], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        Column::new("OUTPUT"),
        Column::new("SIZE").right(),
        Column::new("PUBLISHED"),
        Column::new("PATH"),
    ]);
    for output in outputs {
        let kept = output.kept.as_ref().map_or_else(|| "not here".to_owned(), |kept| size(kept.nar_size));
        let published = match &output.publication {
            Some(Publication::Published { until: Some(_), .. }) => "goes soon".to_owned(),
            Some(Publication::Published { since, .. }) => ago(*since, now),
            Some(Publication::Waiting { count, .. }) => format!("waits for {count}"),
            Some(Publication::Never { .. }) => "never".to_owned(),
            Some(Publication::Pending) => "not yet".to_owned(),
            None => "-".to_owned(),
        };
        table.row([clean(&output.name).into_owned(), kept, published, output.path.to_string()]);
    }
    table
}

/// Why the public cannot have an output, in words.
fn held_back(output: &BuildOutput) -> Vec<String> {
    let name = clean(&output.name);
    match &output.publication {
        Some(Publication::Never { why }) => {
            vec![String::new(), format!("The output {name} is never published: {}", clean(why))]
        }
        Some(Publication::Waiting { waits_for, count }) => {
            let shown = waits_for.len() as u64;
            let first =
                if *count > shown { format!(" (the first {shown} of {count})") } else { String::new() };
            let head =
                format!("The output {name} is published when these can be had, to which it refers{first}:");
            let lines = waits_for.iter().map(|wait| {
                let why = match (&wait.never, wait.held) {
                    (Some(never), _) => format!("never published here: {}", clean(never)),
                    (None, true) => "here, and not published yet".to_owned(),
                    (None, false) => "neither here nor on a substitute server".to_owned(),
                };
                format!("  {} ({why})", wait.path)
            });
            [String::new(), head].into_iter().chain(lines).collect()
        }
        _ => Vec::new(),
    }
}

fn attempts(attempts: &[Attempt], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        Column::new("TRY").right(),
        Column::new("AGENT"),
        Column::new("GIVEN").dispensable(2),
        Column::new("TOOK").right().dispensable(3),
        Column::new("LOG").right().dispensable(1),
        Column::new("OUTCOME"),
    ]);
    for attempt in attempts {
        let took =
            attempt.started_at.map(|start| span(attempt.ended_at.unwrap_or(now).saturating_sub(start)));
        let mut outcome = attempt.outcome.as_deref().map_or_else(|| "goes on".into(), clean).into_owned();
        if let Some(step) = attempt.step {
            // The word on the wire, such as import-inputs.
            if let Ok(serde_json::Value::String(step)) = serde_json::to_value(step) {
                outcome = format!("{outcome} ({step})");
            }
        }
        table.row([
            attempt.number.to_string(),
            clean(&attempt.agent).into_owned(),
            time(attempt.allocated_at),
            took.unwrap_or_else(|| "-".to_owned()),
            size(attempt.log_size),
            outcome,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_output_waits_for_is_named_with_the_reason() {
        let path = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-zfs-2.3";
        let output: BuildOutput = serde_json::from_value(serde_json::json!({
            "name": "out", "path": path, "kept": null, "publication": {"state": "waiting", "count": 2, "waits_for": [
                {"path": path, "held": true, "never": "the set master says\u{1b} so"},
                {"path": path, "held": false, "never": null},
            ]},
        }))
        .unwrap();
        let text = held_back(&output).join("\n");
        assert!(text.contains("never published here: the set master says"), "{text}");
        assert!(text.contains("neither here nor on a substitute server"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    fn details() -> BuildDetails {
        serde_json::from_value(serde_json::json!({
            "summary": {
                "build": "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11",
                "derivation": "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-m4-1.4.19.tar.xz.drv",
                "system": "x86_64-linux", "state": "running", "phase": "uploading", "priority": 3,
                "tags": {"set\u{1b}": "a"}, "agent": "sparky", "submitted_at": 0, "started_at": 5000, "ended_at": null
            },
            "why": "its outputs \u{1b}[31mtravel", "wanted": true, "timeout": 90, "max_silent_time": null,
            "waits_for": [], "waits_for_count": 0, "outputs": [], "attempts": []
        }))
        .unwrap()
    }

    #[test]
    fn facts_are_in_words_and_harmless() {
        let text = facts(&details(), 65_000, Some(80)).join("\n");
        assert!(text.contains("state        uploading on sparky"), "{text}");
        assert!(text.contains("may take     1 min 30 s"), "{text}");
        assert!(text.contains("runs for     1 min 0 s"), "{text}");
        assert!(text.contains("submitted    1970-01-01 00:00:00 UTC (1 min ago)"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
