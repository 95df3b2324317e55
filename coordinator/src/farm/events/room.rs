//! Places for nars that fill up.

use std::sync::Arc;

use drover_wire::event::{Detail, EventKind};
use drover_wire::storage::{PlaceKind, PlaceSummary};
use rusqlite::Connection;

use super::Subject;
use crate::farm::error::Error;
use crate::farm::{Farm, Tx};

/// How a place stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Little,
    /// Or not known: its disk does not tell.
    Between,
    Enough,
}

impl Room {
    /// Little, when less than `low` bytes can be put there; enough, when a quarter more can: what goes up and down around
    /// a limit is not told each time.
    fn of(place: &PlaceSummary, low: u64) -> Self {
        match place.room {
            Some(room) if room < low => Self::Little,
            Some(room) if room < low.saturating_add(low / 4) => Self::Between,
            _ if place.kind != PlaceKind::Bucket && place.disk_free.is_none() => Self::Between,
            _ => Self::Enough,
        }
    }
}

impl Farm {
    /// Notes which places have little room, and which have enough again.
    pub(in crate::farm) async fn note_room(self: &Arc<Self>) -> Result<(), Error> {
        let low = self.config.storage_low_mib.saturating_mul(1 << 20);
        for place in self.fullness().await? {
            let is_low = match Room::of(&place, low) {
                Room::Little => true,
                Room::Enough => false,
                Room::Between => continue,
            };
            if !self.database.read(is_new(place.name.clone(), is_low)).await? {
                continue;
            }
            let detail = Detail { place: Some(place.name.clone()), room: place.room, ..Detail::default() };
            self.database.write(move |tx| set(tx, is_low, &detail)).await?;
            if is_low {
                tracing::warn!(
                    place = place.name,
                    room = place.room,
                    "a place for nars has little room left"
                );
            }
        }
        Ok(())
    }
}

/// Whether that is not what is known of a place.
fn is_new(place: String, is_low: bool) -> impl FnOnce(&Connection) -> Result<bool, Error> {
    move |sql| {
        Ok(sql
            .prepare_cached("SELECT 1 FROM places WHERE name = ?1 AND low <> ?2")?
            .exists((place, is_low))?)
    }
}

/// Notes how a place stands, and tells of it if that is new.
fn set(tx: &mut Tx<'_>, is_low: bool, detail: &Detail) -> Result<(), Error> {
    let other = "UPDATE places SET low = ?2 WHERE name = ?1 AND low <> ?2";
    if tx.prepare_cached(other)?.execute((&detail.place, is_low))? == 0 {
        return Ok(());
    }
    let kind = if is_low { EventKind::StorageLow } else { EventKind::StorageEnough };
    super::note_with(tx, kind, Subject::Farm, detail)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use drover_wire::event::EventsQuery;

    use super::*;
    use crate::config::Config;

    /// All that was told so far.
    async fn told(farm: &Arc<Farm>) -> String {
        let query = EventsQuery { since: Some(0), once: true, ..EventsQuery::default() };
        let mut reader = farm.read_events(query, None).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("event: ")).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_a_place_has_little_room_is_told_once_and_not_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = |storage_low_mib| {
            let state = folder.path().to_owned();
            let config = Config { state, storage_low_mib, disk_reserve_mib: 0, ..Config::default() };
            tokio::task::spawn_blocking(move || Farm::open(config).unwrap())
        };
        let (most, enough) = (u64::from(u32::MAX), "storage-low storage-enough");
        let again = format!("{enough} storage-low");
        let steps = [(most, "storage-low"), (most, "storage-low"), (0, enough), (0, enough), (most, &again)];
        for (low, expected) in steps {
            let farm = open(low).await.unwrap();
            let end = Instant::now() + Duration::from_secs(60);
            // A disk that is slow to tell is asked again.
            while told(&farm).await != expected && Instant::now() < end {
                farm.note_room().await.unwrap();
            }
            farm.note_room().await.unwrap();
            assert_eq!(told(&farm).await, expected);
            farm.stop();
            // The folder is locked for as long as anybody has the farm.
            while Arc::strong_count(&farm) > 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}
