//! What goes by its age, and what does not.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use drover_wire::client::{LogQuery, MissingQuestion};

use super::super::intake::NewDerivation;
use super::super::keeper::{Keeper, New};
use super::super::now;
use super::super::press::Press;
use super::*;
use crate::config::{Ages, LocationConfig};

const DAY: u64 = 24 * 60 * 60 * 1000;
const YEARS: u64 = 1_000 * DAY;

impl World {
    /// Years pass, and more: what was found to be idle goes, too. Then everybody uploads again.
    pub(super) fn age(&mut self) {
        for years in 1..4 {
            self.farm().age_at(now() + years * YEARS).unwrap();
            invariants::check(self.farm(), "ageing");
        }
        let (builds, leases) = self.read(|sql| {
            let mut builds = sql.prepare("SELECT uuid FROM builds")?;
            let builds = builds.query_map([], |row| paths::build_id(row, 0))?;
            let mut leases = sql.prepare("SELECT lease FROM attempts")?;
            let leases = leases.query_map([], |row| Ok(LeaseId(super::super::unsql(row.get(0)?))))?;
            Ok((
                builds.collect::<rusqlite::Result<HashSet<_>>>()?,
                leases.collect::<rusqlite::Result<HashSet<_>>>()?,
            ))
        });
        self.builds.retain(|build| builds.contains(build));
        self.finals.retain(|build, _| builds.contains(build));
        self.ended.retain(|(held, _)| leases.contains(&held.lease));
        assert!(self.held.iter().all(|held| leases.contains(&held.lease)), "a lease went");
        self.upload_derivations();
    }

    fn read<T>(&self, job: impl FnOnce(&rusqlite::Connection) -> Result<T, Error>) -> T {
        self.farm().database.read_blocking(job).unwrap()
    }

    fn count(&self, table: &str) -> u64 {
        let select = format!("SELECT count(*) FROM {table}");
        self.read(|sql| Ok(super::super::unsql(sql.query_row(&select, [], |row| row.get(0))?)))
    }

    /// A build of a download that succeeds, and one of what needs it that fails, each with a log.
    fn two_ends(&mut self) -> [BuildId; 2] {
        for source in 0..self.sources.len() {
            self.take(&Step::Source(source));
        }
        for (node, how) in [(0, How::Succeeded), (8, How::Failed)] {
            self.submit(node, 0);
            self.give(0, 1);
            let held = self.held.last().unwrap().clone();
            let agent = &self.agents[held.agent];
            let log = Bytes::from_static(b"building\n");
            self.runtime.block_on(self.farm().append_log(agent, held.lease, 0, log)).unwrap();
            self.end(0, &how);
        }
        let unpacked = || self.count("attempts WHERE log_packed = 0");
        while unpacked() > 0 {
            thread::yield_now();
        }
        [self.builds[0], self.builds[1]]
    }

    fn has_log(&self, build: BuildId) -> Result<bool, Error> {
        let query = LogQuery::default();
        let place = self.runtime.block_on(self.farm().log(build, query))?;
        Ok(place.packed.exists())
    }
}

/// A day for most things.
fn short(config: &mut Config) {
    config.retention.others.days = 5;
    config.retention.ages = Ages {
        logs_days: 1,
        failed_logs_days: 3,
        history_days: 5,
        events_days: 1,
        derivations_days: 1,
        hook_runs_days: 1,
    };
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|entry| if entry.is_dir() { files_below(&entry) } else { 1 }).sum()
}

#[test]
fn a_log_goes_by_the_age_of_its_try_and_that_is_said() {
    let mut world = World::with(short);
    let [good, bad] = world.two_ends();
    assert_eq!(world.farm().age_at(now()).unwrap().logs, 0);
    assert!(world.has_log(good).unwrap() && world.has_log(bad).unwrap());
    assert_eq!(world.farm().age_at(now() + 2 * DAY).unwrap().logs, 1);
    let error = world.has_log(good).unwrap_err().to_string();
    assert!(error.contains("removed by its age") && error.contains("logs-days"), "{error}");
    assert!(world.has_log(bad).unwrap(), "that of a failure stays for longer");
    assert_eq!(world.farm().age_at(now() + 4 * DAY).unwrap().logs, 1);
    assert!(matches!(world.has_log(bad), Err(Error::LogRemoved { .. })));
    assert_eq!(files_below(&world.config.state.join("logs")), 0);
}

