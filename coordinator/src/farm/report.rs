//! A lease ends by its agent's word.

use std::sync::Arc;

use drover_store::{Sha256Hash, StorePath};
use drover_wire::agent::{Output, Report, Reported, SetupStep, TimeLimit};
use drover_wire::{BuildState, LeaseId};
use rusqlite::OptionalExtension;

use super::change::AgentRow;
use super::depend::{self, End, Provided};
use super::error::Error;
use super::events::{self, Kind, Subject};
use super::plan::Plan;
use super::requeue::{self, Outcome};
use super::{Farm, Tx, files, now, paths, retention, sql, unsql, upload, upstreams};
use crate::database::fixed;

/// The most bytes of an agent's words that are kept.
const WORDS: usize = 16 * 1024;
/// The most missing inputs that one report is believed, for each costs a look through all below the build; the next
/// try reports the rest.
const MISSING: usize = 1000;

/// What the configuration says about reports.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// How often a build may fail to be set up.
    most: u32,
    /// Whether what an agent lacked and nobody provides is built.
    submit: bool,
}

/// A try whose lease is open.
struct Try {
    lease: i64,
    build: i64,
    agent: i64,
    agent_name: String,
    state: BuildState,
    log_size: u64,
}

impl Farm {
    /// Ends a lease. Reported again, the answer is the same and nothing changes.
    ///
    /// # Errors
    /// When the agent does not hold the lease, or says that it succeeded and an output is not here.
    pub async fn report(
        self: &Arc<Self>,
        agent: &AgentRow,
        lease: LeaseId,
        report: Report,
    ) -> Result<Reported, Error> {
        // Renewed: it must not run out while the job waits.
        let held = self.live.lease(agent.id, lease);
        let log_size = held.as_ref().map_or(0, |held| held.log().length().borrow().bytes);
        let row = agent.clone();
        let rules = Rules { most: self.config.setup_failures, submit: self.hooks.submit_missing_inputs() };
        // What ends one build may touch all that are above it.
        let (state, outcome) = self
            .database
            .write_alone::<_, Error>(move |tx| end_lease(tx, &row, lease, report, log_size, rules))
            .await?;
        if let Some(held) = held {
            let derivation = held.allocation.derivation.base_name();
            tracing::info!(build = %held.build, %lease, agent = %agent.name, derivation, outcome, %state, "reported");
        }
        self.clean_uploads_later(lease);
        Ok(Reported { state })
    }
}

fn end_lease(
    tx: &mut Tx<'_>,
    agent: &AgentRow,
    lease: LeaseId,
    report: Report,
    log_size: u64,
    rules: Rules,
) -> Result<(BuildState, &'static str), Error> {
    let select = "SELECT a.build, a.agent, a.ended_at IS NULL, a.answer, b.state, a.started_at IS NULL \
                  FROM attempts a JOIN builds b ON b.id = a.build WHERE a.lease = ?1";
    type Columns = (i64, i64, bool, Option<String>, BuildState, bool);
    let found: Option<Columns> = tx
        .prepare_cached(select)?
        .query_row([sql(lease.0)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, paths::state(row, 4)?, row.get(5)?))
        })
        .optional()?;
    let word = outcome_word(&report);
    let Some((build, holder, open, answer, state, unstarted)) = found else {
        return Err(Error::LeaseNotHeld(lease));
    };
    if holder != agent.id {
        return Err(Error::LeaseNotHeld(lease));
    }
    if !open {
        // The answer to the first report was lost.
        let answer = answer.and_then(|state| state.parse().ok());
        return answer.map(|state| (state, word)).ok_or(Error::LeaseNotHeld(lease));
    }
    let one =
        Try { lease: sql(lease.0), build, agent: agent.id, agent_name: agent.name.clone(), state, log_size };
    let (message, step) = words_of(&report);
    let ran = matches!(report, Report::Succeeded { .. } | Report::Failed { .. } | Report::TimedOut { .. });
    if ran && unstarted && state == BuildState::Allocated {
        // It was over before a heartbeat, or a word of its log, told that it had begun.
        events::note(tx, Kind::BuildStarted, Subject::Build(build), None)?;
    }
    let state = one.settle(tx, report, rules)?;
    let outcome =
        Outcome { word, step, message: message.as_deref(), answer: Some(state), log_size: one.log_size };
    requeue::close(tx, one.lease, &outcome)?;
    Ok((state, word))
}

