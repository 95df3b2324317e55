//! Another key comes to sign, and an old one goes.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use drover_store::key::{PublicKey, SecretKey};
use drover_wire::key::{AFTER_LIMIT, KeyInfo, KeyRetirement, KeyRotated, KeyRotation, KeyState};
use rusqlite::{Connection, OptionalExtension};

use super::{Ring, add};
use crate::database;
use crate::farm::error::Error;
use crate::farm::{Farm, OpenError, Tx, now, retention, sql, unsql};
use crate::key;

impl Farm {
    /// All keys, the newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, Error> {
        self.database
            .read(|sql| {
                let mut select =
                    sql.prepare_cached("SELECT id FROM keys ORDER BY signs_from DESC, id DESC")?;
                let all = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
                all.into_iter().map(|id| info(sql, id)).collect()
            })
            .await
    }

    /// Has another key sign, from a time on. Until then it can be authorized by those who take what it will sign.
    ///
    /// # Errors
    /// When what was given is no secret key, or one that is known; or when another one is to sign already.
    pub async fn rotate_key(self: &Arc<Self>, rotation: KeyRotation) -> Result<KeyRotated, Error> {
        let KeyRotation { after, secret } = rotation;
        if after > AFTER_LIMIT {
            return Err(Error::BadRequest(format!(
                "a key cannot begin to sign in {after} seconds; ten years are the longest"
            )));
        }
        let secret = match secret {
            Some(text) => parse(&text)?,
            None => SecretKey::generate()
                .map_err(|error| Error::io("make a key", std::io::Error::other(error)))?,
        };
        let state = self.storage.root().to_owned();
        let ttl = self.config.narinfo_ttl_seconds;
        let rotated = self.database.write(move |tx| rotate(tx, &state, &secret, after, ttl)).await?;
        self.take_up_keys().await?;
        let KeyRotated { old, new, .. } = &rotated;
        tracing::info!(
            old = old.key,
            new = new.key,
            after,
            public = new.public_key,
            "another key is to sign"
        );
        Ok(rotated)
    }

    /// A key goes: the coordinator does not say any more that it is one of its own.
    ///
    /// # Errors
    /// When it signs, or something that it signed may still be about.
    pub async fn retire_key(self: &Arc<Self>, key: u64, retirement: KeyRetirement) -> Result<KeyInfo, Error> {
        let retired = self.database.write(move |tx| retire(tx, key, retirement.now)).await?;
        self.take_up_keys().await?;
        tracing::info!(key, "a key was retired");
        Ok(retired)
    }

    /// Signs with the keys that the database has now.
    async fn take_up_keys(self: &Arc<Self>) -> Result<(), Error> {
        let farm = Arc::clone(self);
        let taken = crate::traced::spawn_blocking(move || {
            let ring = Ring::load(&farm.database, farm.storage.root()).map_err(unusable)?;
            *farm.keys.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
            farm.show_signing_key()?;
            farm.keys.changed.notify_one();
            Ok(())
        });
        taken.await.unwrap_or_else(|_| Err(database::Error::Panicked.into()))
    }

    /// The file in the state folder has the public half of the key that signs. Blocks.
    pub(in crate::farm) fn show_signing_key(&self) -> Result<(), Error> {
        let signing = self.keys.signing();
        key::save_public(self.storage.root(), signing.public())
            .map_err(|error| Error::io("keep the public key", std::io::Error::other(error)))
    }
}

fn unusable(error: OpenError) -> Error {
    Error::io("take up the keys", std::io::Error::other(error))
}

fn parse(text: &str) -> Result<SecretKey, Error> {
    SecretKey::parse(text).map_err(|error| {
        Error::BadRequest(match PublicKey::parse(text) {
            Ok(_) => "that is the public half of a key, and it cannot sign; give the secret half, such as \
                      /etc/guix/signing-key.sec"
                .to_owned(),
            Err(_) => {
                format!("that is no secret key as Guix has them, such as /etc/guix/signing-key.sec: {error}")
            }
        })
    })
}

