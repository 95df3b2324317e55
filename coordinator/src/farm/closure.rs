//! What a build needs in an agent's store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::LeaseId;
use drover_wire::agent::{Closure, InputItem, Text};
use rusqlite::{Connection, OptionalExtension};

use super::change::AgentRow;
use super::error::Error;
use super::{Farm, import, outputs, paths};

/// Those of the outputs that a derivation takes.
const INPUTS: &str = "SELECT DISTINCT output FROM derivation_inputs WHERE derivation = ?1 ORDER BY output";
const MAKERS: &str = "SELECT DISTINCT maker FROM derivation_inputs WHERE derivation = ?1 ORDER BY maker";
const SOURCES: &str = "SELECT path FROM derivation_sources WHERE derivation = ?1 ORDER BY path";
const REFERENCES: &str = "SELECT reference FROM item_references WHERE item = ?1 ORDER BY reference";

impl Farm {
    /// Everything that the build of a lease needs.
    ///
    /// # Errors
    /// When the agent does not hold the lease.
    pub async fn closure(self: &Arc<Self>, agent: &AgentRow, lease: LeaseId) -> Result<Closure, Error> {
        let held = self.live.lease(agent.id, lease).ok_or(Error::LeaseNotHeld(lease))?;
        let farm = Arc::clone(self);
        self.read_inputs(&held.allocation.derivation).await?;
        self.database
            .read(move |sql| {
                let root = &held.allocation.derivation;
                let id = paths::find(sql, root)?.ok_or_else(|| Error::UnknownDerivation(root.clone()))?;
                Ok(Closure { texts: texts(sql, id)?, inputs: inputs(sql, &farm, id)? })
            })
            .await
    }

    /// Reads those of the inputs of a derivation that an import uses where they lie and nobody has read yet: what agents
    /// import is signed over its contents.
    async fn read_inputs(self: &Arc<Self>, derivation: &StorePath) -> Result<(), Error> {
        let root = derivation.clone();
        let unread = self.database.read::<_, Error>(move |sql| {
            let Some(id) = paths::find(sql, &root)? else { return Ok(Vec::new()) };
            let all = below(paths::numbers(sql, INPUTS, id)?, |id| paths::numbers(sql, REFERENCES, id))?;
            import::unread_among(sql, &all)
        });
        let unread = unread.await?;
        if unread.is_empty() { Ok(()) } else { self.read_soon(unread).await }
    }
}

/// All that can be reached from `roots`, what is referred to before what refers to it.
fn below(
    roots: Vec<i64>,
    mut references: impl FnMut(i64) -> Result<Vec<i64>, Error>,
) -> Result<Vec<i64>, Error> {
    let mut seen = HashSet::new();
    let mut sorted = Vec::new();
    // A node goes on the stack twice: to be opened, and to be listed when all below it is.
    let mut stack: Vec<(i64, bool)> = roots.into_iter().rev().map(|id| (id, false)).collect();
    while let Some((id, opened)) = stack.pop() {
        if opened {
            sorted.push(id);
        } else if seen.insert(id) {
            stack.push((id, true));
            let more = references(id)?.into_iter().rev().filter(|id| !seen.contains(id));
            stack.extend(more.map(|id| (id, false)));
        }
    }
    Ok(sorted)
}

/// A derivation with all below it, and their sources.
fn texts(sql: &Connection, root: i64) -> Result<Vec<Text>, Error> {
    let mut of_derivations = HashMap::new();
    let derivations = below(vec![root], |id| {
        of_derivations.insert(id, paths::numbers(sql, SOURCES, id)?);
        paths::numbers(sql, MAKERS, id)
    })?;
    let mut texts = Vec::new();
    let mut given = HashSet::new();
    for derivation in derivations {
        let own = of_derivations.remove(&derivation).unwrap_or_default();
        let own = own.into_iter().filter(|id| !given.contains(id)).collect();
        // A text among the sources may refer to others, which come first.
        for source in below(own, |id| paths::numbers(sql, REFERENCES, id))? {
            if given.insert(source) {
                texts.push(source_text(sql, source)?);
            }
        }
        texts.push(Text::Derivation { path: paths::path(sql, derivation)? });
    }
    Ok(texts)
}

fn source_text(sql: &Connection, id: i64) -> Result<Text, Error> {
    let path = paths::path(sql, id)?;
    let method: Option<String> = sql
        .prepare_cached("SELECT method FROM items WHERE path = ?1 AND kind = 'source'")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    match method.as_deref() {
        Some("text") => Ok(Text::Text { references: references(sql, id)?, path }),
        Some("recursive") => Ok(Text::File { path, recursive: true }),
        Some("flat") => Ok(Text::File { path, recursive: false }),
        Some(other) => {
            Err(Error::Damaged(format!("the source {path} is said to get into a store as “{other}”")))
        }
        None => Err(Error::Damaged(format!(
            "the source {path} is not here, and a build that needs it was given out"
        ))),
    }
}

fn references(sql: &Connection, id: i64) -> Result<Vec<StorePath>, Error> {
    const SORTED: &str = "SELECT p.base FROM item_references r JOIN paths p ON p.id = r.reference \
         WHERE r.item = ?1 ORDER BY p.base";
    paths::bases(sql, SORTED, id)
}

/// The outputs that a derivation takes, and what they refer to as far as that is known.
fn inputs(sql: &Connection, farm: &Farm, derivation: i64) -> Result<Vec<InputItem>, Error> {
    let direct = paths::numbers(sql, INPUTS, derivation)?;
    let all = below(direct, |id| paths::numbers(sql, REFERENCES, id))?;
    let key = farm.keys.signing();
    let mut inputs = Vec::with_capacity(all.len());
    for id in all {
        let path = paths::path(sql, id)?;
        inputs.push(InputItem { path, held: outputs::item_info(sql, Some(&key), id)? });
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_referred_to_comes_first_even_in_a_circle_of_one() {
        let graph = HashMap::from([(1, vec![1, 2, 3]), (2, vec![3]), (3, vec![]), (4, vec![2, 1])]);
        let sorted = below(vec![1, 4], |id| Ok(graph[&id].clone())).unwrap();
        assert_eq!(sorted, [3, 2, 1, 4]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let sorted = below(vec![0], |id| Ok(if id < 200_000 { vec![id + 1] } else { vec![] })).unwrap();
        assert_eq!((sorted.len(), sorted[0]), (200_001, 200_000));
    }
}