#[test]
fn a_build_that_goes_takes_its_log_with_it() {
    let mut world = World::with(|config| {
        short(config);
        config.retention.ages.logs_days = 0;
        config.retention.ages.failed_logs_days = 0;
    });
    let [good, _] = world.two_ends();
    assert_eq!(world.farm().age_at(now() + 10 * DAY).unwrap().builds, 2);
    assert_eq!((world.count("builds"), world.count("attempts")), (0, 0));
    assert!(matches!(world.has_log(good), Err(Error::NotFound { .. })));
    assert_eq!(files_below(&world.config.state.join("logs")), 0);
}

#[test]
fn the_newest_build_of_what_a_set_has_stays_and_earlier_ones_go() {
    let mut world = World::with(short);
    let [_, failed] = world.two_ends();
    world.submit(8, 0);
    world.give(0, 1);
    world.end(0, &How::Failed);
    let newest = world.builds[2];
    world.submit_set(0, 1 << 8, 0, None);
    assert_eq!(world.farm().age_at(now() + 10 * DAY).unwrap().builds, 2);
    let left =
        world.read(|sql| Ok(sql.query_row("SELECT uuid FROM builds", [], |row| paths::build_id(row, 0))?));
    assert!(left == newest && left != failed);
    invariants::check(world.farm(), "ageing");
}

#[test]
fn what_nothing_needs_goes_after_its_time_and_comes_back_when_it_is_uploaded_again() {
    let mut world = World::with(short);
    world.two_ends();
    let (derivations, items) = (world.count("derivations"), world.count("items"));
    // Builds go first, and it is noted that what they needed is idle.
    assert_eq!(world.farm().age_at(now() + 10 * DAY).unwrap().builds, 2);
    assert_eq!(world.count("derivations"), derivations);
    // The one that made what is held is needed.
    assert_eq!(world.count("idle"), derivations - 1);
    let paths = world.nodes.iter().map(|node| node.path.clone()).collect();
    let answer = world.runtime.block_on(world.farm().missing(MissingQuestion { paths })).unwrap();
    assert_eq!(
        answer.missing.len() as u64,
        derivations - 1,
        "what is idle is to be uploaded before it is spoken of"
    );
    let aged = world.farm().age_at(now() + 12 * DAY).unwrap();
    assert_eq!((aged.derivations, aged.sources), (derivations - 1, 0));
    // A mirror may be about to refer to a source, unless it rests.
    let insert =
        "INSERT INTO imports (source, options, state, started_at) VALUES ('http://a', '{}', 'running', 1)";
    world.write(|tx| Ok(tx.execute(insert, []).map(drop)?));
    assert_eq!(world.farm().age_at(now() + 14 * DAY).unwrap().sources, 0);
    world.write(|tx| Ok(tx.execute("UPDATE imports SET rests = 1", []).map(drop)?));
    let aged = world.farm().age_at(now() + 14 * DAY).unwrap();
    assert_eq!((aged.derivations, aged.sources), (0, 2));
    assert_eq!(world.count("items"), items - 2);
    invariants::check(world.farm(), "ageing");
    world.upload_derivations();
    assert_eq!(world.count("derivations"), derivations);
    world.take(&Step::Submit { node: 9, priority: 0 });
}

#[test]
fn what_is_uploaded_again_has_its_whole_time_again() {
    let world = World::with(short);
    world.farm().age_at(now()).unwrap();
    assert_eq!(world.count("idle"), world.count("derivations"));
    world.upload_derivations();
    assert_eq!(world.count("idle"), 0);
    assert_eq!(world.farm().age_at(now() + 2 * DAY).unwrap().derivations, 0);
}

#[test]
fn an_upload_that_runs_forgets_what_it_knew_when_something_goes() {
    let world = World::with(short);
    let all = world.nodes.len() as u64;
    let mut keeper = Keeper::new();
    for round in 0..3 {
        keeper = world.keep_all(keeper);
        assert_eq!(world.count("derivations"), all, "round {round}");
        let at = now() + (2 * round + 1) * 2 * DAY;
        world.farm().age_at(at).unwrap();
        assert_eq!(world.farm().age_at(at + 2 * DAY).unwrap().derivations, all);
        assert_eq!(world.count("derivation_inputs") + world.count("derivation_sources"), 0);
    }
}