fn rotate(
    tx: &mut Tx<'_>,
    state: &Path,
    secret: &SecretKey,
    after: u64,
    ttl: u64,
) -> Result<KeyRotated, Error> {
    let public = secret.public().to_text();
    let known: Option<(i64, bool)> = tx
        .prepare_cached("SELECT id, retired_at IS NOT NULL FROM keys WHERE public = ?1")?
        .query_row([public], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((id, retired)) = known {
        let what = if retired { "was retired, and does not come back" } else { "is here already" };
        return Err(Error::Conflict(format!(
            "that key has the number {id} and {what}; give another, or none for a new one"
        )));
    }
    let pending: Option<i64> = tx
        .prepare_cached("SELECT id FROM keys WHERE retired_at IS NULL AND signs_from > ?1")?
        .query_row([sql(now())], |row| row.get(0))
        .optional()?;
    if let Some(id) = pending {
        return Err(Error::Conflict(format!(
            "the key {id} is to sign next already; wait until it does, or take it back with “drover key retire {id}”"
        )));
    }
    let old = signing(tx)?;
    let begin = now().saturating_add(after.saturating_mul(1000));
    // Two keys never begin at the same time: the later one signs.
    let before: i64 =
        tx.prepare_cached("SELECT signs_from FROM keys WHERE id = ?1")?.query_row([old], |row| row.get(0))?;
    let new = add(tx, state, secret, begin.max(unsql(before) + 1))?;
    Ok(KeyRotated { old: info(tx, old)?, new: info(tx, new)?, ttl })
}

fn retire(tx: &mut Tx<'_>, key: u64, at_once: bool) -> Result<KeyInfo, Error> {
    let id = sql(key);
    let known = tx.prepare_cached("SELECT 1 FROM keys WHERE id = ?1")?.exists([id])?;
    if !known {
        return Err(Error::NotFound { what: "key", name: key.to_string() });
    }
    let before = info(tx, id)?;
    match before.state {
        KeyState::Retired => return Ok(before),
        KeyState::Signs => {
            return Err(Error::Conflict(format!(
                "the key {key} signs; have another one sign first, with “drover key rotate”"
            )));
        }
        // It never signed.
        KeyState::Next => {}
        KeyState::Signed if at_once => {}
        KeyState::Signed => still_about(&before)?,
    }
    tx.prepare_cached("UPDATE keys SET retired_at = ?2 WHERE id = ?1")?.execute([id, sql(now())])?;
    info(tx, id)
}

fn still_about(key: &KeyInfo) -> Result<(), Error> {
    let why = match key.may_go_at {
        None => format!(
            "{} narinfos that it signed are published, and are being signed anew; see “drover key list”",
            key.signed
        ),
        Some(at) if at > now() => format!(
            "clients may keep what it signed for another {} minutes",
            at.saturating_sub(now()).div_ceil(60_000)
        ),
        Some(_) => return Ok(()),
    };
    Err(Error::Conflict(format!("the key {} cannot go yet: {why}; --now has it go all the same", key.key)))
}

/// The key that signs now.
fn signing(sql_: &Connection) -> Result<i64, Error> {
    let select = "SELECT id FROM keys WHERE retired_at IS NULL ORDER BY signs_from > ?1, signs_from DESC, id DESC LIMIT 1";
    Ok(sql_.prepare_cached(select)?.query_row([sql(now())], |row| row.get(0))?)
}

fn info(sql_: &Connection, id: i64) -> Result<KeyInfo, Error> {
    let signing = signing(sql_)?;
    let mut select = sql_.prepare_cached(
        "SELECT public, made_at, signs_from, may_go_at, retired_at, \
         (SELECT count(*) FROM published p WHERE p.key = k.id) FROM keys k WHERE k.id = ?1",
    )?;
    Ok(select.query_row([id], |row| {
        let retired_at = row.get::<_, Option<i64>>(4)?.map(unsql);
        let signs_from = unsql(row.get(2)?);
        let state = match retired_at {
            Some(_) => KeyState::Retired,
            None if id == signing => KeyState::Signs,
            None if signs_from > now() => KeyState::Next,
            None => KeyState::Signed,
        };
        Ok(KeyInfo {
            key: unsql(id),
            public_key: row.get(0)?,
            state,
            made_at: unsql(row.get(1)?),
            signs_from,
            signed: unsql(row.get(5)?),
            may_go_at: row.get::<_, Option<i64>>(3)?.map(unsql),
            retired_at,
        })
    })?)
}

/// Notes that a key that does not sign any more has signed nothing that is published. True: it has not, or not any more.
pub(in crate::farm) fn note_unused(tx: &Tx<'_>, key: i64) -> Result<bool, Error> {
    if tx.prepare_cached("SELECT 1 FROM published WHERE key = ?1")?.exists([key])? {
        return Ok(false);
    }
    let until = sql(retention::believed_until(tx)?);
    tx.prepare_cached("UPDATE keys SET may_go_at = ?2 WHERE id = ?1")?.execute([key, until])?;
    Ok(true)
}

/// Whether it has not been noted yet of a key that nothing published is signed by it.
pub(in crate::farm) fn is_in_use(sql: &Connection, key: i64) -> Result<bool, Error> {
    let select = "SELECT 1 FROM keys WHERE id = ?1 AND may_go_at IS NULL";
    Ok(sql.prepare_cached(select)?.exists([key])?)
}

/// The keys that do not sign any more, and that something published may still be signed by.
pub(in crate::farm) fn used_up(sql_: &Connection) -> Result<Vec<i64>, Error> {
    let select = "SELECT id FROM keys k WHERE id <> ?1 AND signs_from <= ?2 \
                  AND (may_go_at IS NULL OR EXISTS (SELECT 1 FROM published p WHERE p.key = k.id)) ORDER BY id";
    let mut select = sql_.prepare_cached(select)?;
    let all = select.query_map([signing(sql_)?, sql(now())], |row| row.get(0))?;
    Ok(all.collect::<rusqlite::Result<_>>()?)
}
