//! Places for nars that fill up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use drover_wire::event::{Detail, EventKind};
use drover_wire::storage::{PlaceKind, PlaceSummary};

use super::Subject;
use crate::farm::Farm;
use crate::farm::error::Error;

/// Which places have little room, as it was noted last. After a start it is noted anew.
#[derive(Debug, Default)]
pub(in crate::farm) struct LowRoom(Mutex<HashSet<String>>);

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
            let known = self.low_room.has(&place.name);
            let kind = match Room::of(&place, low) {
                Room::Little if !known => EventKind::StorageLow,
                Room::Enough if known => EventKind::StorageEnough,
                _ => continue,
            };
            let detail = Detail { place: Some(place.name.clone()), room: place.room, ..Detail::default() };
            self.database
                .write::<_, Error>(move |tx| super::note_with(tx, kind, Subject::Farm, &detail))
                .await?;
            if kind == EventKind::StorageLow {
                tracing::warn!(
                    place = place.name,
                    room = place.room,
                    "a place for nars has little room left"
                );
            }
            self.low_room.set(place.name, kind == EventKind::StorageLow);
        }
        Ok(())
    }
}

impl LowRoom {
    fn has(&self, place: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(place)
    }

    fn set(&self, place: String, low: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if low {
            all.insert(place);
        } else {
            all.remove(&place);
        }
    }
}
