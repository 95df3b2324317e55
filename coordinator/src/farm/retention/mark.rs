//! What is kept at one moment, and why: all that can be reached from where somebody may still come for it.

use rusqlite::Connection;

use super::super::error::Error;
use super::super::{open_states, sql};
use super::days;
use super::reason::Reason;
use super::revisions::{self, Kept};
use super::walk::{Bits, Reached, Walk, each, paths};
use crate::config::RetentionConfig;
use crate::database::makers;

/// What was found.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) reached: Reached,
    /// Fixed outputs that are held and that something that is kept needs, perhaps at the bottom of its graph.
    pub(super) needed: Vec<u32>,
}

/// Outputs and inputs of open builds, of builds that agents still hold, and what such a build waits for beside them.
const OPEN_BUILDS: [&str; 5] = [
    concat!(
        "SELECT o.path FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation WHERE b.state IN ",
        open_states!()
    ),
    concat!(
        "SELECT i.output FROM builds b JOIN derivation_inputs i ON i.derivation = b.derivation WHERE b.state IN ",
        open_states!()
    ),
    "SELECT o.path FROM attempts a JOIN builds b ON b.id = a.build \
     JOIN derivation_outputs o ON o.derivation = b.derivation WHERE a.ended_at IS NULL",
    "SELECT i.output FROM attempts a JOIN builds b ON b.id = a.build \
     JOIN derivation_inputs i ON i.derivation = b.derivation WHERE a.ended_at IS NULL",
    "SELECT path FROM awaited UNION ALL SELECT path FROM uploads",
];

/// Looks at everything. Only reads; takes its time.
pub(super) fn mark(
    sql_: &Connection,
    config: &RetentionConfig,
    at: u64,
    explains: bool,
) -> Result<Mark, Error> {
    let mut walk = Walk::new(sql_, explains)?;
    if !config.removes() {
        for all in ["SELECT path FROM items", "SELECT path FROM redirects"] {
            walk.start_with(all, Reason::NoRules)?;
        }
        walk.run(Reason::NoRules)?;
        return Ok(Mark { reached: walk.end(), needed: Vec::new() });
    }
    let mut wanted = Bits::new(paths(sql_)?);
    let sets = revisions::kept(sql_, config, at)?;
    for question in OPEN_BUILDS {
        walk.start_with(question, Reason::Builds)?;
    }
    walk.run(Reason::Builds)?;
    walk.start_with(&asked(at.saturating_sub(days(config.others.days))), Reason::Asked)?;
    walk.run(Reason::Asked)?;
    // What keeps things whoever else has them goes first: what is found later is kept by nothing else.
    let mut weak = Vec::new();
    // Derivations whose inputs were begun from: for all sets, since one reason is enough.
    let mut seen = Bits::new(paths(sql_)?);
    for kept in &sets {
        let roots = outputs(sql_, kept, &mut wanted)?;
        if kept.reason.is_weak(config) {
            weak.push((kept, roots));
        } else {
            roots.start(sql_, &mut walk, kept, &mut seen)?;
        }
    }
    let needed = needed(sql_, &wanted)?;
    let rules = Rules { config, at, needed: &needed };
    rules.others_and_sources(&mut walk, false)?;
    walk.start_with("SELECT path FROM items WHERE kind = 'source'", Reason::Source)?;
    walk.run(Reason::Source)?;
    for (kept, roots) in weak {
        roots.start(sql_, &mut walk, kept, &mut seen)?;
    }
    rules.others_and_sources(&mut walk, true)?;
    Ok(Mark { reached: walk.end(), needed })
}

/// The rules for what no set wants, and for fixed outputs.
struct Rules<'a> {
    config: &'a RetentionConfig,
    at: u64,
    needed: &'a [u32],
}

impl Rules<'_> {
    /// Begins from what these keep, if they are weak or if they are not.
    fn others_and_sources(&self, walk: &mut Walk<'_>, weak: bool) -> Result<(), Error> {
        let since = |days_: u64| sql(self.at.saturating_sub(days(days_))).to_string();
        if Reason::Others.is_weak(self.config) == weak {
            for young in YOUNG {
                walk.start_with(&young.replace("{}", &since(self.config.others.days)), Reason::Others)?;
            }
            walk.run(Reason::Others)?;
        }
        if Reason::Sources.is_weak(self.config) == weak {
            for path in self.needed {
                walk.start(*path, Reason::Sources, None);
            }
            for lately in LATELY {
                walk.start_with(&lately.replace("{}", &since(self.config.sources.days)), Reason::Sources)?;
            }
            walk.run(Reason::Sources)?;
        }
        Ok(())
    }
}

