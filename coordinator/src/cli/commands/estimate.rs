//! `drover retention --estimate`

use drover_wire::estimate::{Estimate, EstimatedPart};

use crate::cli::Exit;
use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{size, thousands};
use crate::client::{ClientError, Coordinator, estimate};

pub(in crate::cli) fn run(coordinator: &Coordinator, out: &mut Out) -> Result<Exit, ClientError> {
    let estimate = estimate::get(coordinator)?;
    out.value(&estimate, |out| show(&estimate, out))?;
    Ok(Exit::Success)
}

fn show(estimate: &Estimate, out: &mut Out) -> Result<(), ClientError> {
    let pace = thousands(estimate.builds_a_day.round() as u64);
    out.line(if estimate.measured {
        format!("With the {pace} builds a day that there were lately:")
    } else {
        format!("This farm is too young to tell its pace. With {pace} builds a day:")
    })?;
    let mut table = Table::new(&[
        Column::new("WHAT"),
        Column::new("KEPT"),
        Column::new("NOW").right(),
        Column::new("A DAY").right(),
        Column::new("BYTES EACH").right(),
        Column::new("IN THE END").right(),
        Column::new("SIZE").right(),
    ]);
    for part in &estimate.parts {
        table.row(row(part));
    }
    out.table(&table)?;
    let (ending, growing): (Vec<_>, Vec<_>) = estimate.parts.iter().partition(|part| part.steady.is_some());
    let sum = |parts: &[&EstimatedPart]| size(parts.iter().map(|part| part.bytes).sum());
    out.line(format!(
        "In the end {}, and {} more each year. * as assumed, not as measured here",
        sum(&ending),
        sum(&growing)
    ))
}

fn row(part: &EstimatedPart) -> [String; 7] {
    let each = thousands(part.bytes_each.round() as u64);
    [
        part.what.words().to_owned(),
        if part.days == 0 { "for ever".to_owned() } else { format!("{} d", part.days) },
        thousands(part.now),
        thousands(part.a_day.round() as u64),
        if part.measured { each } else { format!("{each}*") },
        part.steady.map_or_else(|| "grows".to_owned(), thousands),
        match part.steady {
            Some(_) => size(part.bytes),
            None => format!("{} a year", size(part.bytes)),
        },
    ]
}
