//! What the public can have: what was published, and nothing else. To everybody who asks for anything else it looks as if
//! there were nothing at all.
//!
//! All of it is looked up on the thread that asks.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use drover_store::{Compression, Sha256Hash, StorePath, base32};
use drover_wire::BuildId;
use rusqlite::{Connection, OptionalExtension, Row};

use super::error::Error;
use super::{Farm, LogPlace, NarPlace, now, paths, publish, retention, unsql};

/// The first part of a base name, by which a narinfo is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashPart([u8; HashPart::LENGTH]);

impl HashPart {
    const LENGTH: usize = 32;

    fn as_str(&self) -> &str {
        // Digits alone.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A text that is no first part of a base name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not the first part of a store item's name: 32 characters of Guix's base32")]
pub struct NoHashPart;

impl FromStr for HashPart {
    type Err = NoHashPart;

    fn from_str(text: &str) -> Result<Self, NoHashPart> {
        let digits: [u8; Self::LENGTH] = text.as_bytes().try_into().map_err(|_| NoHashPart)?;
        if digits.iter().all(|byte| base32::is_digit(*byte)) { Ok(Self(digits)) } else { Err(NoHashPart) }
    }
}

/// Something that the public can have.
#[derive(Debug, Clone)]
pub struct Shown<T> {
    /// It.
    pub what: T,
    /// How long it may be believed that it can be had, from now on.
    pub fresh: Duration,
}

/// A nar, or what is in it.
#[derive(Debug, Clone)]
pub struct ShownNar {
    /// The item.
    pub path: StorePath,
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// The bytes of its nar, uncompressed.
    pub nar_size: u64,
    /// How it is compressed there.
    pub compression: Compression,
    /// Where it is.
    pub place: NarPlace,
    /// Whether it is being removed.
    pub is_leaving: bool,
}

/// The logs of an item that are looked for: older ones have nothing new to say.
const LOGS: u32 = 8;

impl Farm {
    /// The narinfo of a published item, as it is sent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_narinfo(&self, part: HashPart) -> Result<Option<Shown<Bytes>>, Error> {
        // All names with this first part lie between these two: "." comes right after "-".
        let (from, to) = (format!("{}-", part.as_str()), format!("{}.", part.as_str()));
        let found: Option<(Vec<u8>, Option<i64>, bool)> = self.database.look::<_, Error>(|sql| {
            let mut select = sql.prepare_cached(
                "SELECT u.narinfo, u.until, u.elsewhere FROM paths p CROSS JOIN published u ON u.path = p.id \
                 WHERE p.base >= ?1 AND p.base < ?2",
            )?;
            Ok(select
                .query_row((&from, &to), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?)
        })?;
        let Some((narinfo, until, elsewhere)) = found else { return Ok(None) };
        Ok(Some(self.shown(publish::served(narinfo, elsewhere)?.into(), until)))
    }

    /// Where the nar of a published item is, compressed like this; or of one that was published until a while ago.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_nar(
        &self,
        path: &StorePath,
        compression: Compression,
    ) -> Result<Option<Shown<ShownNar>>, Error> {
        self.database.look(|sql| {
            let Some(id) = paths::find(sql, path)? else { return Ok(None) };
            self.published_nar(sql, id, path, compression)
        })
    }

    /// Where the nar of a published fixed output is that is one file with this SHA-256.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_file(&self, hash: &Sha256Hash) -> Result<Option<Shown<ShownNar>>, Error> {
        self.database.look(|sql| {
            let ids: Vec<i64> = sql
                .prepare_cached(
                    "SELECT f.path FROM fixed_outputs f CROSS JOIN published u ON u.path = f.path \
                     WHERE f.hash = ?1 AND f.algorithm = 'sha256' AND f.recursive = 0",
                )?
                .query_map([hash.as_bytes()], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for id in ids {
                let path = paths::path(sql, id)?;
                for compression in Compression::ALL.into_iter().rev() {
                    if let Some(found) = self.published_nar(sql, id, &path, compression)? {
                        return Ok(Some(found));
                    }
                }
            }
            Ok(None)
        })
    }

    /// The address of another server's nar of a published item, compressed like this, where requests are sent for it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_elsewhere(
        &self,
        path: &StorePath,
        compression: Compression,
    ) -> Result<Option<Shown<String>>, Error> {
        self.database.look(|sql| {
            let Some(id) = paths::find(sql, path)? else { return Ok(None) };
            let select = "SELECT n.url, u.until FROM published u CROSS JOIN redirect_nars n \
                          ON n.path = u.path AND n.compression = ?2 WHERE u.path = ?1";
            let found = sql
                .prepare_cached(select)?
                .query_row([id, compression as i64], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            Ok(found.map(|(url, until)| self.shown(url, until)))
        })
    }

    /// The address at another server of a published fixed output that is one file with this SHA-256.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_file_elsewhere(&self, hash: &Sha256Hash) -> Result<Option<Shown<String>>, Error> {
        self.database.look(|sql| {
            let select = "SELECT r.server, f.path, u.until FROM fixed_outputs f \
                          CROSS JOIN published u ON u.path = f.path \
                          CROSS JOIN redirects r ON r.path = f.path AND r.file = 1 \
                          WHERE f.hash = ?1 AND f.algorithm = 'sha256' AND f.recursive = 0 LIMIT 1";
            let found: Option<(String, i64, Option<i64>)> = sql
                .prepare_cached(select)?
                .query_row([hash.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((server, id, until)) = found else { return Ok(None) };
            let url = retention::file_url(&server, &paths::path(sql, id)?, hash);
            Ok(Some(self.shown(url, until)))
        })
    }

    /// Where logs of the tries at a published output may be, or at a derivation that has one; the newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn shown_logs(&self, path: &StorePath) -> Result<Option<Shown<Vec<LogPlace>>>, Error> {
        let found = self.database.look::<_, Error>(|sql| {
            let Some(id) = paths::find(sql, path)? else { return Ok(None) };
            let (until, targets) = if path.is_derivation() {
                let until = "SELECT u.until FROM derivation_outputs o CROSS JOIN published u ON u.path = o.path \
                             WHERE o.derivation = ?1 LIMIT 1";
                (until_of(sql, until, id)?, "SELECT target FROM derivations WHERE id = ?1")
            } else {
                let targets = "SELECT DISTINCT d.target FROM derivation_outputs o \
                               CROSS JOIN derivations d ON d.id = o.derivation WHERE o.path = ?1";
                (until_of(sql, "SELECT until FROM published WHERE path = ?1", id)?, targets)
            };
            let Some(until) = until else { return Ok(None) };
            let mut tries = Vec::new();
            for target in paths::numbers(sql, targets, id)? {
                let mut select = sql.prepare_cached(
                    "SELECT b.uuid, a.number, b.id FROM builds b CROSS JOIN attempts a ON a.build = b.id \
                     WHERE b.target = ?1 AND a.ended_at IS NOT NULL ORDER BY b.id DESC, a.number DESC LIMIT ?2",
                )?;
                let rows = select.query_map((target, LOGS), |row| {
                    Ok((row.get::<_, i64>(2)?, row.get::<_, u32>(1)?, paths::build_id(row, 0)?))
                })?;
                tries.append(&mut rows.collect::<rusqlite::Result<_>>()?);
            }
            tries.sort_by_key(|(build, number, _)| std::cmp::Reverse((*build, *number)));
            Ok(Some((until, tries)))
        })?;
        let Some((until, tries)) = found else { return Ok(None) };
        let logs =
            tries.into_iter().take(LOGS as usize).map(|(_, number, build)| self.ended_log(build, number));
        Ok(Some(self.shown(logs.collect(), until)))
    }

    /// The public keys that what is shown may be signed with, the newest first, a line of text each.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn valid_keys(&self) -> Result<String, Error> {
        let keys: Vec<String> = self.database.look::<_, Error>(|sql| {
            let select = "SELECT public FROM keys WHERE retired_at IS NULL ORDER BY signs_from DESC, id DESC";
            let mut select = sql.prepare_cached(select)?;
            let rows = select.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        Ok(keys.iter().map(|key| format!("{}\n", key.trim_end())).collect())
    }

    fn ended_log(&self, build: BuildId, number: u32) -> LogPlace {
        LogPlace {
            raw: self.storage.log(build, number),
            packed: self.storage.packed_log(build, number),
            growing: None,
        }
    }

    fn published_nar(
        &self,
        sql: &Connection,
        id: i64,
        path: &StorePath,
        compression: Compression,
    ) -> Result<Option<Shown<ShownNar>>, Error> {
        const PUBLISHED: &str = "SELECT i.nar_hash, u.until, i.nar_size, EXISTS (SELECT 1 FROM removals r WHERE r.path = u.path) \
             FROM published u CROSS JOIN items i ON i.path = u.path WHERE u.path = ?1";
        // Whoever was given the narinfo right before it was withdrawn has until then to come for the nar.
        const WITHDRAWN: &str = "SELECT i.nar_hash, r.due, i.nar_size, 1 \
             FROM removals r CROSS JOIN items i ON i.path = r.path WHERE r.path = ?1 AND r.shown = 1 \
             AND NOT EXISTS (SELECT 1 FROM unpublishable n WHERE n.path = r.path)";
        type Columns = (Sha256Hash, Option<i64>, i64, bool);
        let look = |select: &str| -> Result<Option<Columns>, Error> {
            let columns = |row: &Row<'_>| Ok((paths::hash(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            Ok(sql.prepare_cached(select)?.query_row([id], columns).optional()?)
        };
        let found = match look(PUBLISHED)? {
            None => look(WITHDRAWN)?,
            found => found,
        };
        let Some((nar_hash, until, nar_size, is_leaving)) = found else { return Ok(None) };
        let nar_size = unsql(nar_size);
        let Some(place) = Self::nar_place(sql, id, compression)? else { return Ok(None) };
        let path = path.clone();
        let nar = ShownNar { path, nar_hash, nar_size, compression, place, is_leaving };
        Ok(Some(self.shown(nar, until)))
    }

    /// Nobody may believe in it for longer than was promised, or after it is withdrawn, if that was announced.
    fn shown<T>(&self, what: T, until: Option<i64>) -> Shown<T> {
        let ttl = Duration::from_secs(self.config.narinfo_ttl_seconds);
        let left = until.map(|until| Duration::from_millis(unsql(until).saturating_sub(now())));
        Shown { what, fresh: left.map_or(ttl, |left| left.min(ttl)) }
    }
}

/// Some, if there is a row at all.
fn until_of(sql: &Connection, select: &str, id: i64) -> Result<Option<Option<i64>>, Error> {
    Ok(sql.prepare_cached(select)?.query_row([id], |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_part_is_32_digits_and_nothing_else() {
        let good = "00a3xasf5iyzfv23danwy7pilf2yyxjz";
        assert_eq!(good.parse::<HashPart>().unwrap().as_str(), good);
        for bad in
            ["", "00a3xasf5iyzfv23danwy7pilf2yyxj", "00a3xasf5iyzfv23danwy7pilf2yyxje", &good.repeat(2)]
        {
            assert_eq!(bad.parse::<HashPart>(), Err(NoHashPart), "{bad}");
        }
    }
}
