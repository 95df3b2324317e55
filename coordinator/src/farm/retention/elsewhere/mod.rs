//! What only rules with `unless-elsewhere` keep need not be here when another server verifiably has it.
//!
//! Such an item is asked for ([`ask`]), a bounded number at each look and on a few threads, outside of the database. One
//! that is found is announced: its narinfo, with our signature, names the other server's nars, for which the public is
//! sent there, while ours is still here for those who were told of it before. When nobody believes in that any more and
//! the server is found to have it again, the files go. From then on it is looked from time to time whether the server
//! still has it; what it has lost is withdrawn, what refers to it before that, and can be built again ([`rows`]).

mod ask;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use drover_wire::Timestamp;
use drover_wire::retention::RetentionRun;
use rusqlite::Connection;

use super::super::error::Error;
use super::super::{Farm, Tx, now, paths, publish, sql};
use super::days;
use super::walk::{Bits, each};
use crate::config::RetentionConfig;
use ask::{Answer, Found};
pub(in crate::farm) use ask::{Elsewhere, file_url};
use rows::Subject;
pub(in crate::farm) use rows::{build_again, is_away};
pub(super) use rows::{came_back, forget, keep};

/// Items of each kind that are asked for at one look; the others have their turn at the next.
pub(super) const AT_ONE_LOOK: usize = if cfg!(test) { 50 } else { 10_000 };
/// Items that are asked for before what came of it is noted.
const BATCH: usize = 100;
/// Questions at a time.
const AT_ONCE: usize = 6;
/// After so many failures in a row a server is not asked for the rest of a look.
const FAILURES: u32 = 3;
/// What was not found for so many times `check-days` counts as lost.
const GIVEN_UP: u64 = 4;
/// How long an item that is due stays if its server does not answer, in milliseconds.
const POSTPONED_MS: u64 = 6 * 60 * 60 * 1000;

/// What is to be asked for, as far as it is found in one moment of the database.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Announced, and due.
    pub(super) due: Vec<u32>,
    /// Kept by weak rules alone, and not asked for lately.
    pub(super) new: Vec<u32>,
}

/// What came of asking for something.
enum Verdict {
    Has(Found),
    HasNot,
    /// What a server said is not signed by a key that we trust, and none has it.
    Untrusted,
    /// A server did not answer.
    Unsure,
    /// Those that might have it are not asked any more.
    NotAsked,
}

