//! `drover storage …`

use drover_wire::storage::{Moving, PlaceSummary};

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{clean, count, size, thousands};
use crate::cli::{Exit, StorageArgs, StorageCommand};
use crate::client::{ClientError, storage};

pub(in crate::cli) fn run(args: &StorageArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    let places = match &args.command {
        None => storage::list(&coordinator)?,
        Some(StorageCommand::Move { from, stop: true, .. }) => storage::stop_move(&coordinator, from)?,
        Some(StorageCommand::Move { from, to, stop: false }) => {
            storage::start_move(&coordinator, from, to.as_deref())?
        }
    };
    if out.is_json() {
        places.iter().try_for_each(|place| out.json(place))?;
        return Ok(Exit::Success);
    }
    out.table(&table(&places))?;
    for place in &places {
        if let Some(moving) = &place.moving {
            out.line(how_far(place, moving))?;
            if let Some(error) = moving.error.as_deref().filter(|_| moving.failed > 0) {
                let failed = count(moving.failed, "nar", "nars");
                out.line(format!(
                    "  {failed} could not be moved and will be tried again; the last: {}",
                    clean(error)
                ))?;
            }
        }
    }
    Ok(Exit::Success)
}

fn table(places: &[PlaceSummary]) -> Table {
    let mut table = Table::new(&[
        Column::new("PLACE"),
        Column::new("KIND").dispensable(4),
        Column::new("FILES").right().dispensable(2),
        Column::new("USED").right(),
        Column::new("CAPACITY").right().dispensable(3),
        Column::new("RESERVE").right().dispensable(5),
        Column::new("ROOM").right(),
        Column::new("7 DAYS").right().dispensable(1),
        Column::new("30 DAYS").right().dispensable(1),
        Column::new("FULL IN").right(),
        Column::new("WHERE"),
    ]);
    for place in places {
        table.row([
            clean(&place.name).into_owned(),
            place.kind.to_string(),
            thousands(place.files),
            size(place.bytes),
            place.capacity.map_or_else(|| "-".to_owned(), size),
            size(place.reserve),
            place.room.map_or_else(|| "-".to_owned(), size),
            a_day(place.growth_7_days),
            a_day(place.growth_30_days),
            place.full_in_days.map_or_else(|| "-".to_owned(), days),
            clean(&place.location).into_owned(),
        ]);
    }
    table
}

fn a_day(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}/d", size(bytes.unsigned_abs()))
}

fn days(days: f64) -> String {
    if days < 10.0 { format!("{days:.1} d") } else { format!("{days:.0} d") }
}

fn how_far(place: &PlaceSummary, moving: &Moving) -> String {
    let name = clean(&place.name);
    let to = moving.to.as_deref().map_or_else(String::new, |to| format!(" to {}", clean(to)));
    let moved = count(moving.moved, "nar", "nars");
    let moved_size = size(moving.moved_bytes);
    if moving.ended_at.is_some() {
        return format!("{name} is empty: {moved} ({moved_size}) went{to}, and nothing new goes there");
    }
    let left = count(place.files, "nar", "nars");
    format!(
        "{name} is being emptied{to}: {moved} ({moved_size}) went, {left} ({}) are left",
        size(place.bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_may_be_shrinking_and_days_are_short() {
        assert_eq!(a_day(-2048), format!("-{}/d", size(2048)));
        assert_eq!((days(0.25).as_str(), days(321.7).as_str()), ("0.2 d", "322 d"));
    }
}
