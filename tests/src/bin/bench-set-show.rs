//! The bench `set-show`: how long a coordinator takes to say how a set stands and what holds it up, with all packages
//! of a Guix for two systems in it and 5,000 failed builds.
//!
//! Builds fail by the word of an agent, as they do in a farm. Only what needs nothing can be tried in a farm that has
//! built nothing yet, mostly downloads; so it is done twice, in two farms: with failures anywhere, which leave hardly
//! anything that can still be built, and with failures that few packages need, which leave most of it waiting.
//!
//! `bench-set-show FOLDER`: see `whole_guix` for what is in it. DROVER_BIN_DIR names the folder with the programs as they
//! are to be measured.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use drover_store::path::StorePath;
use drover_tests::bench::{self, Result, Verdict, median, timed};
use drover_tests::farm::{Farm, Setup};
use drover_tests::hand::{Hand, hello};
use drover_tests::random::Random;
use drover_tests::whole_guix::{self, WholeGuix};
use drover_wire::BuildState;
use drover_wire::agent::{Hello, Orders, Poll, Report, Reported, Welcome};
use drover_wire::client::{Submission, Submitted, Wanted};
use drover_wire::route::{agents, clients};
use drover_wire::set::{Blockers, SetDetails};
use serde::de::DeserializeOwned;

const FAILURES: usize = 5_000;
const REQUESTS: usize = 20;
const SEED: u64 = 20_261_123;
/// The most packages that need a failed build, in the farm where few do.
const FEW: usize = 10;
const LIMIT_MS: f64 = 300.0;
/// What the agent says that it builds for, and how many builds it takes at a time.
const SYSTEMS: [&str; 4] = ["x86_64-linux", "i686-linux", "aarch64-linux", "armhf-linux"];
const AT_A_TIME: u32 = 50;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main(|| run(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-set-show FOLDER");
            ExitCode::from(2)
        }
    }
}

fn run(folder: &Path) -> Result<Verdict> {
    let guix = WholeGuix::read(folder, &["x86_64-linux", "aarch64-linux"])?;
    println!(
        "{} rows, {} derivations with {} edges below them",
        guix.rows.len(),
        guix.nodes.len(),
        guix.edges()
    );
    let scratch = tempfile::Builder::new().prefix("set-show-").tempdir_in(folder)?;
    let rows = scratch.path().join("rows");
    whole_guix::write_rows(&guix.rows, &rows)?;
    let outputs = Outputs::of(&guix);
    let mut figure: f64 = 0.0;
    for (which, most) in [("anywhere", usize::MAX), ("where few packages need them", FEW)] {
        let candidates = outputs.at_the_bottom(most);
        println!(
            "failures {which}: {FAILURES} of {} builds that need nothing, seed {SEED}",
            candidates.len()
        );
        // One more fails before each request, so that no answer can be one that was given before.
        let chosen = Random::new(SEED).choose(candidates, FAILURES + 2 * (REQUESTS + 1));
        let farm = Farm::with(&Setup { parent: Some(scratch.path().to_owned()), ..Setup::default() });
        whole_guix::submit(&farm, "guix", "1.5.0", &rows, &guix.store)?;
        let failing = Failing::new(&farm, chosen.into_iter().map(|node| &guix.nodes[node].path))?;
        failing.fail(FAILURES)?;
        figure = figure.max(measure(&farm, &failing)?);
    }
    Ok(Verdict { name: "set-show", figure, limit: LIMIT_MS, unit: " ms" })
}

/// Asks both questions by turns; the worse median, in milliseconds.
fn measure(farm: &Farm, failing: &Failing) -> Result<f64> {
    let (mut shows, mut blocks) = (Vec::new(), Vec::new());
    for n in 0..=REQUESTS {
        failing.fail(1)?;
        let (_, show) = ask::<SetDetails>(farm, &clients::SET.path(&[&"guix"]))?;
        failing.fail(1)?;
        let (_, block) = ask::<Blockers>(farm, &clients::BLOCKERS.path(&[&"guix"]))?;
        if n > 0 {
            shows.push(show);
            blocks.push(block);
        }
    }
    let (details, _) = ask::<SetDetails>(farm, &clients::SET.path(&[&"guix"]))?;
    let (blockers, _) = ask::<Blockers>(farm, &clients::BLOCKERS.path(&[&"guix"]))?;
    for part in &details.parts {
        println!("{}: {:?}", part.system, part.tally);
    }
    println!(
        "{} blockers hold up {} rows; {} are told",
        blockers.count,
        blockers.rows,
        blockers.blockers.len()
    );
    // The archives lack a few sources, which hold up rows as well.
    let failures = (FAILURES + 2 * (REQUESTS + 1)) as u64;
    if blockers.count < failures || blockers.rows < details.total.failed + details.total.dependency_failed {
        return Err(format!("{failures} failures, and this does not agree: {:?}", details.total).into());
    }
    let mut worse: f64 = 0.0;
    for (what, times) in [("set show", &mut shows), ("set blockers", &mut blocks)] {
        let middle = median(times);
        let (least, most) = (times.first().copied().unwrap_or(0.0), times.last().copied().unwrap_or(0.0));
        println!("{what}: median {middle:.1} ms, from {least:.1} to {most:.1} ms");
        worse = worse.max(middle);
    }
    Ok(worse)
}

