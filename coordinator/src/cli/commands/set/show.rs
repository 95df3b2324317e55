//! `drover set list` and `drover set show`

use drover_wire::set::{Estimate, RevisionSummary, SetDetails, SetPart, SetSummary, Tally};

use super::system;
use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{age, count, now, span, thousands, time};
use crate::client::ClientError;

pub(super) fn list(sets: &[SetSummary], dropped: bool) -> Table {
    let mut table = Table::new(&[
        Column::new("NAME"),
        Column::new("WANTED").right(),
        Column::new("DONE").right(),
        Column::new("%").right(),
        Column::new("FAILED").right(),
        Column::new("DEP-FAILED").right(),
        Column::new("RUNNING").right().dispensable(3),
        Column::new("WAITING").right().dispensable(1),
        Column::new(if dropped { "DROPPED" } else { "AGE" }).right().dispensable(2),
        Column::new("REVISION"),
    ]);
    let now = now();
    for set in sets {
        let total = &set.total;
        table.row([
            set.set.to_string(),
            thousands(total.wanted),
            thousands(total.done),
            percent(total),
            thousands(total.failed),
            thousands(total.dependency_failed),
            thousands(total.running),
            thousands(total.waiting),
            age(set.dropped_at.unwrap_or(set.submitted_at), now),
            set.revision.to_string(),
        ]);
    }
    table
}

pub(super) fn show(details: &SetDetails, out: &mut Out) -> Result<(), ClientError> {
    let now = now();
    let submitted = format!("{}, {} old", time(details.submitted_at), age(details.submitted_at, now));
    out.line(format!(
        "{}@{}, {}; submitted {}",
        details.set,
        details.revision,
        if details.current { "the current revision" } else { "superseded" },
        submitted.replace(", now old", ", now")
    ))?;
    out.line(if details.keep {
        "Builds that only superseded revisions want go on."
    } else {
        "Builds that only superseded revisions want, and that have not started, are canceled."
    })?;
    out.line("")?;
    out.table(&parts(&details.parts, &details.total))?;
    out.line("")?;
    if details.parts.len() > 1 {
        for part in &details.parts {
            let what = system(&part.system, part.target.as_deref());
            out.line(format!("{what}: {}", remaining(&part.tally, part.estimate)))?;
        }
    }
    out.line(format!("all: {}", remaining(&details.total, details.estimate)))?;
    if details.revisions.len() > 1 {
        out.line("")?;
        out.table(&revisions(&details.revisions))?;
    }
    Ok(())
}

/// How many of all rows are done, in percent: 100 only when all are.
fn percent(tally: &Tally) -> String {
    match tally.per_myriad() {
        None => "-".to_owned(),
        Some(10_000) => "100".to_owned(),
        Some(n) => format!("{}.{:02}", n / 100, n % 100),
    }
}

fn parts(parts: &[SetPart], total: &Tally) -> Table {
    // What is rare has a column only where it is.
    let (canceled, not_evaluated) = (total.canceled > 0, total.not_evaluated > 0);
    let numbers = |tally: &Tally| {
        let mut cells = vec![
            thousands(tally.wanted),
            thousands(tally.done),
            percent(tally),
            thousands(tally.failed),
            thousands(tally.dependency_failed),
            thousands(tally.running),
            thousands(tally.waiting),
        ];
        cells.extend(canceled.then(|| thousands(tally.canceled)));
        cells.extend(not_evaluated.then(|| thousands(tally.not_evaluated)));
        cells
    };
    let mut columns = vec![Column::new("SYSTEM")];
    let titles = ["WANTED", "DONE", "%", "FAILED", "DEP-FAILED", "RUNNING", "WAITING"];
    columns.extend(titles.map(|title| {
        let column = Column::new(title).right();
        if title == "RUNNING" { column.dispensable(1) } else { column }
    }));
    columns.extend(canceled.then(|| Column::new("CANCELED").right()));
    columns.extend(not_evaluated.then(|| Column::new("NOT EVALUATED").right()));
    let mut table = Table::new(&columns);
    for part in parts {
        let mut cells = vec![system(&part.system, part.target.as_deref())];
        cells.extend(numbers(&part.tally));
        table.row(cells);
    }
    if parts.len() != 1 {
        let mut cells = vec!["all".to_owned()];
        cells.extend(numbers(total));
        table.row(cells);
    }
    table
}

/// When what waits and runs will be done, and how that is known.
fn remaining(tally: &Tally, estimate: Option<Estimate>) -> String {
    let open = tally.running.saturating_add(tally.waiting);
    if open == 0 {
        return "nothing waits or runs".to_owned();
    }
    let rows = count(open, "row waits or runs", "rows wait or run");
    match estimate {
        None => format!("{rows}, no estimate"),
        Some(Estimate { seconds, ended, within }) => format!(
            "{rows}, done in about {} if it goes on as in the last {}, when {} ended",
            span(seconds.saturating_mul(1000)),
            span(within.saturating_mul(1000)),
            count(ended, "row", "rows")
        ),
    }
}

fn revisions(revisions: &[RevisionSummary]) -> Table {
    let mut table =
        Table::new(&[Column::new("ROWS").right(), Column::new("SUBMITTED"), Column::new("REVISION")]);
    for revision in revisions {
        table.row([thousands(revision.rows), time(revision.submitted_at), revision.revision.to_string()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(wanted: u64, done: u64) -> Tally {
        Tally { wanted, done, waiting: wanted - done, ..Tally::default() }
    }

    #[test]
    fn a_hundred_percent_is_all_and_nothing_less() {
        assert_eq!(percent(&tally(30_000, 29_999)), "99.99");
        assert_eq!(percent(&tally(30_000, 30_000)), "100");
        assert_eq!(percent(&tally(30_000, 3)), "0.01");
        assert_eq!(percent(&Tally::default()), "-");
    }

    #[test]
    fn an_estimate_says_what_it_rests_on_and_none_is_said_to_be_none() {
        let estimate = Estimate { seconds: 7_500, ended: 1_812, within: 3600 };
        assert_eq!(
            remaining(&tally(2000, 500), Some(estimate)),
            "1,500 rows wait or run, done in about 2 h 5 min if it goes on as in the last 1 h 0 min, when 1,812 \
             rows ended"
        );
        assert_eq!(remaining(&tally(2, 1), None), "1 row waits or runs, no estimate");
        assert_eq!(remaining(&tally(2, 2), None), "nothing waits or runs");
    }

    #[test]
    fn rare_columns_are_there_when_they_are_needed() {
        let part = |system: &str, target: Option<&str>, tally| SetPart {
            system: system.to_owned(),
            target: target.map(str::to_owned),
            tally,
            estimate: None,
        };
        let some =
            [part("x86_64-linux", None, tally(1000, 10)), part("s\u{1b}", Some("i586-pc-gnu"), tally(1, 1))];
        let lines = parts(&some, &tally(1001, 11)).lines(Some(80));
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(0), ["SYSTEM", "WANTED", "DONE", "%", "FAILED", "DEP-FAILED", "WAITING"]);
        assert_eq!(words(2), ["s\\u{1b}", "for", "i586-pc-gnu", "1", "1", "100", "0", "0", "0"]);
        assert_eq!(words(3), ["all", "1,001", "11", "1.09", "0", "0", "990"]);
        let canceled = Tally { canceled: 3, ..tally(4, 1) };
        let lines = parts(&[part("s", None, canceled)], &canceled).lines(None);
        assert!(lines[0].ends_with("CANCELED") && lines.len() == 2, "{lines:?}");
    }
}
