//! `drover set blockers`

use drover_wire::set::{Blocker, Blockers};

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{clean, count, thousands};
use crate::client::ClientError;

pub(super) fn show(blockers: &Blockers, out: &mut Out) -> Result<(), ClientError> {
    let name = format!("{}@{}", blockers.set, blockers.revision);
    if blockers.count == 0 {
        return out.line(format!("Nothing that failed or is missing holds up {name}."));
    }
    let shown = blockers.blockers.len() as u64;
    out.line(format!(
        "In {name} {} held up by {}{}",
        count(blockers.rows, "row is", "rows are"),
        count(blockers.count, "thing that failed or is missing", "things that failed or are missing"),
        if shown < blockers.count { format!("; the first {}:", thousands(shown)) } else { ":".to_owned() }
    ))?;
    out.table(&table(&blockers.blockers))
}

fn table(blockers: &[Blocker]) -> Table {
    let mut table = Table::new(&[
        Column::new("HOLDS UP").right(),
        Column::new("STATE"),
        Column::new("SYSTEM").dispensable(2),
        Column::new("BUILD").dispensable(1),
        Column::new("DERIVATION"),
    ]);
    for blocker in blockers {
        let state = match (&blocker.missing_source, blocker.state) {
            (Some(_), _) => "lacks a source".to_owned(),
            (None, Some(state)) => state.to_string(),
            (None, None) => "no build".to_owned(),
        };
        let derivation = match &blocker.missing_source {
            Some(source) => format!("{} needs {source}", blocker.derivation),
            None => blocker.derivation.to_string(),
        };
        table.row([
            thousands(blocker.holds_up),
            state,
            clean(&blocker.system).into_owned(),
            blocker.build.map_or_else(|| "-".to_owned(), |build| build.to_string()),
            derivation,
        ]);
    }
    table
}
