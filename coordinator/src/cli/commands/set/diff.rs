//! `drover set diff`

use drover_wire::set::{Difference, DifferenceKind, RowState, SetDiff};

use super::system;
use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{clean, thousands};
use crate::client::ClientError;

/// The kinds, what matters most first.
const KINDS: [(DifferenceKind, &str); 7] = [
    (DifferenceKind::NewlyBroken, "newly broken"),
    (DifferenceKind::Broken, "broken"),
    (DifferenceKind::Fixed, "fixed"),
    (DifferenceKind::StillBroken, "still broken"),
    (DifferenceKind::New, "new"),
    (DifferenceKind::Gone, "gone"),
    (DifferenceKind::Changed, "changed"),
];

pub(super) fn show(diff: &SetDiff, out: &mut Out) -> Result<(), ClientError> {
    if !diff.changes.is_empty() {
        out.table(&table(&diff.changes))?;
        out.line("")?;
    }
    out.line(summary(diff))
}

/// Whether something is broken after that is not known to have been so before.
pub(super) fn breaks(diff: &SetDiff) -> bool {
    [DifferenceKind::NewlyBroken, DifferenceKind::Broken]
        .iter()
        .any(|kind| diff.counts.get(kind).is_some_and(|number| *number > 0))
}

fn summary(diff: &SetDiff) -> String {
    let mut words: Vec<String> = KINDS
        .iter()
        .filter_map(|(kind, words)| {
            let number = diff.counts.get(kind).filter(|number| **number > 0)?;
            Some(format!("{} {words}", thousands(*number)))
        })
        .collect();
    words.push(format!("{} the same", thousands(diff.same)));
    format!("{} → {}: {}", diff.a, diff.b, words.join(", "))
}

fn table(changes: &[Difference]) -> Table {
    let mut table = Table::new(&[
        Column::new("KIND"),
        Column::new("PACKAGE"),
        Column::new("VERSION").dispensable(2),
        Column::new("SYSTEM"),
        Column::new("BUILD").dispensable(1),
        Column::new("STATE"),
    ]);
    for (kind, words) in KINDS {
        for change in changes.iter().filter(|change| change.kind == kind) {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            let build = after.or(before).and_then(|row| row.build);
            table.row([
                words.to_owned(),
                clean(&change.package).into_owned(),
                both(before, after, |row| clean(&row.version).into_owned()),
                system(&change.system, change.target.as_deref()),
                build.map_or_else(|| "-".to_owned(), |build| build.to_string()),
                both(before, after, state),
            ]);
        }
    }
    table
}

/// What is said of both sides: once where they agree.
fn both(before: Option<&RowState>, after: Option<&RowState>, say: impl Fn(&RowState) -> String) -> String {
    match (before.map(&say), after.map(&say)) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => "-".to_owned(),
    }
}

fn state(row: &RowState) -> String {
    match (row.state, &row.derivation) {
        (Some(state), _) => state.to_string(),
        (None, Some(_)) => "no build".to_owned(),
        (None, None) => match &row.error {
            Some(error) => format!("not evaluated: {}", clean(error)),
            None => "not evaluated".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff() -> SetDiff {
        let row = |version: &str, state: Option<&str>| {
            let derivation = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv";
            serde_json::json!({"version": version, "derivation": derivation, "build": null, "state": state})
        };
        serde_json::from_value(serde_json::json!({
            "a": "master@1", "b": "patch@2", "same": 30_000,
            "counts": {"changed": 1, "newly-broken": 1, "gone": 0, "fixed": 1},
            "changes": [
                {"kind": "changed", "package": "a", "system": "s", "target": null,
                 "before": row("1", None), "after": row("1", None)},
                {"kind": "fixed", "package": "b\u{1b}[2J", "system": "s", "target": "t\u{7}",
                 "before": {"version": "1", "derivation": null, "build": null, "state": null,
                            "error": "unbound\u{7} variable"},
                 "after": row("1", Some("succeeded"))},
                {"kind": "newly-broken", "package": "c", "system": "s", "target": null,
                 "before": row("1", Some("succeeded")), "after": row("2", Some("failed"))},
            ]
        }))
        .unwrap()
    }

    #[test]
    fn what_is_newly_broken_stands_at_the_top_and_nothing_reaches_the_terminal() {
        let lines = table(&diff().changes).lines(None);
        assert!(
            lines[1].starts_with("newly broken  c") && lines[1].ends_with("succeeded → failed"),
            "{lines:?}"
        );
        assert!(lines[1].contains("1 → 2"), "{lines:?}");
        assert!(
            lines[2].starts_with("fixed")
                && lines[2].contains("not evaluated: unbound")
                && lines[2].ends_with("variable → succeeded"),
            "{lines:?}"
        );
        assert!(lines[3].starts_with("changed") && lines[3].ends_with("no build"), "{lines:?}");
        assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
    }

    #[test]
    fn the_summary_has_the_kinds_that_there_are() {
        assert_eq!(
            summary(&diff()),
            "master@1 → patch@2: 1 newly broken, 1 fixed, 1 changed, 30,000 the same"
        );
        assert!(breaks(&diff()));
        assert!(!breaks(&SetDiff { counts: [(DifferenceKind::Fixed, 3)].into(), ..diff() }));
    }
}
