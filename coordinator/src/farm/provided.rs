//! What substitute servers have: asked for when builds are submitted, level by level, so that nothing below what they
//! have is asked for.

use std::collections::{BTreeMap, HashSet};

use drover_store::StorePath;
use futures_util::StreamExt;
use futures_util::stream;

use super::depend::{self, Provided};
use super::error::Error;
use super::{Farm, now, paths, sql};

/// Questions at a time.
const AT_ONCE: usize = 16;
/// How long a miss is believed, in milliseconds.
const MISS_MS: u64 = 10 * 60 * 1000;

/// An input that nobody provides as far as is known: its path, a derivation that makes it, and whether servers were
/// asked for it a moment ago.
struct Open {
    id: i64,
    path: StorePath,
    maker: i64,
    asked: bool,
}

impl Farm {
    /// Asks the substitute servers for the inputs of these derivations that nobody provides, and below them for those
    /// of what they do not have.
    pub(super) async fn ask_substitute_servers(
        &self,
        derivations: impl Iterator<Item = &StorePath>,
    ) -> Result<(), Error> {
        if self.substitutes.servers().is_empty() {
            return Ok(());
        }
        let wanted: Vec<StorePath> = derivations.cloned().collect();
        let mut level = self
            .database
            .read::<_, Error>(move |sql| {
                let found = wanted.iter().filter_map(|path| paths::find(sql, path).transpose());
                found.collect::<Result<Vec<i64>, Error>>()
            })
            .await?;
        let mut seen = HashSet::new();
        while !level.is_empty() {
            let mut open = self.open_inputs(std::mem::take(&mut level)).await?;
            open.retain(|input| seen.insert(input.id));
            let found = self.ask(&open).await?;
            level = open.iter().filter(|input| !found.contains(&input.id)).map(|input| input.maker).collect();
        }
        Ok(())
    }

    async fn open_inputs(&self, derivations: Vec<i64>) -> Result<Vec<Open>, Error> {
        self.database
            .read(move |sql_| {
                let mut all = BTreeMap::new();
                let mut select = sql_.prepare_cached(
                    "SELECT p.id, p.base, i.maker, EXISTS (SELECT 1 FROM substitutes s \
                         WHERE s.path = p.id AND s.found = 0 AND s.checked_at > ?2) \
                     FROM derivation_inputs i JOIN paths p ON p.id = i.output AND p.provided = 0 \
                     WHERE i.derivation = ?1",
                )?;
                let recent = sql(now().saturating_sub(MISS_MS));
                for derivation in derivations {
                    let rows = select.query_map([derivation, recent], |row| {
                        let (id, path) = (row.get(0)?, paths::base(row, 1)?);
                        Ok(Open { id, path, maker: row.get(2)?, asked: row.get(3)? })
                    })?;
                    for row in rows {
                        let row = row?;
                        all.entry(row.id).or_insert(row);
                    }
                }
                Ok(all.into_values().collect())
            })
            .await
    }

    /// Asks for those that were not asked for a moment ago, notes the answers, and gives what somebody has.
    async fn ask(&self, open: &[Open]) -> Result<HashSet<i64>, Error> {
        let mut asked = Vec::new();
        for input in open.iter().filter(|input| !input.asked) {
            let (id, path, substitutes) = (input.id, input.path.clone(), self.substitutes.clone());
            asked.push(async move {
                let answers = tokio::task::spawn_blocking(move || {
                    let mut answers = Vec::new();
                    for server in substitutes.servers() {
                        match substitutes.has(server, &path) {
                            Ok(found) => {
                                answers.push((server.clone(), found));
                                if found {
                                    break;
                                }
                            }
                            Err(error) => tracing::warn!(%error, "asking for a substitute failed"),
                        }
                    }
                    answers
                });
                (id, answers.await.unwrap_or_default())
            });
        }
        let answers: Vec<(i64, Vec<(String, bool)>)> =
            stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let found: HashSet<i64> = answers
            .iter()
            .filter(|(_, all)| all.iter().any(|(_, found)| *found))
            .map(|(id, _)| *id)
            .collect();
        let provided = found.clone();
        self.database
            .write::<_, Error>(move |tx| {
                for (path, all) in answers {
                    for (server, found) in all {
                        tx.prepare_cached(
                            "INSERT INTO substitutes VALUES (?1, ?2, ?3, ?4) \
                             ON CONFLICT (path, server) DO UPDATE SET found = ?3, checked_at = ?4",
                        )?
                        .execute((path, server, found, sql(now())))?;
                    }
                    if provided.contains(&path) {
                        depend::provide(tx, path, Provided::Elsewhere)?;
                    }
                }
                Ok(())
            })
            .await?;
        Ok(found)
    }
}