/// Those items among `weak` that are to be asked for, first those that never were, and then those that were longest ago;
/// `known`: what is being removed.
pub(super) fn candidates(
    sql_: &Connection,
    config: &RetentionConfig,
    at: Timestamp,
    known: &Bits,
    weak: impl Fn(u32) -> bool,
) -> Result<Vec<u32>, Error> {
    // That it is published is asked of an index: the narinfos would be a gigabyte.
    const PUBLISHED: &str = "SELECT 1 FROM publications WHERE path = ?1";
    const NEVER: &str = "SELECT i.path FROM items i WHERE i.kind = 'output' AND i.added_at <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM elsewhere_misses m WHERE m.path = i.path)";
    const LONG_AGO: &str = "SELECT m.path FROM elsewhere_misses m CROSS JOIN items i ON i.path = m.path \
         WHERE i.kind = 'output' AND i.added_at <= ?1 AND m.checked_at <= ?2 ORDER BY m.checked_at";
    let mut found = Vec::new();
    let elsewhere = &config.elsewhere;
    if elsewhere.servers.is_empty() {
        return Ok(found);
    }
    let since = |count: u64| sql(at.saturating_sub(days(count)));
    let (here, asked) = (since(elsewhere.after_days), since(elsewhere.check_days));
    let mut published = sql_.prepare_cached(PUBLISHED)?;
    for (question, limits) in [(NEVER, &[here][..]), (LONG_AGO, &[here, asked])] {
        let mut some = sql_.prepare_cached(question)?;
        let mut rows = some.query(rusqlite::params_from_iter(limits))?;
        while let Some(row) = rows.next()? {
            let Ok(path) = row.get(0) else { continue };
            if weak(path) && !known.has(path) && published.exists([path])? {
                found.push(path);
                if found.len() >= AT_ONE_LOOK {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// Puts all that is not here because another server has it among what is held. In the order of the table: that of an
/// index would be another one.
pub(super) fn held(sql: &Connection, held: &mut Bits) -> Result<(), Error> {
    each(sql, "SELECT path FROM redirects WHERE +until IS NULL", |path| {
        held.put(path);
    })
}

impl Farm {
    /// What was announced and is due goes, as far as other servers have it. Blocks.
    pub(super) fn settle_elsewhere(&self, due: &[u32], run: &mut RetentionRun) -> Result<(), Error> {
        let asking = Asking::new(self);
        due.chunks(BATCH).try_for_each(|batch| asking.settle(batch, run))
    }

    /// Asks the other servers whether they still have what is not here, and for what is new, and does what follows.
    /// Blocks.
    pub(super) fn look_elsewhere(&self, new: &[u32], run: &mut RetentionRun) -> Result<(), Error> {
        let asking = Asking::new(self);
        let stale = self.database.read_blocking(|sql| self.stale(sql))?;
        for batch in stale.chunks(BATCH) {
            run.lost += asking.confirm(batch, run)?;
        }
        if run.lost > 0 {
            tracing::warn!(
                items = run.lost,
                "what other servers had is not there any more, or was not found there for long; nobody is sent there for it"
            );
        }
        new.chunks(BATCH).try_for_each(|batch| asking.announce(batch, run))
    }

    /// What is not here and was not looked after for long, some of it.
    fn stale(&self, sql_: &Connection) -> Result<Vec<u32>, Error> {
        let before = now().saturating_sub(days(self.config.retention.elsewhere.check_days));
        let select = "SELECT path FROM redirects r WHERE until IS NULL AND asked_at <= ?1 \
                      AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = r.path) ORDER BY asked_at LIMIT ?2";
        let mut select = sql_.prepare_cached(select)?;
        let rows = select.query_map((sql(before), AT_ONE_LOOK as i64), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets where things were that are held again, when nobody comes for them there any more.
    pub(super) fn end_redirects(&self) -> Result<(), Error> {
        const OVER: &str = "SELECT path FROM redirects WHERE until IS NOT NULL AND until <= ?1 LIMIT 1000";
        loop {
            let ended = self.database.write_blocking::<_, Error>(|tx| {
                let over = paths::numbers(tx, OVER, sql(now()))?;
                over.iter().try_for_each(|item| forget(tx, *item))?;
                Ok(over.len())
            })?;
            if ended == 0 {
                return Ok(());
            }
        }
    }
}

/// One look at the other servers.
struct Asking<'f> {
    farm: &'f Farm,
    /// How often each server has failed in a row, in the order of the configuration.
    failures: Vec<AtomicU32>,
}

impl<'f> Asking<'f> {
    fn new(farm: &'f Farm) -> Self {
        let failures = farm.elsewhere.servers().iter().map(|_| AtomicU32::new(0)).collect();
        Self { farm, failures }
    }

    /// These may be announced.
    fn announce(&self, items: &[u32], run: &mut RetentionRun) -> Result<(), Error> {
        let at = now();
        // After a day it is asked again, and not before others have had their turn.
        let again = days(self.farm.config.retention.elsewhere.check_days.saturating_sub(1));
        run.announced_elsewhere += self.each(items, run, move |tx, subject, verdict, count: &mut u64| {
            match verdict {
                Verdict::Has(found) => *count += u64::from(rows::announce(tx, subject, &found, at)?),
                Verdict::HasNot | Verdict::Untrusted => rows::missed(tx, subject.item, at)?,
                Verdict::Unsure => rows::missed(tx, subject.item, at.saturating_sub(again))?,
                Verdict::NotAsked => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    /// What was not found since then counts as lost.
    fn given_up(&self, at: Timestamp) -> Timestamp {
        at.saturating_sub(days(self.farm.config.retention.elsewhere.check_days.saturating_mul(GIVEN_UP)))
    }

    /// These are announced, and may go now.
    fn settle(&self, items: &[u32], run: &mut RetentionRun) -> Result<(), Error> {
        let at = now();
        let since = self.given_up(at);
        let named = self.farm.elsewhere.servers().to_vec();
        let gone = self.each(items, run, move |tx, subject, verdict, gone: &mut (u64, u64)| {
            match verdict {
                Verdict::Has(found) => {
                    if let Some(bytes) = rows::settle(tx, subject, &found, at)? {
                        *gone = (gone.0 + 1, gone.1 + bytes);
                    }
                }
                Verdict::HasNot | Verdict::Untrusted => {
                    super::rescue(tx, subject.item)?;
                    rows::missed(tx, subject.item, at)?;
                }
                Verdict::Unsure | Verdict::NotAsked
                    if subject.is_given_up(since)
                        || subject.server.as_ref().is_none_or(|server| !named.contains(server)) =>
                {
                    super::rescue(tx, subject.item)?;
                }
                Verdict::Unsure | Verdict::NotAsked => {
                    rows::asked(tx, subject.item, at)?;
                    rows::postpone(tx, subject.item, now().saturating_add(POSTPONED_MS))?;
                }
            }
            Ok(())
        })?;
        run.redirected.items += gone.0;
        run.redirected.bytes += gone.1;
        Ok(())
    }

    /// These are not here: whether they are still there. Gives how many are lost.
    fn confirm(&self, items: &[u32], run: &mut RetentionRun) -> Result<u64, Error> {
        let at = now();
        let since = self.given_up(at);
        // After a day it is looked again, and not before others have had their turn.
        let again = days(self.farm.config.retention.elsewhere.check_days.saturating_sub(1));
        let lost = self.each(items, run, move |tx, subject, verdict, lost: &mut Vec<i64>| {
            match verdict {
                Verdict::Has(found) => rows::confirm(tx, subject.item, &found, at)?,
                Verdict::HasNot => lost.push(subject.item),
                _ if subject.is_given_up(since) => lost.push(subject.item),
                Verdict::Untrusted => rows::asked(tx, subject.item, at)?,
                Verdict::Unsure | Verdict::NotAsked => {
                    rows::asked(tx, subject.item, at.saturating_sub(again))?;
                }
            }
            Ok(())
        })?;
        let mut count = 0;
        for item in lost {
            // What refers to it may be much: that goes before, in short jobs.
            self.farm.take_back_in_batches(item)?;
            let was_lost = self.farm.database.write_alone_blocking::<_, Error>(move |tx| {
                let was_lost = rows::lose(tx, item)?;
                if !was_lost {
                    // It is here again meanwhile, and was withdrawn for nothing.
                    publish::later(tx, item)?;
                }
                Ok(was_lost)
            })?;
            count += u64::from(was_lost);
        }
        Ok(count)
    }

    /// Asks for these, and does something about each in one transaction; gives what that comes to.
    fn each<R: Default + Send + 'static>(
        &self,
        items: &[u32],
        run: &mut RetentionRun,
        what: impl Fn(&mut Tx<'_>, &Subject, Verdict, &mut R) -> Result<(), Error> + Send + 'static,
    ) -> Result<R, Error> {
        let farm = self.farm;
        if *farm.stopping().borrow() || farm.sweeps.is_over() {
            return Err(Error::Stopping);
        }
        let subjects = farm.database.read_blocking::<_, Error>(|sql| {
            let found = items.iter().map(|item| rows::subject(sql, i64::from(*item)));
            Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })?;
        let answered = self.ask_all(subjects);
        if *farm.stopping().borrow() || farm.sweeps.is_over() {
            return Err(Error::Stopping);
        }
        if !self.failures.is_empty() {
            run.asked += answered.len() as u64;
        }
        farm.database.write_alone_blocking(move |tx| {
            let mut result = R::default();
            for (subject, verdict) in answered {
                what(tx, &subject, verdict, &mut result)?;
            }
            Ok(result)
        })
    }

    /// Asks for all of these on a few threads. Those that come after the coordinator was stopped are left out.
    fn ask_all(&self, subjects: Vec<Subject>) -> Vec<(Subject, Verdict)> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<Option<Verdict>>> = Mutex::new(subjects.iter().map(|_| None).collect());
        let stopping = self.farm.stopping();
        let work = || {
            while !*stopping.borrow() {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(subject) = subjects.get(place) else { return };
                let verdict = self.ask(subject);
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answers.get_mut(place) {
                    *answer = Some(verdict);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..AT_ONCE.min(subjects.len()) {
                // Fewer will do.
                let _ = thread::Builder::new().name("elsewhere".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let answered = subjects.into_iter().zip(answers);
        answered.filter_map(|(subject, verdict)| Some((subject, verdict?))).collect()
    }

    /// Asks the servers for one item, first the one that was found to have it.
    fn ask(&self, subject: &Subject) -> Verdict {
        let elsewhere = &self.farm.elsewhere;
        let known = subject.server.as_deref();
        let mut servers: Vec<_> = elsewhere.servers().iter().zip(&self.failures).collect();
        servers.sort_by_key(|(server, _)| Some(server.as_str()) != known);
        // One that is not named any more is not asked, and may well have it.
        let is_named = known.is_none_or(|known| elsewhere.servers().iter().any(|server| server == known));
        let (mut unsure, mut untrusted, mut left_out) = (!is_named, false, false);
        for (server, failures) in servers {
            // One that is down would take its whole time for each of many.
            if failures.load(Ordering::Relaxed) >= FAILURES {
                left_out = true;
                continue;
            }
            let path = &subject.ours.store_path;
            match elsewhere.ask(server, &subject.ours, subject.file.as_ref()) {
                Ok(answer) => {
                    failures.store(0, Ordering::Relaxed);
                    match answer {
                        Answer::Has(found) => return Verdict::Has(found),
                        Answer::HasNot(why) => {
                            tracing::debug!(server, %path, why, "a server cannot have it in our stead");
                        }
                        Answer::Untrusted(why) => {
                            untrusted = true;
                            tracing::warn!(server, %path, why, "what a server says is not believed");
                        }
                    }
                }
                Err(error) => {
                    unsure = true;
                    let left_out = failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES;
                    tracing::warn!(%error, left_out, "asking for what need not be here failed");
                }
            }
        }
        match (unsure, left_out, untrusted) {
            (true, ..) => Verdict::Unsure,
            (false, true, _) => Verdict::NotAsked,
            (false, false, true) => Verdict::Untrusted,
            (false, false, false) => Verdict::HasNot,
        }
    }
}