/// Outputs that came since then and are not fixed: here, and such as another server has by now.
const YOUNG: [&str; 2] = [
    "SELECT i.path FROM items i WHERE i.added_at > {} AND i.kind = 'output' \
     AND NOT EXISTS (SELECT 1 FROM fixed_outputs f WHERE f.path = i.path)",
    "SELECT r.path FROM redirects r WHERE r.added_at > {} \
     AND NOT EXISTS (SELECT 1 FROM fixed_outputs f WHERE f.path = r.path)",
];
/// Fixed outputs that came or were needed since then.
const LATELY: [&str; 2] = [
    "SELECT f.path FROM fixed_outputs f JOIN items i ON i.path = f.path \
     LEFT JOIN needed n ON n.path = f.path WHERE max(i.added_at, coalesce(n.at, 0)) > {}",
    "SELECT r.path FROM redirects r CROSS JOIN fixed_outputs f ON f.path = r.path \
     LEFT JOIN needed n ON n.path = r.path WHERE max(r.added_at, coalesce(n.at, 0)) > {}",
];
/// Those that are held, or were.
const FIXED: [&str; 2] = [
    "SELECT f.path FROM fixed_outputs f JOIN items i ON i.path = f.path",
    "SELECT r.path FROM redirects r CROSS JOIN fixed_outputs f ON f.path = r.path",
];

/// The outputs of builds that clients asked for since then.
fn asked(since: u64) -> String {
    format!(
        "SELECT o.path FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
         WHERE b.asked_at > {}",
        sql(since)
    )
}

/// Where to begin for the sake of a set.
struct Roots {
    outputs: Vec<u32>,
    /// Their derivations, if what was needed to build them is kept, too.
    derivations: Vec<u32>,
}

impl Roots {
    fn start(
        self,
        sql_: &Connection,
        walk: &mut Walk<'_>,
        kept: &Kept,
        seen: &mut Bits,
    ) -> Result<(), Error> {
        for output in self.outputs {
            walk.start(output, kept.reason, None);
        }
        needed_to_build(sql_, walk, kept.reason, self.derivations, seen)?;
        walk.run(kept.reason)
    }
}

/// The outputs that the kept revisions of a set want. Their derivations are noted.
fn outputs(sql_: &Connection, kept: &Kept, wanted: &mut Bits) -> Result<Roots, Error> {
    let mut roots = Roots { outputs: Vec::new(), derivations: Vec::new() };
    let mut select = sql_.prepare_cached(
        "SELECT r.first, r.last, r.derivation, o.path FROM set_rows r \
         JOIN derivation_outputs o ON o.derivation = r.derivation WHERE r.in_set = ?1",
    )?;
    let mut rows = select.query([kept.set])?;
    while let Some(row) = rows.next()? {
        if kept.with(row.get(0)?, row.get(1)?).is_none() {
            continue;
        }
        let (Ok(derivation), Ok(output)) = (row.get(2), row.get(3)) else { continue };
        roots.outputs.push(output);
        wanted.put(derivation);
        if kept.build_inputs && roots.derivations.last() != Some(&derivation) {
            roots.derivations.push(derivation);
        }
    }
    Ok(roots)
}

/// Whatever was needed to build these, and to build that, all the way down to what was seen.
fn needed_to_build(
    sql_: &Connection,
    walk: &mut Walk<'_>,
    reason: Reason,
    own: Vec<u32>,
    seen: &mut Bits,
) -> Result<(), Error> {
    let mut level = own;
    level.retain(|derivation| seen.put(*derivation));
    let mut select =
        sql_.prepare_cached("SELECT output, maker FROM derivation_inputs WHERE derivation = ?1")?;
    while !level.is_empty() {
        level.sort_unstable();
        for derivation in std::mem::take(&mut level) {
            let mut rows = select.query([derivation])?;
            while let Some(row) = rows.next()? {
                let (Ok(output), Ok(maker)) = (row.get(0), row.get(1)) else { continue };
                walk.start(output, reason, Some(maker));
                if seen.put(maker) {
                    walk.reached(maker, derivation);
                    level.push(maker);
                }
            }
        }
    }
    Ok(())
}

/// The fixed outputs at the bottom of these derivations, and of those of open builds.
fn needed(sql_: &Connection, wanted: &Bits) -> Result<Vec<u32>, Error> {
    const OPEN: &str = concat!("SELECT derivation FROM builds WHERE state IN ", open_states!());
    let mut seen = wanted.clone();
    each(sql_, OPEN, |derivation| {
        seen.put(derivation);
    })?;
    let mut level: Vec<u32> = seen.all().collect();
    let mut select = sql_.prepare_cached("SELECT makers FROM derivations WHERE id = ?1")?;
    while !level.is_empty() {
        level.sort_unstable();
        for derivation in std::mem::take(&mut level) {
            let mut rows = select.query([derivation])?;
            if let Some(row) = rows.next()? {
                let column = row.get_ref(0)?.as_blob().unwrap_or_default();
                let inputs = makers::decode(column).filter_map(|input| u32::try_from(input).ok());
                level.extend(inputs.filter(|input| seen.put(*input)));
            }
        }
    }
    let mut select = sql_.prepare_cached("SELECT derivation FROM derivation_outputs WHERE path = ?1")?;
    let mut needed = Vec::new();
    let mut fixed = Vec::new();
    for question in FIXED {
        each(sql_, question, |path| fixed.push(path))?;
    }
    for path in fixed {
        let mut rows = select.query([path])?;
        while let Some(row) = rows.next()? {
            if row.get(0).is_ok_and(|derivation| seen.has(derivation)) {
                needed.push(path);
                break;
            }
        }
    }
    Ok(needed)
}
