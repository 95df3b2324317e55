//! What substitute servers have: asked for when builds are submitted, level by level, so that nothing below what they
//! have is asked for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use drover_store::StorePath;
use futures_util::StreamExt;
use futures_util::stream;
use rusqlite::Connection;

use super::depend::{self, Provided};
use super::error::Error;
use super::{Farm, Tx, now, paths, sql};

/// Questions at a time.
const AT_ONCE: usize = 16;
/// How long a miss is believed, in milliseconds.
pub(super) const MISS_MS: u64 = 10 * 60 * 1000;
/// How long it is relied on that a server has something, without its having said so again: it may be gone for good.
const FOUND_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// After so many failures in a row a server is not asked for the rest of a submission: one that is down would take
/// its whole time for each of thousands of inputs.
pub(super) const FAILURES: u32 = 3;

/// How often each server has failed in a row during one submission, in the order of the configuration.
type Failures = Arc<[AtomicU32]>;

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
        let failures: Failures = self.substitutes.servers().iter().map(|_| AtomicU32::new(0)).collect();
        let mut stopping = self.stopping();
        let mut seen = HashSet::new();
        while !level.is_empty() {
            let mut open = self.open_inputs(std::mem::take(&mut level)).await?;
            open.retain(|input| seen.insert(input.id));
            let found = tokio::select! {
                found = self.ask(&open, &failures) => found?,
                _ = stopping.wait_for(|stopping| *stopping) => return Err(Error::Stopping),
            };
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
    async fn ask(&self, open: &[Open], failures: &Failures) -> Result<HashSet<i64>, Error> {
        let mut asked = Vec::new();
        for input in open.iter().filter(|input| !input.asked) {
            let (id, path, substitutes) = (input.id, input.path.clone(), self.substitutes.clone());
            let failures = Arc::clone(failures);
            asked.push(async move {
                let answers = crate::traced::spawn_blocking(move || {
                    let mut answers = Vec::new();
                    for (server, failures) in substitutes.servers().iter().zip(failures.iter()) {
                        if failures.load(Ordering::Relaxed) >= FAILURES {
                            continue;
                        }
                        match substitutes.has(server, &path) {
                            Ok(found) => {
                                failures.store(0, Ordering::Relaxed);
                                answers.push((server.clone(), found));
                                if found {
                                    break;
                                }
                            }
                            Err(error) => {
                                let left_out = failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES;
                                tracing::warn!(%error, left_out, "asking for a substitute failed");
                            }
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
        self.database
            .write_alone::<_, Error>(move |tx| {
                answers.into_iter().try_for_each(|(path, all)| note_answers(tx, path, all))
            })
            .await?;
        Ok(found)
    }
}

/// Whether one of the servers has said lately that it has something.
pub(super) fn is_elsewhere(sql_: &Connection, path: i64) -> Result<bool, Error> {
    let since = sql(now().saturating_sub(FOUND_MS));
    let select = "SELECT 1 FROM substitutes WHERE path = ?1 AND found = 1 AND checked_at > ?2";
    Ok(sql_.prepare_cached(select)?.exists([path, since])?)
}

/// Forgets what servers said that the configuration does not name any more.
pub(super) fn forget_others(tx: &Tx<'_>, servers: &[String]) -> Result<usize, Error> {
    let named = serde_json::Value::from(servers).to_string();
    let delete = "DELETE FROM substitutes WHERE server NOT IN (SELECT value FROM json_each(?1))";
    Ok(tx.execute(delete, [named])?)
}

/// Notes which servers have something, and which have not.
pub(super) fn note_answers(tx: &mut Tx<'_>, path: i64, answers: Vec<(String, bool)>) -> Result<(), Error> {
    let has = answers.iter().any(|(_, found)| *found);
    for (server, found) in answers {
        tx.prepare_cached(
            "INSERT INTO substitutes VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (path, server) DO UPDATE SET found = ?3, checked_at = ?4",
        )?
        .execute((path, server, found, sql(now())))?;
    }
    // It may have been built since it was asked for.
    let nobodys = "SELECT 1 FROM paths WHERE id = ?1 AND provided = 0";
    if has && tx.prepare_cached(nobodys)?.exists([path])? {
        depend::provide(tx, path, Provided::Elsewhere)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::Config;

    fn item(name: &str) -> StorePath {
        drover_store::path::text(name, b"", &[]).unwrap()
    }

    /// A farm that knows one derivation with so many inputs, and asks this server for them.
    fn farm(state: &std::path::Path, server: String, inputs: usize) -> Arc<Farm> {
        let config = Config {
            state: state.to_owned(),
            disk_reserve_mib: 0,
            substitute_servers: vec![server],
            ..Config::default()
        };
        let farm = Farm::open(config).unwrap();
        let made = farm.database.write_blocking::<_, Error>(move |tx| {
            let top = paths::number(tx, &item("top.drv"))?;
            for n in 0..inputs {
                let output = paths::number(tx, &item(&format!("input-{n}")))?;
                let maker = paths::number(tx, &item(&format!("input-{n}.drv")))?;
                tx.execute("INSERT INTO derivation_inputs VALUES (?1, ?2, ?3)", [top, output, maker])?;
            }
            Ok(())
        });
        made.unwrap();
        farm
    }

    fn provided(farm: &Farm, path: StorePath) -> i64 {
        let read = farm.database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT provided FROM paths WHERE base = ?1";
            Ok(sql.query_row(select, [path.base_name()], |row| row.get(0))?)
        });
        read.unwrap()
    }

    /// Answers every question with what `answer` gives for it.
    fn serve(listener: TcpListener, mut answer: impl FnMut() -> String + Send + 'static) {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                // The head of a question ends with an empty line.
                let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
                let _ = stream.write_all(answer().as_bytes());
            }
        });
    }

    fn ask(farm: &Arc<Farm>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let top = item("top.drv");
        runtime.block_on(farm.ask_substitute_servers(std::iter::once(&top))).unwrap();
    }

    #[test]
    fn a_server_that_fails_again_and_again_is_not_asked_for_the_rest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let farm = farm(folder.path(), format!("http://{}", listener.local_addr().unwrap()), 200);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        serve(listener, move || {
            count.fetch_add(1, Ordering::Relaxed);
            "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
        });
        ask(&farm);
        let asked = asked.load(Ordering::Relaxed);
        assert!((1..=2 * AT_ONCE).contains(&asked), "asked {asked} times");
    }

    #[test]
    fn what_is_built_while_a_server_is_asked_stays_held() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let farm = farm(folder.path(), format!("http://{}", listener.local_addr().unwrap()), 1);
        let other = Arc::clone(&farm);
        serve(listener, move || {
            let came = other.database.write_blocking::<_, Error>(|tx| {
                let id = paths::number(tx, &item("input-0"))?;
                depend::provide(tx, id, Provided::Held)
            });
            came.unwrap();
            let body = format!("StorePath: {}\n", item("input-0"));
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        });
        ask(&farm);
        assert_eq!(provided(&farm, item("input-0")), Provided::Held as i64);
    }

    #[test]
    fn what_a_server_has_is_provided_elsewhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let farm = farm(folder.path(), format!("http://{}", listener.local_addr().unwrap()), 1);
        serve(listener, move || {
            let body = format!("StorePath: {}\n", item("input-0"));
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        });
        ask(&farm);
        assert_eq!(provided(&farm, item("input-0")), Provided::Elsewhere as i64);
    }
}
