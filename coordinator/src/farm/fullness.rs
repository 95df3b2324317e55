//! How full the places are, how fast they fill, and how far those are that are being emptied.

use std::collections::HashMap;
use std::sync::Arc;

use drover_wire::storage::{Moving, PlaceSummary};
use rusqlite::Connection;

use super::error::Error;
use super::{Farm, now, unsql};
use crate::storage::Place;

const DAY: u64 = 24 * 3600 * 1000;

/// What the database knows of a place.
#[derive(Debug, Clone, Default)]
struct Known {
    files: u64,
    bytes: u64,
    growth_7_days: i64,
    growth_30_days: i64,
    moving: Option<(Option<i64>, Moving)>,
}

impl Farm {
    /// Every place, and how full it is, in the order in which they take nars.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn fullness(self: &Arc<Self>) -> Result<Vec<PlaceSummary>, Error> {
        let farm = Arc::clone(self);
        self.database.read(move |sql| all(&farm, sql)).await
    }
}

/// Every place. Blocks, on their disks, too.
pub(super) fn all(farm: &Farm, sql: &Connection) -> Result<Vec<PlaceSummary>, Error> {
    let known = known(sql, now() / DAY)?;
    let places = farm.storage.places().all();
    let name = |id: i64| places.iter().find(|place| place.id == id).map(|place| place.name.clone());
    let none = Known::default();
    let all = places.iter().map(|place| summary(place, known.get(&place.id).unwrap_or(&none), &name));
    Ok(all.collect())
}

fn summary(place: &Place, known: &Known, name: &impl Fn(i64) -> Option<String>) -> PlaceSummary {
    let room = place.room(known.bytes);
    let growth = known.growth_7_days.max(known.growth_30_days);
    PlaceSummary {
        name: place.name.clone(),
        kind: place.kind,
        location: place.target.address(),
        files: known.files,
        bytes: known.bytes,
        capacity: place.capacity,
        reserve: place.reserve,
        disk_free: place.free(),
        room,
        growth_7_days: known.growth_7_days,
        growth_30_days: known.growth_30_days,
        full_in_days: room.filter(|_| growth > 0).map(|room| room as f64 / growth as f64),
        open: place.is_open(),
        moving: known.moving.clone().map(|(to, moving)| Moving { to: to.and_then(name), ..moving }),
    }
}

fn known(sql: &Connection, today: u64) -> Result<HashMap<i64, Known>, Error> {
    let mut all: HashMap<i64, Known> = HashMap::new();
    let mut select = sql.prepare("SELECT id, files, bytes FROM places")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let known = all.entry(row.get(0)?).or_default();
        (known.files, known.bytes) = (unsql(row.get(1)?), unsql(row.get(2)?));
    }
    let today = i64::try_from(today).unwrap_or(i64::MAX);
    let days = "SELECT place, min(day), sum(iif(day > ?1 - 7, added - removed, 0)), \
                sum(iif(day > ?1 - 30, added - removed, 0)) FROM place_days GROUP BY place";
    let mut select = sql.prepare(days)?;
    let mut rows = select.query([today])?;
    while let Some(row) = rows.next()? {
        let known = all.entry(row.get(0)?).or_default();
        let age = today.saturating_sub(row.get(1)?).saturating_add(1).max(1);
        known.growth_7_days = row.get::<_, i64>(2)? / age.min(7);
        known.growth_30_days = row.get::<_, i64>(3)? / age.min(30);
    }
    let moves = "SELECT place, target, started_at, moved, bytes, failed, error, ended_at FROM moves";
    let mut select = sql.prepare(moves)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let moving = Moving {
            to: None,
            started_at: unsql(row.get(2)?),
            moved: unsql(row.get(3)?),
            moved_bytes: unsql(row.get(4)?),
            failed: unsql(row.get(5)?),
            error: row.get(6)?,
            ended_at: row.get::<_, Option<i64>>(7)?.map(unsql),
        };
        all.entry(row.get(0)?).or_default().moving = Some((row.get(1)?, moving));
    }
    Ok(all)
}
