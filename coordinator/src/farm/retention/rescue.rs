//! What is needed again while it is being removed stays: said in the transaction in which it comes to be needed.
//!
//! What is to be removed was found not to be needed at one moment; from the moment that it has its row in `removals`
//! on, whatever makes it needed has to call this.

use super::super::error::Error;
use super::super::events::{Kind, Subject};
use super::super::{Tx, hooks, paths};
use super::elsewhere;

/// An item is needed: it is not removed, nor is anything that it refers to.
pub(in crate::farm) fn rescue(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    const REFERENCES: &str = "SELECT r.reference FROM item_references r JOIN removals m ON m.path = r.reference \
                              WHERE r.item = ?1";
    let mut open = vec![item];
    while let Some(item) = open.pop() {
        let removed = tx.prepare_cached("DELETE FROM removals WHERE path = ?1")?.execute([item])?;
        // What stays has all that it refers to staying, too, or leaving for a server that has it: that can be had there.
        if removed == 0 {
            continue;
        }
        open.extend(paths::numbers(tx, REFERENCES, item)?);
        elsewhere::keep(tx, item)?;
        let published =
            tx.prepare_cached("UPDATE published SET until = NULL WHERE path = ?1")?.execute([item])?;
        if published == 0 {
            hooks::enqueue(tx, "publish", Kind::BuildSuccess, Subject::Item(item), None)?;
        }
    }
    Ok(())
}

/// Whatever an item refers to is needed.
pub(in crate::farm) fn rescue_references(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    let some =
        "SELECT r.reference FROM item_references r JOIN removals m ON m.path = r.reference WHERE r.item = ?1";
    rescue_all(tx, some, item)
}

/// The outputs of a derivation are wanted.
pub(in crate::farm) fn rescue_outputs(tx: &mut Tx<'_>, derivation: i64) -> Result<(), Error> {
    let some =
        "SELECT o.path FROM derivation_outputs o JOIN removals m ON m.path = o.path WHERE o.derivation = ?1";
    rescue_all(tx, some, derivation)
}

/// There is a new build of a derivation: its inputs are needed, and those of its outputs that are here.
pub(in crate::farm) fn rescue_for_build(tx: &mut Tx<'_>, derivation: i64) -> Result<(), Error> {
    // Most of the time nothing is being removed.
    if !tx.prepare_cached("SELECT 1 FROM removals LIMIT 1")?.exists([])? {
        return Ok(());
    }
    let inputs = "SELECT i.output FROM derivation_inputs i CROSS JOIN removals m ON m.path = i.output WHERE i.derivation = ?1";
    rescue_all(tx, inputs, derivation)?;
    rescue_outputs(tx, derivation)
}

/// What was known of an item that was here before, and is about to be another one.
pub(in crate::farm) fn forget(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM item_references WHERE item = ?1")?.execute([item])?;
    if tx.prepare_cached("DELETE FROM removals WHERE path = ?1")?.execute([item])? == 1 {
        tx.prepare_cached("UPDATE published SET until = NULL WHERE path = ?1")?.execute([item])?;
    }
    elsewhere::came_back(tx, item)
}

fn rescue_all(tx: &mut Tx<'_>, some: &str, of: i64) -> Result<(), Error> {
    for item in paths::numbers(tx, some, of)? {
        rescue(tx, item)?;
    }
    Ok(())
}