/// Asks for this; the answer, and the milliseconds until all of it was here.
fn ask<T: DeserializeOwned>(farm: &Farm, path: &str) -> Result<(T, f64)> {
    let (answer, time) = timed(|| Ok(farm.client.peer.get(path)))?;
    Ok((answer.value(), time.as_secs_f64() * 1000.0))
}

/// The graph by outputs: derivations that make the same are one build.
struct Outputs {
    /// A derivation that makes each, where none of those that do needs anything.
    bottoms: Vec<Option<usize>>,
    /// What needs each directly.
    users: Vec<Vec<usize>>,
    /// How many rows want each.
    rows: Vec<usize>,
}

impl Outputs {
    fn of(guix: &WholeGuix) -> Self {
        let mut numbers: HashMap<&StorePath, usize> = HashMap::new();
        let mut all = Self { bottoms: Vec::new(), users: Vec::new(), rows: Vec::new() };
        let mut of_nodes = Vec::with_capacity(guix.nodes.len());
        for (number, node) in guix.nodes.iter().enumerate() {
            let output = *numbers.entry(&node.target).or_insert_with(|| {
                all.bottoms.push(Some(number));
                all.users.push(Vec::new());
                all.rows.push(0);
                all.rows.len() - 1
            });
            of_nodes.push(output);
            if !node.inputs.is_empty() {
                all.bottoms[output] = None;
            }
            for (input, _) in &node.inputs {
                all.users[of_nodes[*input]].push(output);
            }
        }
        for number in guix.rows.iter().filter_map(|row| guix.number(row)) {
            all.rows[of_nodes[number]] += 1;
        }
        all
    }

    /// The derivations that need nothing and that at most so many rows need.
    fn at_the_bottom(&self, most: usize) -> Vec<usize> {
        let all = self.bottoms.iter().enumerate();
        let fitting =
            all.filter(|(output, bottom)| bottom.is_some() && self.needed_by(*output, most) <= most);
        fitting.filter_map(|(_, bottom)| *bottom).collect()
    }

    /// How many rows need an output, counted until there are more than `most`.
    fn needed_by(&self, output: usize, most: usize) -> usize {
        if most == usize::MAX {
            return 0;
        }
        let (mut rows, mut seen, mut next) = (0, HashSet::from([output]), vec![output]);
        while let Some(output) = next.pop() {
            rows += self.rows[output];
            if rows > most {
                break;
            }
            next.extend(self.users[output].iter().filter(|user| seen.insert(**user)));
        }
        rows
    }
}

/// An agent whose builds all fail.
struct Failing {
    hand: Hand,
}

impl Failing {
    /// Builds of these derivations go before all others.
    fn new<'a>(farm: &Farm, chosen: impl Iterator<Item = &'a StorePath>) -> Result<Self> {
        let wanted = |path: &StorePath| Wanted {
            derivation: path.clone(),
            priority: 1,
            tags: BTreeMap::new(),
            timeout: None,
            max_silent_time: None,
        };
        let submission = Submission { builds: chosen.map(wanted).collect() };
        let submitted: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
        if let Some(odd) = submitted.builds.iter().find(|build| build.new || build.state != BuildState::Ready)
        {
            return Err(format!("a build of the set that needs nothing should be ready: {odd:?}").into());
        }
        let hand = Hand::new(farm, "failing");
        let able = Hello {
            systems: SYSTEMS.map(str::to_owned).to_vec(),
            builtins: ["download", "git-download"].map(str::to_owned).to_vec(),
            max_parallel_builds: AT_A_TIME,
            max_allocated_builds: AT_A_TIME,
            ..hello(&[])
        };
        let _: Welcome = hand.peer.post(&agents::HELLO.path(&[]), &able).value();
        Ok(Self { hand })
    }

    /// Has so many more builds fail.
    fn fail(&self, mut count: usize) -> Result<()> {
        while count > 0 {
            let accepting = AT_A_TIME.min(u32::try_from(count)?);
            let poll = Poll { accepting, holding: Vec::new() };
            let orders: Orders = self.hand.peer.post(&agents::POLL.path(&[]), &poll).value();
            for allocation in orders.allocations {
                let derivation = &allocation.derivation;
                let report = Report::Failed { message: "it was chosen to fail".to_owned() };
                let reported: Reported = self.hand.report(allocation.lease, &report).value();
                if reported.state != BuildState::Failed || allocation.priority != 1 {
                    return Err(format!("{derivation} should have failed first: {reported:?}").into());
                }
                count -= 1;
            }
        }
        Ok(())
    }
}
