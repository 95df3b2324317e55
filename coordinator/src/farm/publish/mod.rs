//! What the public may have. A narinfo is signed once, when everything that its item refers to can be had, and served
//! from then on as it is.
//!
//! [`forbid`] says what is never published, [`hold`] keeps what has to wait for something, [`elsewhere`] asks substitute
//! servers for that, [`draft`] makes and signs the texts outside of the database's thread, and [`resign`] signs them anew.

mod backlog;
mod draft;
mod elsewhere;
mod forbid;
mod hold;
mod resign;
mod shown_there;
mod take_back;
mod tasks;
mod view;

use std::collections::{HashMap, HashSet};

use drover_store::StorePath;
use rusqlite::Connection;

use super::error::Error;
use super::events::{self, Kind, Subject};
use super::provided::is_elsewhere;
use super::{Farm, Tx, now, paths, retention, sql};
#[cfg(test)]
pub(super) use backlog::Given;
use draft::{Draft, packed};
pub(super) use draft::{served, text};
pub(super) use forbid::{reconsider, reconsider_forgotten, reconsider_set};
pub(super) use hold::run_later as later;
pub(super) use shown_there::{info, show_elsewhere, show_own};
pub(super) use take_back::take_back;
pub(super) use tasks::start;
pub(super) use view::view;

/// The most items that one transaction publishes.
const AT_ONCE: usize = 100;
/// How often it is tried to publish an item of which something changes all the time.
const TRIES: usize = 10_000;

/// What came of publishing an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// The public can have it from now on.
    Published,
    /// The public can have it already.
    Already,
    /// It waits until these can be had, too.
    Withheld(Vec<StorePath>),
    /// It is never published, and why.
    Never(String),
    /// It is not here, or about to go.
    NotHeld,
}

/// What one transaction came to.
enum Attempt {
    Done(Publication),
    /// Something was done, and more is to be.
    Again,
    /// These have to be signed first.
    Sign(Vec<i64>),
}

impl Farm {
    /// Publishes an item if everything that it refers to can be had, and with it the sources among that. What waited
    /// for it is published by the hook soon after. Blocks.
    ///
    /// # Errors
    /// When the database fails, or what it has contradicts itself.
    pub fn publish_item(&self, item: i64) -> Result<Publication, Error> {
        self.ask_for_references(item)?;
        let mut drafts = HashMap::new();
        let mut published = false;
        for _ in 0..TRIES {
            let given = std::mem::take(&mut drafts);
            let (attempt, given) = self.database.write_blocking::<_, Error>(move |tx| {
                let attempt = attempt(tx, item, &given)?;
                Ok((attempt, given))
            })?;
            drafts = given;
            match attempt {
                Attempt::Done(Publication::Already) if published => return Ok(Publication::Published),
                Attempt::Done(done) => return Ok(done),
                // What was published in this call, and in it alone, is signed here.
                Attempt::Again => published |= drafts.contains_key(&item),
                Attempt::Sign(items) => {
                    for item in items {
                        let draft = self.draft(item)?;
                        if let Some(draft) = draft {
                            drafts.insert(item, draft);
                        }
                    }
                }
            }
        }
        Err(Error::Conflict(format!(
            "the store item with number {item} changes all the time; try again later"
        )))
    }

    fn draft(&self, item: i64) -> Result<Option<Draft>, Error> {
        let (key, secret) = self.keys.signer();
        let unsigned = self.database.read_blocking(|sql| draft::unsigned(sql, item))?;
        Ok(unsigned.map(|unsigned| unsigned.sign(key, &secret)))
    }
}

/// Publishes an item with the narinfo that somebody else signed. What else it takes to be published is the same; if it
/// has to wait, it will be published with our own signature.
///
/// # Errors
/// When the narinfo is none, or not signed.
pub(super) fn adopt(tx: &mut Tx<'_>, item: i64, narinfo: &str) -> Result<Publication, Error> {
    let draft = Draft::foreign(tx, item, narinfo)?;
    let drafts = HashMap::from([(item, draft)]);
    match attempt(tx, item, &drafts)? {
        Attempt::Done(done) => Ok(done),
        Attempt::Again => Ok(Publication::Published),
        // Its sources have to be signed by us first, which is not done here.
        Attempt::Sign(sources) => {
            hold::withhold(tx, item, &sources)?;
            for source in &sources {
                hold::run_later(tx, *source)?;
            }
            Ok(Publication::Withheld(named(tx, &sources)?))
        }
    }
}

/// The public cannot have an item any more. Whoever calls this has seen to what refers to it.
pub(super) fn withdraw(tx: &Tx<'_>, item: i64) -> Result<bool, Error> {
    shown_there::remember(tx, item)?;
    Ok(tx.prepare_cached("DELETE FROM published WHERE path = ?1")?.execute([item])? == 1)
}

/// What waits for an item that the public has all the time is to be published: it was about to be withdrawn, and is not.
pub(super) fn let_go_on(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    let waited_for =
        "SELECT 1 FROM withheld w JOIN published p ON p.path = w.reference WHERE w.reference = ?1";
    if tx.prepare_cached(waited_for)?.exists([item])? {
        hold::run_later(tx, item)?;
    }
    Ok(())
}

