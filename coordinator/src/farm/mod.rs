//! The core of the coordinator: what happens to derivations, builds, leases, logs and outputs. No HTTP here.
//!
//! Every change is one job of the database, whose answer comes after its commit; see [`change`] for how what is known
//! only in memory ([`live`]) follows.

mod activity;
pub mod agents;
mod ages;
mod allocate;
mod arrive;
pub mod browsers;
mod bundle;
mod cancel;
pub mod change;
mod closure;
mod depend;
pub mod detail;
pub mod enrol;
mod error;
mod events;
mod files;
mod fullness;
mod hooks;
mod import;
mod intake;
mod keeper;
mod keys;
mod lease;
mod leftovers;
mod list;
pub mod live;
mod log;
mod moves;
pub mod numbers;
mod outputs;
mod paths;
mod places;
mod plan;
mod press;
mod provided;
mod publish;
mod queue;
mod readiness;
mod recent;
mod recover;
mod report;
mod requeue;
mod retention;
mod search;
pub mod secrets;
mod session;
mod sets;
mod show;
mod shown;
mod sources;
mod submit;
mod sweep;
mod turns;
mod upload;
mod upstreams;
mod wants;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_wire::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, ConfigError};
use crate::database::{self, Database};
use crate::key::KeyError;
use crate::storage::{Storage, StorageError};
use crate::substitutes::Substitutes;

pub use crate::storage::NarFile;
pub use activity::{Activity, Task, Worker};
use change::Change;
pub use error::Error;
pub use events::EventReader;
pub use fullness::PlaceDay;
pub use lease::{Lease, LogLength};
use live::Live;
pub use log::LogPlace;
use numbers::Numbers;
pub use outputs::{Held, KeptNar, NarPlace};
pub use places::PlaceError;
pub use publish::Publication;
pub use queue::{Count, Queue, QueueQuestion};
pub use search::Found;
use secrets::Secrets;
pub use sets::{Coming, PackageRow, PackageRows, SetAnswer, SetLook, SetQuestion};
pub use shown::{HashPart, Shown};
pub use turns::{Taken, Turn, Turns};
pub use upload::UploadBody;

/// How often something is sent to who reads on and on, although nothing happens that is wanted: proxies and readers see
/// that the other end is there. So often it is looked at, too, whether they may still read.
const BEAT: Duration = Duration::from_secs(15);

/// A job's transaction.
type Tx<'c> = database::Tx<'c, Change>;

/// The SQL condition of a build that has not ended, or could go on: that of the partial indexes.
macro_rules! open_states {
    () => {
        "('waiting', 'ready', 'allocated', 'running', 'dependency-failed')"
    };
}
use open_states;

/// Why the farm could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// A place for nars.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Something about what is kept.
    #[error("cannot take up the work again: {0}")]
    Recover(#[from] Error),
}

/// The farm.
#[derive(Debug)]
pub struct Farm {
    config: Config,
    storage: Arc<Storage>,
    database: Database<Change>,
    live: Arc<Live>,
    feed: Arc<events::Feed>,
    beat: Duration,
    numbers: Arc<Numbers>,
    readiness: readiness::Readiness,
    secrets: Secrets,
    looked: browsers::Looked,
    keys: keys::Keys,
    hooks: hooks::Hooks,
    substitutes: Substitutes,
    upstreams: upstreams::Upstreams,
    imports: import::Imports,
    moves: moves::Wake,
    sweeps: Arc<retention::Sweeps>,
    turns: Turns,
    elsewhere: retention::Elsewhere,
    stopping: watch::Sender<bool>,
    /// Becomes another number whenever derivations or sources are about to go, in the job that does it.
    forgotten: Arc<AtomicU64>,
}

impl Farm {
    /// Opens the farm in the state folder of the configuration, and takes up the work where it was left. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be used, or is in use.
    pub fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, BEAT)
    }

    /// As [`Farm::open`], with another time between two heartbeats.
    pub(crate) fn open_with(config: Config, beat: Duration) -> Result<Arc<Self>, OpenError> {
        let hooks = hooks::Hooks::new(&config)?;
        let mut storage = Storage::open(&config.state, config.disk_reserve_mib.saturating_mul(1 << 20))?;
        let (ended, ended_logs) = mpsc::unbounded_channel();
        let feed: Arc<events::Feed> = Arc::default();
        let lease_time = Duration::from_secs(config.lease_seconds);
        let live = Arc::new(Live::new(lease_time, ended, Arc::clone(&feed)));
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let numbers = Arc::<Numbers>::default();
        let database = Database::open_counted(&storage.database(), numbers.commits.clone(), {
            let (live, numbers, wake) = (Arc::clone(&live), Arc::clone(&numbers), wake.clone());
            move |changes| {
                numbers.follow(&changes);
                if changes.iter().any(|change| matches!(change, Change::Leftover)) {
                    // One that waits is enough.
                    let _ = wake.try_send(());
                }
                live.apply(changes);
            }
        })?;
        let keys = keys::open(&database, &storage, &config)?;
        // After the keys: ours may be among those that are named.
        let elsewhere = retention::Elsewhere::new(&config)?;
        let places = places::load(&config, &storage, &database, wake)?;
        let (moves, to_move) = std::sync::mpsc::sync_channel(1);
        storage.furnish(places);
        let substitutes = Substitutes::new(&config);
        let farm = Arc::new(Self {
            storage: Arc::new(storage),
            database,
            live,
            feed,
            beat,
            numbers,
            readiness: readiness::Readiness::default(),
            secrets: Secrets::default(),
            looked: browsers::Looked::default(),
            keys,
            hooks,
            substitutes,
            upstreams: upstreams::Upstreams::new(&config),
            imports: import::Imports::default(),
            moves,
            sweeps: Arc::default(),
            turns: Turns::default(),
            elsewhere,
            stopping: watch::channel(false).0,
            forgotten: Arc::default(),
            config,
        });
        farm.recover()?;
        farm.note_hooks()?;
        sweep::pack_logs(&farm, ended_logs);
        leftovers::start(&farm, woken);
        moves::start(&farm, to_move);
        Ok(farm)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state folder.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What is known of the moment.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Who may speak.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How often who reads on and on is told that the other end is there, and is looked at.
    pub(crate) fn beat(&self) -> Duration {
        self.beat
    }

    /// What only some may do at a time.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Ends everything that is held open.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when the coordinator stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

/// The time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number as SQLite has it. Larger ones than it can have do not occur.
fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from SQLite that cannot be negative.
fn unsql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
