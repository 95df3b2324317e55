//! What is published is signed anew when another key signs: many narinfos, a few at a time.

use std::sync::Arc;

use drover_store::Sha256Hash;
use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Signed};

use super::draft::host;
use super::{backlog, hold, packed, text, withdraw};
use crate::farm::error::Error;
use crate::farm::events::{Kind, Subject};
use crate::farm::hooks::Past;
use crate::farm::{Farm, Tx, hooks, keys};

/// How many narinfos one transaction replaces.
const AT_ONCE: i64 = 200;

/// A narinfo as it is, and as it will be; none: it cannot be read.
struct Renewed {
    item: i64,
    before: Vec<u8>,
    after: Option<Vec<u8>>,
}

impl Farm {
    /// Signs some of what is published anew, if a key signed it that does not sign any more. True: there is more. What was
    /// done stays done, whenever it is interrupted. Blocks.
    pub(in crate::farm) fn sign_anew(&self) -> Result<bool, Error> {
        self.show_signing_key()?;
        let Some(old) = self.database.read_blocking(keys::used_up)?.first().copied() else {
            return Ok(false);
        };
        let (new, secret) = self.keys.signer();
        let some = self.database.read_blocking::<_, Error>(|sql| {
            let mut select =
                sql.prepare_cached("SELECT path, narinfo FROM published WHERE key = ?1 LIMIT ?2")?;
            let rows = select.query_map([old, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<Vec<(i64, Vec<u8>)>>>()?)
        })?;
        let host = host();
        let renewed: Vec<Renewed> =
            some.into_iter().map(|(item, before)| renew(item, before, &host, &secret)).collect();
        let count = renewed.len();
        let pushed = self.hooks.with_past().filter(|(_, past, _)| *past == Past::Published);
        let pushed: Vec<String> = pushed.map(|(hook, ..)| hook.to_string()).collect();
        let unused = self.database.write_alone_blocking(move |tx| {
            let items: Vec<i64> = renewed.iter().map(|one| one.item).collect();
            renewed.into_iter().try_for_each(|one| replace(tx, one, old, new))?;
            let is_rotation = keys::is_in_use(tx, old)?;
            let unused = keys::note_unused(tx, old)?;
            // What clients have from elsewhere is to be signed by a key that is still ours, too: all of it at the end of
            // a rotation, and afterwards what came with an old signature.
            if is_rotation && unused {
                backlog::push_anew(tx, &pushed)?;
            } else if !is_rotation {
                for (hook, item) in pushed.iter().flat_map(|hook| items.iter().map(move |item| (hook, *item)))
                {
                    hooks::enqueue(tx, hook, Kind::Published, Subject::Item(item), None)?;
                }
            }
            Ok::<_, Error>(unused)
        })?;
        if unused {
            tracing::info!(key = old, "nothing that is published is signed by this key any more");
        } else {
            tracing::debug!(key = old, count, "signed anew");
        }
        Ok(true)
    }
}

fn renew(item: i64, before: Vec<u8>, host: &str, secret: &Arc<SecretKey>) -> Renewed {
    let after = text(before.clone()).ok().and_then(|text| {
        let mut info = NarInfo::parse(text.as_bytes()).ok()?;
        let Signed { text, .. } = info.signature.take()?;
        let signature = secret.sign(&Sha256Hash::of(text.as_bytes()));
        info.signature = Some(Signed { text, host: host.to_owned(), signature });
        Some(packed(&info.print()))
    });
    Renewed { item, before, after }
}

/// Unless it was changed meanwhile: then it is looked at again.
fn replace(tx: &mut Tx<'_>, one: Renewed, old: i64, new: i64) -> Result<(), Error> {
    let Renewed { item, before, after } = one;
    match after {
        Some(after) => {
            tx.prepare_cached(
                "UPDATE published SET narinfo = ?3, key = ?5 WHERE path = ?1 AND narinfo = ?2 AND key = ?4",
            )?
            .execute((item, before, after, old, new))?;
        }
        None => {
            tracing::error!(item, "a published narinfo cannot be read; it is made anew");
            withdraw(tx, item)?;
            hold::run_later(tx, item)?;
        }
    }
    Ok(())
}