/// Whether the public can have an item from here.
pub(super) fn is_published(sql: &Connection, item: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM published WHERE path = ?1")?.exists([item])?)
}

fn attempt(tx: &mut Tx<'_>, item: i64, drafts: &HashMap<i64, Draft>) -> Result<Attempt, Error> {
    if is_published(tx, item)? {
        let more = hold::release(tx, item)?;
        return Ok(if more { Attempt::Again } else { Attempt::Done(Publication::Already) });
    }
    // What is needed again is not being removed any more.
    let removed = tx.prepare_cached("SELECT 1 FROM removals WHERE path = ?1")?.exists([item])?;
    // What another server has is published as it was before.
    let is_away = retention::is_away(tx, item)?;
    let is_here = is_away || tx.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([item])?;
    if removed || !is_here {
        hold::forget(tx, item)?;
        return Ok(Attempt::Done(Publication::NotHeld));
    }
    let draft = drafts.get(&item);
    if draft.is_none() && !is_away {
        return Ok(Attempt::Sign(vec![item]));
    }
    if let Some(why) = forbid::why(tx, item, draft)? {
        forbid::note(tx, item, &why)?;
        return Ok(Attempt::Done(Publication::Never(why)));
    }
    retention::rescue_references(tx, item)?;
    let Needs { mut with, missing } = Needs::of(tx, item, drafts)?;
    if !missing.is_empty() {
        hold::withhold(tx, item, &missing)?;
        hold::try_awaited(tx, item)?;
        return Ok(Attempt::Done(Publication::Withheld(named(tx, &missing)?)));
    }
    let whole = with.len() <= AT_ONCE;
    with.truncate(AT_ONCE);
    let is_signed =
        |one: &i64| is_away && *one == item || drafts.get(one).is_some_and(|draft| draft.fits(tx));
    let unsigned: Vec<i64> = with.iter().copied().filter(|one| !is_signed(one)).collect();
    if !unsigned.is_empty() {
        return Ok(Attempt::Sign(unsigned));
    }
    let mut more = !whole;
    for one in with {
        if is_away && one == item {
            if !shown_there::recall(tx, item)? {
                return Ok(Attempt::Done(Publication::NotHeld));
            }
            more |= has_come(tx, item)?;
        } else if let Some(draft) = drafts.get(&one) {
            more |= put(tx, one, draft)? && one == item;
        }
    }
    Ok(if more { Attempt::Again } else { Attempt::Done(Publication::Published) })
}

/// What stands between an item and the public.
struct Needs {
    /// What is published with it, each after what it refers to; the last is the item itself.
    with: Vec<i64>,
    /// What it waits for.
    missing: Vec<i64>,
}

impl Needs {
    fn of(tx: &Tx<'_>, item: i64, drafts: &HashMap<i64, Draft>) -> Result<Self, Error> {
        let mut needs = Self { with: Vec::new(), missing: Vec::new() };
        let mut seen = HashSet::from([item]);
        // One goes on the stack twice: to be opened, and to be listed when all that it refers to is.
        let mut stack = vec![(item, false)];
        while let Some((one, opened)) = stack.pop() {
            if opened {
                needs.with.push(one);
                continue;
            }
            stack.push((one, true));
            for reference in references(tx, one)? {
                if !seen.insert(reference) || is_published(tx, reference)? || is_elsewhere(tx, reference)? {
                    continue;
                }
                if !is_source(tx, reference)? {
                    needs.missing.push(reference);
                } else if let Some(why) = forbid::why(tx, reference, drafts.get(&reference))? {
                    forbid::note(tx, reference, &why)?;
                    needs.missing.push(reference);
                } else {
                    stack.push((reference, false));
                }
            }
        }
        Ok(needs)
    }
}

fn references(sql: &Connection, item: i64) -> Result<Vec<i64>, Error> {
    paths::numbers(sql, "SELECT reference FROM item_references WHERE item = ?1", item)
}

fn is_source(sql: &Connection, item: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1 AND kind = 'source'")?.exists([item])?)
}

/// Puts it before the public, and lets what waited for it go on; true: more of that is to be let go on.
fn put(tx: &mut Tx<'_>, item: i64, draft: &Draft) -> Result<bool, Error> {
    let narinfo = packed(&draft.print(tx, item)?);
    tx.prepare_cached("INSERT INTO published (path, narinfo, key, published_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((item, narinfo, draft.key, sql(now())))?;
    has_come(tx, item)
}

/// Lets go on what waited for something that the public can have now; true: more is to be let go on.
fn has_come(tx: &mut Tx<'_>, item: i64) -> Result<bool, Error> {
    hold::forget(tx, item)?;
    forbid::forget(tx, item)?;
    events::note(tx, Kind::Published, Subject::Item(item), None)?;
    let more = hold::release(tx, item)?;
    if more {
        hold::run_later(tx, item)?;
    }
    Ok(more)
}

fn named(sql: &Connection, items: &[i64]) -> Result<Vec<StorePath>, Error> {
    let mut named = items.iter().map(|item| paths::path(sql, *item)).collect::<Result<Vec<_>, _>>()?;
    named.sort_unstable();
    Ok(named)
}

#[cfg(test)]
mod tests;
