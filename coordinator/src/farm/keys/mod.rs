//! The coordinator's keys: several may be valid, one signs.
//!
//! A new one begins to sign at a time that was said before ([`rotate`]); what was published is then signed anew in the
//! background (`publish::resign`), and when nobody keeps anything any more that the old one signed, it may go.

mod rotate;

pub(super) use rotate::{is_in_use, note_unused, used_up};

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use drover_store::key::{PublicKey, SecretKey};
use rusqlite::Connection;
use tokio::sync::Notify;

use super::error::Error;
use super::{Change, Farm, OpenError, Tx, now, sql, unsql};
use crate::config::Config;
use crate::database::Database;
use crate::key;
use crate::storage::Storage;

/// The keys that sign, now or later: each from its time on, until that of another has come. There is at least one.
#[derive(Debug)]
pub(crate) struct Keys {
    ring: RwLock<Ring>,
    /// Told when another one signs, or will.
    pub(in crate::farm) changed: Notify,
}

#[derive(Debug)]
struct Ring {
    first: Key,
    others: Vec<Key>,
}

#[derive(Debug, Clone)]
struct Key {
    id: i64,
    signs_from: u64,
    secret: Arc<SecretKey>,
}

impl Keys {
    /// The number of the key that signs now, and the key.
    pub(crate) fn signer(&self) -> (i64, Arc<SecretKey>) {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let come = ring.others.iter().filter(|key| key.signs_from <= now);
        let signing =
            come.chain([&ring.first]).max_by_key(|key| (key.signs_from, key.id)).unwrap_or(&ring.first);
        (signing.id, Arc::clone(&signing.secret))
    }

    /// The key that signs now.
    pub(crate) fn signing(&self) -> Arc<SecretKey> {
        self.signer().1
    }
}

/// A row of the table.
struct Row {
    id: i64,
    public: PublicKey,
    signs_from: u64,
}

/// The keys of the table that sign, now or later; the first is the one that signs now.
fn rows(sql_: &Connection) -> Result<Vec<Row>, Error> {
    let mut select = sql_.prepare_cached(
        "SELECT id, public, signs_from FROM keys WHERE retired_at IS NULL AND signs_from >= coalesce( \
             (SELECT max(signs_from) FROM keys WHERE retired_at IS NULL AND signs_from <= ?1), 0) \
         ORDER BY signs_from, id",
    )?;
    let mut found = Vec::new();
    let mut all = select.query([sql(now())])?;
    while let Some(row) = all.next()? {
        let public: String = row.get(1)?;
        let public = PublicKey::parse(&public).map_err(|error| Error::Damaged(format!("a key: {error}")))?;
        found.push(Row { id: row.get(0)?, public, signs_from: unsql(row.get(2)?) });
    }
    Ok(found)
}

/// The file of a secret key.
fn file(state: &Path, id: i64) -> PathBuf {
    state.join(key::FOLDER).join(format!("{id}.sec"))
}

/// Notes a key with its secret half, which is in its file before the row is there. Its number.
fn add(tx: &Tx<'_>, state: &Path, secret: &SecretKey, signs_from: u64) -> Result<i64, Error> {
    let id = tx
        .prepare_cached("INSERT INTO keys (public, made_at, signs_from) VALUES (?1, ?2, ?3)")?
        .insert((secret.public().to_text(), sql(now()), sql(signs_from)))?;
    key::save(&file(state, id), secret)
        .map_err(|error| Error::io("keep a key", std::io::Error::other(error)))?;
    Ok(id)
}

/// The keys; at the first start the one that the configuration names, or that is in the state folder, or a new one.
pub(super) fn open(
    database: &Database<Change>,
    storage: &Storage,
    config: &Config,
) -> Result<Keys, OpenError> {
    let state = storage.root();
    if database.read_blocking(rows)?.is_empty() {
        let first = key::first(state, &config.signing_key)?;
        let to = state.to_owned();
        database.write_blocking(move |tx| add(tx, &to, &first, now()))?;
    }
    let ring = Ring::load(database, state)?;
    let keys = Keys { ring: RwLock::new(ring), changed: Notify::new() };
    let signing = keys.signing();
    key::save_public(state, signing.public())?;
    warn_of_another(config, signing.public());
    Ok(keys)
}

impl Ring {
    fn load(database: &Database<Change>, state: &Path) -> Result<Self, OpenError> {
        let mut keys = Vec::new();
        for Row { id, public, signs_from } in database.read_blocking(rows)? {
            let secret = key::load(&file(state, id), Some(&public))?;
            keys.push(Key { id, signs_from, secret: Arc::new(secret) });
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| Error::Damaged("there is no key that signs".to_owned()))?;
        Ok(Self { first, others: keys.collect() })
    }
}

/// The configuration names the first key; later ones come by rotation.
fn warn_of_another(config: &Config, signing: &PublicKey) {
    let named = &config.signing_key;
    if named.as_os_str().is_empty() {
        return;
    }
    match key::load(named, None) {
        Ok(other) if other.public() == signing => {}
        Ok(_) => tracing::warn!(
            file = %named.display(),
            "the signing-key of the configuration is not the key that signs; use “drover key rotate --from” for it to be"
        ),
        Err(error) => tracing::debug!(%error, "the signing-key of the configuration was taken over before"),
    }
}

impl Farm {
    /// The key that signs, as text.
    pub fn public_key(&self) -> String {
        self.keys.signing().public().to_text()
    }
}