fn outcome_word(report: &Report) -> &'static str {
    match report {
        Report::Succeeded { .. } => "succeeded",
        Report::Failed { .. } => "failed",
        Report::TimedOut { .. } => "timed-out",
        Report::Canceled => "canceled",
        Report::SetupFailed { .. } => "setup-failed",
        Report::MissingInputs { .. } => "missing-inputs",
        Report::HandedBack { .. } => "handed-back",
    }
}

/// What is kept of the agent's words.
fn words_of(report: &Report) -> (Option<String>, Option<SetupStep>) {
    match report {
        Report::Succeeded { .. } | Report::Canceled => (None, None),
        Report::Failed { message } | Report::HandedBack { message } => (Some(shortened(message)), None),
        Report::TimedOut { limit, message } => (Some(timed_out(*limit, message)), None),
        Report::SetupFailed { step, message } => (Some(shortened(message)), Some(*step)),
        Report::MissingInputs { paths } => {
            let names: Vec<&str> = paths.iter().take(20).map(StorePath::as_str).collect();
            (Some(shortened(&format!("nobody provides {}", names.join(", ")))), None)
        }
    }
}

fn timed_out(limit: TimeLimit, message: &str) -> String {
    let what = match limit {
        TimeLimit::Timeout => "it took longer than its timeout",
        TimeLimit::Silence => "it was silent for longer than its silence timeout",
    };
    if message.is_empty() { what.to_owned() } else { format!("{what}: {}", shortened(message)) }
}

