//! `drover build …`

use std::collections::BTreeMap;

use drover_store::path::StorePath;
use drover_wire::client::{Ended, Submitted, Uploaded};
use drover_wire::{BuildId, BuildState};
use serde::Serialize;

use super::{warn_of_sources, with_standard_input};
use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::{clean, count};
use crate::cli::{BuildArgs, Exit};
use crate::client::builds::{self, Terms};
use crate::client::upload::{Brought, bring};
use crate::client::{ClientError, Unit, Watch};

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    /// Each build as it was submitted.
    Submitted {
        build: BuildId,
        derivation: &'a StorePath,
        state: BuildState,
        /// Whether it is new, or was under way or done already.
        new: bool,
    },
    /// With `--wait`: each build as it ends.
    Ended { build: BuildId, derivation: &'a StorePath, state: BuildState, why: Option<&'a str> },
    /// After everything was submitted.
    Summary {
        uploaded: Uploaded,
        for_inputs: u64,
        missing_sources: &'a [StorePath],
        missing_sources_count: u64,
    },
}

pub(in crate::cli) fn run(args: &BuildArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    let terms = Terms {
        priority: args.priority,
        tags: tags(&args.tags)?,
        timeout: args.timeout,
        max_silent_time: args.max_silent_time,
    };
    let files = with_standard_input(&args.drv)?;
    if files.is_empty() {
        return Err(ClientError::Usage("nothing to build: standard input named no .drv file".to_owned()));
    }
    watch.begin("reading derivations", None, Unit::Things);
    let Brought { wanted, sent } = bring(&coordinator, &files, std::slice::from_ref(&args.store), watch)?;
    warn_of_sources(&sent.nowhere, watch);
    let submitted = builds::submit(&coordinator, &wanted, &terms, watch)?;
    watch.end();
    read_or_not(tell_submitted(&submitted, sent.uploaded, out))?;
    summarize(&submitted, sent.uploaded, watch);
    if !args.wait {
        return Ok(Exit::Success);
    }
    let mut tally = Tally::default();
    for build in submitted.builds.iter().filter(|build| build.state.is_final()) {
        tally.add(build.state);
    }
    let open = submitted.builds.iter().filter(|build| !build.state.is_final()).map(|build| build.build);
    builds::wait(&coordinator, open, watch, |end| {
        tally.add(end.state);
        read_or_not(watch.aside(|| tell_end(end, out)))
    })?;
    watch.end();
    watch.say(&tally.words());
    Ok(tally.worst())
}

/// That nobody reads any more is no reason to stop: the exit code is still wanted.
fn read_or_not(told: Result<(), ClientError>) -> Result<(), ClientError> {
    match told {
        Err(ClientError::OutputClosed) => Ok(()),
        told => told,
    }
}

fn tags(given: &[(String, String)]) -> Result<BTreeMap<String, String>, ClientError> {
    let mut tags = BTreeMap::new();
    for (key, value) in given {
        if tags.insert(key.clone(), value.clone()).is_some_and(|other| other != *value) {
            return Err(ClientError::Usage(format!("the tag {key} is given twice with different values")));
        }
    }
    Ok(tags)
}

fn tell_submitted(submitted: &Submitted, uploaded: Uploaded, out: &mut Out) -> Result<(), ClientError> {
    for one in &submitted.builds {
        let (build, derivation, state, new) = (one.build, &one.derivation, one.state, one.new);
        out.value(&Event::Submitted { build, derivation, state, new }, |out| {
            out.line(format!("{build}  {state:17}  {}", derivation.derivation_name()))
        })?;
    }
    if out.is_json() {
        out.json(&Event::Summary {
            uploaded,
            for_inputs: submitted.for_inputs,
            missing_sources: &submitted.missing_sources,
            missing_sources_count: submitted.missing_sources_count,
        })?;
    }
    out.flush()
}

fn tell_end(end: &Ended, out: &mut Out) -> Result<(), ClientError> {
    let Ended { build, derivation, state, why } = end;
    let event = Event::Ended { build: *build, derivation, state: *state, why: why.as_deref() };
    out.value(&event, |out| {
        let line = format!("{build}  {state:17}  {}", derivation.derivation_name());
        match why {
            Some(why) => out.line(format!("{line}: {}", clean(why))),
            None => out.line(line),
        }
    })?;
    out.flush()
}

fn summarize(submitted: &Submitted, uploaded: Uploaded, watch: &Progress) {
    let new = submitted.builds.iter().filter(|build| build.new).count() as u64;
    let known = submitted.builds.len() as u64 - new;
    let mut words = vec![count(new, "new build", "new builds")];
    if known > 0 {
        words.push(format!("{known} that were there already"));
    }
    if submitted.for_inputs > 0 {
        words.push(format!("{} for inputs", submitted.for_inputs));
    }
    words.push(format!(
        "uploaded {} and {}",
        count(uploaded.derivations, "derivation", "derivations"),
        count(uploaded.sources, "source", "sources")
    ));
    if submitted.missing_sources_count > 0 {
        words.push(format!(
            "waiting for {} that nobody has uploaded",
            count(submitted.missing_sources_count, "source", "sources")
        ));
    }
    watch.say(&words.join(", "));
}

/// How many builds ended how.
#[derive(Debug, Default)]
struct Tally(BTreeMap<BuildState, u64>);

impl Tally {
    fn add(&mut self, state: BuildState) {
        *self.0.entry(state).or_default() += 1;
    }

    fn worst(&self) -> Exit {
        self.0.keys().map(|state| Exit::of_build(*state)).fold(Exit::Success, Exit::worse)
    }

    fn words(&self) -> String {
        self.0.iter().map(|(state, number)| format!("{number} {state}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_build_makes_the_exit_code() {
        let mut tally = Tally::default();
        assert_eq!(tally.worst(), Exit::Success);
        tally.add(BuildState::Succeeded);
        assert_eq!(tally.worst(), Exit::Success);
        tally.add(BuildState::DependencyFailed);
        assert_eq!(tally.worst(), Exit::DependencyFailed);
        tally.add(BuildState::Failed);
        assert_eq!(tally.worst(), Exit::Failed);
        assert_eq!(tally.words(), "1 succeeded, 1 failed, 1 dependency-failed");
    }

    #[test]
    fn a_tag_with_two_values_is_refused() {
        let tag = |value: &str| ("set".to_owned(), value.to_owned());
        assert_eq!(tags(&[tag("a"), tag("a")]).unwrap().len(), 1);
        assert!(tags(&[tag("a"), tag("b")]).is_err());
    }
}