impl World {
    /// Keeps all derivations as an upload does that has seen them before.
    fn keep_all(&self, mut keeper: Keeper) -> Keeper {
        let mut press = Press::new().unwrap();
        let mut hashes = HashMap::new();
        let mut all = Vec::new();
        for node in &self.nodes {
            let new = NewDerivation::read(node.path.clone(), &node.text, &mut press, |_, inputs| {
                Ok(inputs.iter().map(|input| hashes[&input.derivation]).collect())
            });
            let new = new.unwrap();
            hashes.insert(node.path.clone(), new.modulo);
            all.push(New::Derivation(new));
        }
        let forgotten = Arc::clone(&self.farm().forgotten);
        let job = move |tx: &mut super::super::Tx<'_>| {
            let kept = keeper.keep(&forgotten, tx, all)?;
            assert!(kept.refused.is_none(), "{:?}", kept.refused);
            Ok::<_, Error>(keeper)
        };
        self.farm().database.write_alone_blocking(job).unwrap()
    }
}

#[test]
fn nothing_goes_with_ages_of_nought() {
    let mut world = World::with(|config| {
        config.retention.ages = Ages {
            logs_days: 0,
            failed_logs_days: 0,
            history_days: 0,
            events_days: 0,
            derivations_days: 0,
            hook_runs_days: 0,
        };
    });
    world.two_ends();
    let before = dump(world.farm());
    for years in 1..3 {
        world.farm().age_at(now() + years * YEARS).unwrap();
    }
    assert_eq!(dump(world.farm()), before);
}

#[test]
fn events_that_hooks_have_not_seen_stay() {
    let mut world = World::with(short);
    world.two_ends();
    world.write(|tx| {
        let early = "UPDATE hook_cursor SET event = (SELECT min(id) + 1 FROM events)";
        Ok(tx.execute(early, []).map(drop)?)
    });
    let before = world.count("events");
    assert_eq!(world.farm().age_at(now() + YEARS).unwrap().events, 2);
    assert_eq!(world.count("events"), before - 2);
}

#[test]
fn runs_of_hooks_that_were_given_up_go_and_those_that_wait_only_if_their_hook_is_gone() {
    let world = World::with(|config| {
        short(config);
        let to = LocationConfig { folder: Some("/nowhere/mirror".into()), ..LocationConfig::default() };
        let push = HookConfig { enabled: Some(false), to, ..HookConfig::default() };
        config.hooks.insert("push".to_owned(), push);
    });
    world.write(|tx| {
        let insert =
            "INSERT INTO hook_runs (hook, kind, state, queued_at, due) VALUES (?1, 'published', ?2, 1, ?3)";
        // One is switched on, one off, and of one nobody knows any more.
        for (hook, state, due) in [
            ("retry", "waiting", 1),
            ("retry", "failed", 1),
            ("push", "waiting", 1),
            ("gone", "waiting", 1),
            ("gone", "failed", 1),
            ("gone", "waiting", i64::MAX),
        ] {
            tx.execute(insert, (hook, state, due))?;
        }
        Ok(())
    });
    assert_eq!(world.farm().age_at(now()).unwrap().hook_runs, 3);
    assert_eq!(world.count("hook_runs WHERE hook IN ('retry', 'push') AND state = 'waiting'"), 2);
    assert_eq!(world.count("hook_runs"), 3);
}

#[test]
fn an_estimate_has_the_pace_of_the_farm_or_says_that_it_is_assumed() {
    let world = World::with(|_| {});
    let estimate = || world.runtime.block_on(world.farm().estimate_ages()).unwrap();
    let assumed = estimate();
    assert!(!assumed.measured && assumed.builds_a_day == 10_000.0);
    let ending = assumed.parts.iter().filter(|part| part.steady.is_some());
    let bytes: u64 = ending.map(|part| part.bytes).sum();
    assert!(bytes < 40 << 30, "a farm of 10,000 builds a day is to stay under control: {bytes}");
    world.write(|tx| {
        let insert = "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at, ended_at) \
                      SELECT randomblob(16), id, target, platform, 'failed', 0, 0, ?1, ?1 FROM derivations LIMIT 1";
        let start = super::super::sql(now() - 10 * DAY);
        for n in 0..200 {
            tx.execute(insert, [start + n])?;
        }
        Ok(())
    });
    let measured = estimate();
    assert!(measured.measured && (measured.builds_a_day - 20.0).abs() < 0.1, "{}", measured.builds_a_day);
    let history =
        measured.parts.iter().find(|part| part.what == drover_wire::estimate::Noted::History).unwrap();
    let steady = history.steady.unwrap();
    assert!(history.now == 200 && (3_590..=3_600).contains(&steady), "{steady}");
}