fn shortened(message: &str) -> String {
    let end = (0..=WORDS.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message[..end].trim_end().to_owned()
}

impl Try {
    /// Does to the build what the report means; gives the state that it has then.
    fn settle(&self, tx: &mut Tx<'_>, report: Report, rules: Rules) -> Result<BuildState, Error> {
        if self.state == BuildState::Canceled {
            return Ok(BuildState::Canceled);
        }
        match report {
            Report::Succeeded { outputs } => self.succeed(tx, &outputs),
            Report::Failed { message } => {
                let why = shortened(&message);
                let why = if why.is_empty() {
                    "the builder failed and the daemon said nothing".to_owned()
                } else {
                    why
                };
                upstreams::failed(tx, self.build, &why)?;
                self.end(tx, BuildState::Failed, Some(&why))
            }
            Report::TimedOut { limit, message } => {
                self.end(tx, BuildState::TimedOut, Some(&timed_out(limit, &message)))
            }
            Report::SetupFailed { step, message } => self.setup_failed(tx, step, &message, rules.most),
            Report::MissingInputs { paths } => self.missing_inputs(tx, &paths, rules),
            // Nobody asked for a cancellation: the build is still wanted.
            Report::Canceled => {
                requeue::avoid(tx, self.build, self.agent)?;
                requeue::back(tx, self.build, "the agent canceled it, and it is still wanted")
            }
            Report::HandedBack { message } => {
                requeue::avoid(tx, self.build, self.agent)?;
                requeue::back(tx, self.build, &message)
            }
        }
    }

    fn end(&self, tx: &mut Tx<'_>, state: BuildState, why: Option<&str>) -> Result<BuildState, Error> {
        depend::end(tx, self.build, &End { state, why })?;
        Ok(state)
    }

    /// Every output of the derivation becomes an item.
    fn succeed(&self, tx: &mut Tx<'_>, outputs: &[Output]) -> Result<BuildState, Error> {
        let wanted = {
            let mut select = tx.prepare_cached(
                "SELECT p.id, p.base FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
                 JOIN paths p ON p.id = o.path WHERE b.id = ?1",
            )?;
            let rows =
                select.query_map([self.build], |row| Ok((row.get::<_, i64>(0)?, paths::base(row, 1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()?
        };
        if let Some(odd) = outputs.iter().find(|output| wanted.iter().all(|(_, path)| *path != output.path)) {
            let reason = "it is not one of the outputs of the build's derivation".to_owned();
            return Err(Error::BadOutput { path: odd.path.clone(), reason });
        }
        for (id, path) in &wanted {
            let declared = outputs.iter().find(|output| output.path == *path);
            self.adopt(tx, *id, path, declared)?;
        }
        self.end(tx, BuildState::Succeeded, None)?;
        for (id, _) in wanted {
            depend::provide(tx, id, Provided::Held)?;
        }
        Ok(BuildState::Succeeded)
    }

    /// An uploaded output becomes an item, unless it is one.
    fn adopt(
        &self,
        tx: &mut Tx<'_>,
        id: i64,
        path: &StorePath,
        declared: Option<&Output>,
    ) -> Result<(), Error> {
        let bad = |reason: &str| Error::BadOutput { path: path.clone(), reason: reason.to_owned() };
        if tx.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([id])? {
            return retention::rescue(tx, id);
        }
        let uploaded: Option<(String, Sha256Hash, i64)> = tx
            .prepare_cached(
                "SELECT refs, nar_hash, nar_size FROM uploads WHERE lease = ?1 AND path = ?2 AND complete = 1",
            )?
            .query_row([self.lease, id], |row| Ok((row.get(0)?, paths::hash(row, 1)?, row.get(2)?)))
            .optional()?;
        let Some((refs, nar_hash, nar_size)) = uploaded else {
            return Err(bad("the report says that it was built, and it is not here; upload it first"));
        };
        let same = |said: &Output| {
            let mut references: Vec<&str> = said.references.iter().map(StorePath::base_name).collect();
            references.sort_unstable();
            references.dedup();
            said.nar_hash == nar_hash && said.nar_size == unsql(nar_size) && references.join("\n") == refs
        };
        if !declared.is_some_and(same) {
            return Err(bad("the report names another nar, or none, than the one that was uploaded"));
        }
        tx.prepare_cached(
            "INSERT INTO items (path, kind, nar_hash, nar_size, file_size, deriver, export_hash, added_at) \
             SELECT u.path, 'output', u.nar_hash, u.nar_size, u.file_size, b.derivation, u.export_hash, ?3 \
             FROM uploads u JOIN attempts a ON a.lease = u.lease JOIN builds b ON b.id = a.build \
             WHERE u.lease = ?1 AND u.path = ?2",
        )?
        .execute((self.lease, id, sql(now())))?;
        let file = upload::file(tx, self.lease, id, path)?
            .ok_or_else(|| Error::Damaged(format!("nothing says where the nar of {path} is")))?;
        files::add(tx, id, &file)?;
        fixed::note(tx, id)?;
        // It may have been here before, and may have referred to something else.
        retention::forget(tx, id)?;
        for base in refs.lines() {
            let reference = StorePath::parse_base(base)
                .map_err(|error| Error::Damaged(format!("a reference of {path}: {error}")))?;
            let reference = paths::number(tx, &reference)?;
            tx.prepare_cached("INSERT OR IGNORE INTO item_references VALUES (?1, ?2)")?
                .execute([id, reference])?;
        }
        tx.prepare_cached("DELETE FROM uploads WHERE lease = ?1 AND path = ?2")?.execute([self.lease, id])?;
        retention::rescue_references(tx, id)
    }

    /// Not the build's fault: another agent tries, or this one later, until it happened too often.
    fn setup_failed(
        &self,
        tx: &mut Tx<'_>,
        step: SetupStep,
        message: &str,
        most: u32,
    ) -> Result<BuildState, Error> {
        let failures: u32 = tx
            .prepare_cached("UPDATE builds SET setup_failures = setup_failures + 1 WHERE id = ?1 RETURNING setup_failures")?
            .query_row([self.build], |row| row.get(0))?;
        if failures >= most.max(1) {
            let step = requeue::word(&step).unwrap_or_default();
            let why = format!(
                "it could not be set up {failures} times; the last time on {}, {step}: {}",
                self.agent_name,
                shortened(message)
            );
            return self.end(tx, BuildState::Failed, Some(&why));
        }
        requeue::avoid(tx, self.build, self.agent)?;
        requeue::back(tx, self.build, message)
    }

    /// What nobody provides gets built, unless that is switched off, and the build waits for it.
    fn missing_inputs(
        &self,
        tx: &mut Tx<'_>,
        missing: &[StorePath],
        rules: Rules,
    ) -> Result<BuildState, Error> {
        let (derivation, priority): (i64, i64) = tx
            .prepare_cached("SELECT derivation, priority FROM builds WHERE id = ?1")?
            .query_row([self.build], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut absent = Vec::new();
        let mut hopeless = None;
        let mut lacks = Vec::new();
        for path in missing.iter().take(MISSING) {
            let known: Option<(i64, i64)> = tx
                .prepare_cached("SELECT id, provided FROM paths WHERE base = ?1")?
                .query_row([path.base_name()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match known {
                Some((_, provided)) if provided == Provided::Held as i64 => continue,
                Some((id, _)) => match maker_below(tx, derivation, id)? {
                    Some(maker) => absent.push((id, maker)),
                    None => hopeless = Some(path),
                },
                None => hopeless = Some(path),
            }
            lacks.push(path.as_str());
        }
        if !lacks.is_empty() {
            let lacks = serde_json::to_string(&lacks).unwrap_or_default();
            events::note(tx, Kind::MissingInputs, Subject::Build(self.build), Some(&lacks))?;
        }
        if let Some(path) = hopeless {
            // To wait for it would be to wait for ever.
            let message = format!("it lacks {path}, which nobody provides and no derivation below it makes");
            return self.setup_failed(tx, SetupStep::ImportInputs, &message, rules.most);
        }
        if absent.is_empty() {
            let message = "it reported inputs as missing that the coordinator holds";
            return self.setup_failed(tx, SetupStep::ImportInputs, message, rules.most);
        }
        let mut plan = Plan::that_retries();
        for (path, maker) in absent {
            tx.prepare_cached("UPDATE substitutes SET found = 0, checked_at = ?2 WHERE path = ?1")?
                .execute([path, sql(now())])?;
            depend::provide(tx, path, Provided::No)?;
            let direct = "SELECT 1 FROM derivation_inputs WHERE derivation = ?1 AND output = ?2";
            if !tx.prepare_cached(direct)?.exists([derivation, path])? {
                self.await_path(tx, path)?;
            }
            if rules.submit {
                plan.need_again(tx, maker, priority)?;
            }
        }
        plan.settle(tx)?;
        requeue::back(tx, self.build, "inputs of it are missing")
    }

    /// The build waits for something that an input refers to.
    fn await_path(&self, tx: &Tx<'_>, path: i64) -> Result<(), Error> {
        let new = tx
            .prepare_cached("INSERT OR IGNORE INTO awaited VALUES (?1, ?2)")?
            .execute([path, self.build])?;
        if new == 1 {
            tx.prepare_cached("UPDATE builds SET missing = missing + 1 WHERE id = ?1")?
                .execute([self.build])?;
        }
        Ok(())
    }
}

/// A derivation below this one that makes the path.
fn maker_below(tx: &Tx<'_>, derivation: i64, path: i64) -> Result<Option<i64>, Error> {
    let direct = "SELECT maker FROM derivation_inputs WHERE derivation = ?1 AND output = ?2 LIMIT 1";
    let maker: Option<i64> =
        tx.prepare_cached(direct)?.query_row([derivation, path], |row| row.get(0)).optional()?;
    if maker.is_some() {
        return Ok(maker);
    }
    let below = "WITH RECURSIVE below (id) AS (SELECT maker FROM derivation_inputs WHERE derivation = ?1 \
                     UNION SELECT i.maker FROM below b JOIN derivation_inputs i ON i.derivation = b.id) \
                 SELECT o.derivation FROM derivation_outputs o JOIN below b ON b.id = o.derivation \
                 WHERE o.path = ?2 LIMIT 1";
    Ok(tx.prepare_cached(below)?.query_row([derivation, path], |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        let message = "ä".repeat(WORDS);
        let short = shortened(&message);
        assert!(short.len() <= WORDS && short.chars().all(|letter| letter == 'ä'));
        assert_eq!(shortened("a\n"), "a");
    }

    #[test]
    fn the_two_limits_in_time_are_told_apart() {
        assert!(timed_out(TimeLimit::Silence, "x").contains("silent"));
        assert!(!timed_out(TimeLimit::Timeout, "").contains("silent"));
    }
}
