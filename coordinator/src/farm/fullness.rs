//! How full the places are, how fast they fill, and how far those are that are being emptied.

use std::collections::HashMap;
use std::sync::Arc;

use drover_wire::storage::{Moving, PlaceSummary};
use rusqlite::Connection;

use super::error::Error;
use super::{Farm, now, unsql};
use crate::storage::Place;

const DAY: u64 = 24 * 3600 * 1000;
/// How many days are told.
const DAYS: u64 = 90;

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
        self.database.read(move |sql| all(sql, &farm)).await
    }

    /// Every place, with how many bytes lay there at the end of each of the last days, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn fullness_by_day(self: &Arc<Self>) -> Result<Vec<(PlaceSummary, Vec<PlaceDay>)>, Error> {
        let farm = Arc::clone(self);
        self.database.read(move |sql| by_day(sql, &farm)).await
    }
}

/// Every place, and how full it is. Blocks, on their disks, too, but not for long.
pub(super) fn all(sql: &Connection, farm: &Farm) -> Result<Vec<PlaceSummary>, Error> {
    let known = known(sql, now() / DAY)?;
    let places = farm.storage.places().all();
    let name = |id: i64| places.iter().find(|place| place.id == id).map(|place| place.name.clone());
    let none = Known::default();
    let all = places.iter().map(|place| summary(place, known.get(&place.id).unwrap_or(&none), &name));
    Ok(all.collect())
}

/// How a place was at the end of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceDay {
    /// The day, counted from 1970-01-01.
    pub day: u64,
    /// The bytes that lay there.
    pub bytes: u64,
    /// Bytes that were added on it.
    pub added: u64,
    /// Bytes that were removed on it.
    pub removed: u64,
}

fn by_day(sql: &Connection, farm: &Farm) -> Result<Vec<(PlaceSummary, Vec<PlaceDay>)>, Error> {
    let today = now() / DAY;
    let first = i64::try_from(today.saturating_sub(DAYS - 1)).unwrap_or(i64::MAX);
    let mut changes: HashMap<(i64, u64), (u64, u64)> = HashMap::new();
    let mut select =
        sql.prepare_cached("SELECT place, day, added, removed FROM place_days WHERE day >= ?1")?;
    let mut rows = select.query([first])?;
    while let Some(row) = rows.next()? {
        let change = (unsql(row.get(2)?), unsql(row.get(3)?));
        changes.insert((row.get(0)?, unsql(row.get(1)?)), change);
    }
    let mut begun: HashMap<i64, u64> = HashMap::new();
    let mut select = sql.prepare_cached("SELECT place, min(day) FROM place_days GROUP BY place")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        begun.insert(row.get(0)?, unsql(row.get(1)?));
    }
    let places = farm.storage.places().all();
    let with_days = all(sql, farm)?.into_iter().zip(&places).map(|(summary, place)| {
        let mut bytes = summary.bytes;
        let mut days = Vec::new();
        // Backwards from what lies there now.
        for day in (0..DAYS).map_while(|ago| today.checked_sub(ago)) {
            if begun.get(&place.id).is_none_or(|begun| day < *begun) {
                break;
            }
            let (added, removed) = changes.get(&(place.id, day)).copied().unwrap_or_default();
            days.push(PlaceDay { day, bytes, added, removed });
            bytes = bytes.saturating_add(removed).saturating_sub(added);
        }
        days.reverse();
        (summary, days)
    });
    Ok(with_days.collect())
}

fn summary(place: &Place, known: &Known, name: &impl Fn(i64) -> Option<String>) -> PlaceSummary {
    let free = place.told_free();
    let room = place.room_of(free, known.bytes);
    let growth = known.growth_7_days.max(known.growth_30_days);
    PlaceSummary {
        name: place.name.clone(),
        kind: place.kind,
        location: place.target.address(),
        files: known.files,
        bytes: known.bytes,
        capacity: place.capacity,
        reserve: place.reserve,
        disk_free: free,
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
