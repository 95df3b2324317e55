//! What is held, given to those who ask for it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use drover_store::key::SecretKey;
use drover_store::{Compression, Sha256Hash, StorePath};
use drover_wire::ItemInfo;
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::{Farm, files, paths, unsql};
use crate::storage::{Kind, NarFile, Opened, Target};

/// Where the compressed nar of an item is.
#[derive(Debug, Clone)]
pub enum NarPlace {
    /// In a file of one of the places; see [`Farm::open_nar`].
    File(NarFile),
    /// Here: it is small.
    Bytes(Bytes),
}

impl NarPlace {
    /// Its bytes, as it is compressed.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// How the nar of an item is kept.
#[derive(Debug, Clone)]
pub enum Held {
    /// As agents take it.
    Zstd(NarPlace),
    /// In another compression alone: it was imported like that.
    Otherwise(NarFile),
}

/// The nar of an item as it is kept.
#[derive(Debug, Clone)]
pub struct KeptNar {
    /// The item.
    pub path: StorePath,
    /// How it is compressed there.
    pub compression: Compression,
    /// Where it is.
    pub place: NarPlace,
}

impl Farm {
    /// What is known of an item; with the signature that guix-daemon's import wants, if it is for an agent.
    ///
    /// # Errors
    /// When it is not held.
    pub async fn item(self: &Arc<Self>, path: &StorePath, for_agent: bool) -> Result<ItemInfo, Error> {
        let path = path.clone();
        let key = for_agent.then(|| self.keys.signing());
        let looked_up = self.database.read(move |sql| {
            let id = paths::find(sql, &path)?.ok_or_else(|| not_held(&path))?;
            item_info(sql, key.as_deref(), id)?.ok_or_else(|| not_held(&path))
        });
        looked_up.await
    }

    /// Where the nar of an item is, zstd-compressed if it is there like that.
    ///
    /// # Errors
    /// When it is not held.
    pub async fn nar(self: &Arc<Self>, path: &StorePath) -> Result<Held, Error> {
        let path = path.clone();
        let looked_up = self.database.read(move |sql| {
            let id = paths::find(sql, &path)?.ok_or_else(|| not_held(&path))?;
            if let Some(place) = Self::nar_place(sql, id, Compression::Zstd)? {
                return Ok(Held::Zstd(place));
            }
            let other = files::of(sql, id)?.into_iter().next();
            other.map(Held::Otherwise).ok_or_else(|| not_held(&path))
        });
        looked_up.await
    }

    /// Where the nar of a fixed output is that is one file with this SHA-256, published or not.
    ///
    /// # Errors
    /// When there is none.
    pub async fn file(self: &Arc<Self>, hash: Sha256Hash) -> Result<KeptNar, Error> {
        let looked_up = self.database.read(move |sql| {
            let select = "SELECT path FROM fixed_outputs \
                          WHERE hash = ?1 AND algorithm = 'sha256' AND recursive = 0";
            let ids: Vec<i64> = sql
                .prepare_cached(select)?
                .query_map([hash.as_bytes()], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for id in ids {
                for compression in Compression::ALL.into_iter().rev() {
                    if let Some(place) = Self::nar_place(sql, id, compression)? {
                        return Ok(KeptNar { path: paths::path(sql, id)?, compression, place });
                    }
                }
            }
            Err(Error::NotFound { what: "file with the SHA-256", name: hash.base32() })
        });
        looked_up.await
    }

    /// Where the nar of the item with this number is, compressed like this; none if it is nowhere.
    pub(super) fn nar_place(
        sql: &Connection,
        item: i64,
        compression: Compression,
    ) -> Result<Option<NarPlace>, Error> {
        if compression == Compression::Zstd {
            let small: Option<Vec<u8>> = sql
                .prepare_cached("SELECT bytes FROM contents WHERE path = ?1")?
                .query_row([item], |row| row.get(0))
                .optional()?;
            if let Some(bytes) = small {
                return Ok(Some(NarPlace::Bytes(bytes.into())));
            }
        }
        let file = files::of(sql, item)?.into_iter().find(|file| file.compression == compression);
        Ok(file.map(NarPlace::File))
    }

    /// Opens a part of a file with a nar.
    ///
    /// # Errors
    /// When it is not there (any more), or cannot be read.
    pub async fn open_nar(self: &Arc<Self>, file: &NarFile, range: Range<u64>) -> Result<Opened, Error> {
        // No thread waits for a server that may be slow to answer.
        let place = self.storage.places().get(file.place);
        if let Some(Target::Bucket(bucket)) = place.as_deref().map(|place| &place.target) {
            return Ok(bucket.open_soon(&file.name, file.size, range).await?);
        }
        let (farm, file) = (Arc::clone(self), file.clone());
        let opened = crate::traced::spawn_blocking(move || farm.open_file(&file, range)).await;
        opened.unwrap_or_else(|_| {
            Err(Error::Damaged("reading a nar failed in a way that it must not".to_owned()))
        })
    }

    /// Whether a file is read over the network.
    pub fn is_in_bucket(&self, file: &NarFile) -> bool {
        self.storage.places().get(file.place).is_some_and(|place| place.kind == Kind::Bucket)
    }
}

fn not_held(path: &StorePath) -> Error {
    Error::NotFound { what: "store item", name: path.to_string() }
}

/// What is known of the item with this number, signed if there is a key; none if it is not held.
pub(super) fn item_info(
    sql: &Connection,
    key: Option<&SecretKey>,
    id: i64,
) -> Result<Option<ItemInfo>, Error> {
    type Columns = (Sha256Hash, i64, i64, Option<i64>, Option<Sha256Hash>);
    let columns: Option<Columns> = sql
        .prepare_cached(
            "SELECT nar_hash, nar_size, CASE WHEN EXISTS (SELECT 1 FROM files WHERE item = i.path) \
                 AND NOT EXISTS (SELECT 1 FROM files WHERE item = i.path AND compression = 3) \
                 THEN 0 ELSE file_size END, deriver, nullif(export_hash, x'') FROM items i WHERE path = ?1",
        )?
        .query_row([id], |row| {
            let export_hash = row.get::<_, Option<[u8; 32]>>(4)?.map(Sha256Hash::from_bytes);
            Ok((paths::hash(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?, export_hash))
        })
        .optional()?;
    let Some((nar_hash, nar_size, file_size, deriver, export_hash)) = columns else { return Ok(None) };
    Ok(Some(ItemInfo {
        path: paths::path(sql, id)?,
        nar_hash,
        nar_size: unsql(nar_size),
        file_size: unsql(file_size),
        references: references(sql, id)?,
        deriver: deriver.map(|deriver| paths::path(sql, deriver)).transpose()?,
        // What was taken over as it lies, and not read yet, has none.
        import_signature: key.zip(export_hash).map(|(key, hash)| key.sign(&hash).to_text()),
    }))
}

/// What an item refers to, in ascending order.
pub(super) fn references(sql: &Connection, item: i64) -> Result<Vec<StorePath>, Error> {
    let select = "SELECT p.base FROM item_references r JOIN paths p ON p.id = r.reference \
                  WHERE r.item = ?1 ORDER BY p.base";
    paths::bases(sql, select, item)
}
