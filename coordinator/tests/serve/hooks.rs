//! What hooks do, with programs and agents of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use drover_os::Deadline;
use drover_wire::agent::Report;
use drover_wire::hook::{Event, FailedRuns, HookInput, HookRetried, HookSummary};
use drover_wire::import::{ImportDetails, ImportState, ImportSummary, NewImport};
use drover_wire::route::{Route, clients};
use drover_wire::{BuildId, BuildState, Code};
use tempfile::TempDir;

use crate::agent::Agent;
use crate::graph::{Made, derivation, output};
use crate::house::House;

/// A coordinator with hooks, and a folder for their programs to write to.
struct Hooked {
    house: House,
    notes: TempDir,
}

impl Hooked {
    /// With this configuration, in which `NOTES` is the folder.
    fn start(config: &str) -> Self {
        let notes = tempfile::tempdir().unwrap();
        let file = notes.path().join("config.toml");
        fs::write(&file, config.replace("NOTES", notes.path().to_str().unwrap())).unwrap();
        let house = House::with(&["--config", file.to_str().unwrap()]);
        Self { house, notes }
    }

    fn note(&self, name: &str) -> PathBuf {
        self.notes.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.note(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn hook(&self, name: &str) -> HookSummary {
        let all: Vec<HookSummary> = self.house.client().0.get(&clients::HOOKS.path(&[])).value();
        all.into_iter().find(|hook| hook.hook.as_str() == name).unwrap()
    }

    /// Waits until the hook is like this.
    #[track_caller]
    fn until(&self, name: &str, what: &str, is: impl Fn(&HookSummary) -> bool) -> HookSummary {
        eventually(what, || Some(self.hook(name)).filter(|hook| is(hook)))
    }

    /// Waits until all that happened was given to hooks, and this one has done its part.
    #[track_caller]
    fn until_done(&self, name: &str) -> HookSummary {
        let database = self.house.database();
        let kinds: Vec<String> = Event::ALL.iter().map(|event| format!("'{event}'")).collect();
        let given = format!(
            "SELECT NOT EXISTS (SELECT 1 FROM events e, hook_cursor c WHERE e.id > c.event AND e.kind IN ({}))",
            kinds.join(", ")
        );
        eventually("the hook should have done its part", || {
            let given: bool = database.query_row(&given, [], |row| row.get(0)).unwrap();
            // In this order: what was given waits until it is done.
            Some(self.hook(name)).filter(|hook| given && hook.waiting == 0)
        })
    }

    fn submit(&self, name: &str) -> BuildId {
        self.house.client().submit(&[&derivation(name, &[])])
    }
}

/// Looks again and again, for a minute at most.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    Deadline::after(Duration::from_secs(60)).ask(look).unwrap_or_else(|| panic!("in vain: {what}"))
}

fn build_one(agent: &Agent, made: &Made) {
    let allocation = agent.allocation();
    assert_eq!(allocation.derivation, made.path);
    let (kept, bytes) = output(&made.out, b"built", &[]);
    assert_eq!(agent.succeed(allocation.lease, &kept, &bytes).state, BuildState::Succeeded);
}

fn fail_one(agent: &Agent, made: &Made) {
    let allocation = agent.allocation();
    assert_eq!(allocation.derivation, made.path);
    agent.report(allocation.lease, &Report::Failed { message: "exit code 1".to_owned() });
}

#[test]
fn a_program_is_told_of_a_build_as_it_is_shown() {
    let hooked = Hooked::start(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted', 'build-success', 'build-canceled', 'published']\n\
         program = '/bin/sh'\narguments = ['-c', 'cat >> NOTES/told']",
    );
    let (client, agent) = (hooked.house.client(), hooked.house.agent("one"));
    let made = derivation("made", &[]);
    let build = client.submit(&[&made]);
    build_one(&agent, &made);
    let canceled = hooked.submit("unwanted");
    client.cancel(canceled);
    let told = eventually("five runs", || Some(hooked.lines("told")).filter(|told| told.len() == 5));
    let all: Vec<HookInput> = told.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: Event| all.iter().filter(move |told| told.event == event);
    assert_eq!(of(Event::BuildSubmitted).count(), 2);
    let success = of(Event::BuildSuccess).next().unwrap();
    let (told, shown) = (success.build.as_ref().unwrap(), client.show(build));
    assert_eq!((&told.summary, &told.attempts), (&shown.summary, &shown.attempts));
    assert_eq!(told.outputs[0].path, made.out);
    assert_eq!((success.hook.as_str(), success.attempt), ("tell", 1));
    assert_eq!(of(Event::BuildCanceled).next().unwrap().build.as_ref().unwrap().summary.build, canceled);
    let published = of(Event::Published).next().unwrap();
    assert_eq!(published.item.as_ref().unwrap().path, made.out);
    assert!(published.build.is_none());
}

#[test]
fn what_was_under_way_or_waited_at_a_crash_is_done_after_it() {
    // The first hangs, deaf to everything, with another process in a session of its own.
    let mut hooked = Hooked::start(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\nparallel = 1\narguments = ['-c', '''\n\
         if mkdir NOTES/first; then trap '' TERM HUP PIPE; setsid sleep 1000 & echo $$ $! > NOTES/pids; wait; \
         else echo done >> NOTES/done; fi''']",
    );
    for name in ["a", "b", "c", "d", "e"] {
        hooked.submit(name);
    }
    let hung = eventually("the first run should hang", || {
        let pids = hooked.lines("pids").pop()?;
        let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    });
    let alive = |pid: &&u32| Path::new(&format!("/proc/{pid}")).exists();
    assert_eq!(hung.iter().filter(alive).count(), 2);
    let before = hooked.until("tell", "all are queued", |hook| hook.waiting == 5);
    assert_eq!(before.running, 1);
    hooked.house.crash_and_restart();
    eventually("what hung should be gone", || (hung.iter().filter(alive).count() == 0).then_some(()));
    hooked.until_done("tell");
    assert_eq!(hooked.lines("done").len(), 5);
    assert_eq!(hooked.hook("tell").failed, 0);
}

#[test]
fn a_hook_that_hangs_delays_no_other_and_ends_at_its_time() {
    let hooked = Hooked::start(
        "[hooks.hangs]\nkind = 'command'\non = ['build-submitted']\nprogram = 'yes'\n\
         [hooks.late]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sleep'\narguments = ['1000']\n\
         seconds = 1\ntries = 1\n\
         [hooks.quick]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\n\
         arguments = ['-c', 'echo done >> NOTES/done']",
    );
    let agent = hooked.house.agent("one");
    let made = derivation("made", &[]);
    hooked.house.client().submit(&[&made]);
    hooked.until_done("quick");
    build_one(&agent, &made);
    let public = hooked.house.stranger();
    let narinfo = format!("/{}.narinfo", made.out.hash_part());
    eventually("it should be published", || (public.get(&narinfo).status == 200).then_some(()));
    assert_eq!(hooked.lines("done").len(), 1);
    assert_eq!(hooked.hook("hangs").running, 1);
    let late = hooked.until("late", "it should be given up", |hook| hook.failed == 1);
    assert!(late.last_error.unwrap().contains("longer than 1 seconds"));
}

#[test]
fn a_hook_that_fails_twice_is_tried_a_third_time() {
    let hooked = Hooked::start(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\nfirst-wait-seconds = 1\n\
         longest-wait-seconds = 1\ntries = 3\n\
         arguments = ['-c', 'cat >> NOTES/told; [ $(wc -l < NOTES/told) = 3 ] || { echo not yet >&2; exit 1; }']",
    );
    hooked.submit("a");
    let done = hooked.until_done("tell");
    let told: Vec<HookInput> =
        hooked.lines("told").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.iter().map(|told| told.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(told.iter().all(|one| one.run == told[0].run));
    assert_eq!(done.failed, 0);
    assert!(done.last_error.unwrap().ends_with("not yet"));
}

#[test]
fn what_was_given_up_is_shown_and_tried_again_when_asked_to() {
    let hooked = Hooked::start(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\ntries = 1\nparallel = 3\n\
         arguments = ['-c', 'test -e NOTES/mended || { echo broken >&2; exit 7; }']",
    );
    let builds = ["a", "b", "c"].map(|name| hooked.submit(name));
    hooked.until("tell", "all should be given up", |hook| hook.failed == 3);
    let client = hooked.house.client();
    let ask = |route: &Route| route.path(&[&"tell"]);
    let failed: FailedRuns = client.0.get(&ask(&clients::HOOK_FAILED)).value();
    assert_eq!(failed.failed, 3);
    for build in builds {
        let run = failed.runs.iter().find(|run| run.build == Some(build)).unwrap();
        assert!(run.error.contains("code 7") && run.error.ends_with("broken"), "{run:?}");
        assert_eq!((run.event, run.tries), (Event::BuildSubmitted, 1));
    }
    fs::write(hooked.note("mended"), "").unwrap();
    let retried: HookRetried = client.0.post(&ask(&clients::HOOK_RETRY), &()).value();
    assert_eq!(retried.runs, 3);
    assert_eq!(hooked.until_done("tell").failed, 0);
    let unknown = clients::HOOK_RETRY.path(&[&"nobody"]);
    client.0.post(&unknown, &()).refused(Code::NotFound);
    client.0.get(&clients::HOOK_FAILED.path(&[&"No%20body"])).refused(Code::BadRequest);
}

#[test]
fn as_many_runs_as_it_may_are_under_way_and_no_more() {
    // Each waits until two are there at once, which has to be seen once; none may ever see three.
    let hooked = Hooked::start(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\nparallel = 2\narguments = ['-c', '''\n\
         mkdir NOTES/runs/$$\n\
         until [ -e NOTES/met ]; do [ $(ls NOTES/runs | wc -l) -lt 2 ] || touch NOTES/met; done\n\
         ls NOTES/runs | wc -l >> NOTES/seen\nrmdir NOTES/runs/$$\n''']",
    );
    fs::create_dir(hooked.note("runs")).unwrap();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        hooked.submit(name);
    }
    hooked.until_done("tell");
    let seen = hooked.lines("seen");
    assert_eq!(seen.len(), 7);
    assert!(hooked.note("met").exists());
    assert!(seen.iter().all(|seen| seen.trim().parse::<u32>().unwrap() <= 2), "{seen:?}");
}

#[test]
fn what_failed_is_built_by_another_agent_and_what_waits_for_it_goes_on() {
    let hooked = Hooked::start("poll-seconds = 1\n[hooks.retry]\ntimes = 1");
    let client = hooked.house.client();
    let (one, two) = (hooked.house.agent("one"), hooked.house.agent("two"));
    let below = derivation("below", &[]);
    let above = derivation("above", &[&below]);
    let top = client.submit(&[&below, &above]);
    fail_one(&one, &below);
    eventually("what waits for it should go on", || (client.state(top) == BuildState::Waiting).then_some(()));
    // The one that failed it has to leave it to others.
    assert_eq!(one.poll(1, &[]).allocations, []);
    build_one(&two, &below);
    build_one(&two, &above);
    assert_eq!(client.end_of(top), BuildState::Succeeded);
}

#[test]
fn what_failed_as_often_as_it_may_stays_failed() {
    let hooked = Hooked::start("[hooks.retry]\ntimes = 2\nother-agents-seconds = 0");
    let client = hooked.house.client();
    let agent = hooked.house.agent("one");
    let made = derivation("made", &[]);
    let first = client.submit(&[&made]);
    for _ in 0..3 {
        fail_one(&agent, &made);
    }
    hooked.until_done("retry");
    let database = hooked.house.database();
    let retries = || -> Vec<(String, u32)> {
        let mut select = database.prepare("SELECT state, retries FROM builds ORDER BY id").unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let failed = |n| ("failed".to_owned(), n);
    assert_eq!(retries(), [failed(0), failed(1), failed(2)]);
    assert_eq!(client.state(first), BuildState::Failed);
}

#[test]
fn without_the_hook_for_them_nobody_builds_missing_inputs_and_the_build_says_so() {
    let hooked = Hooked::start("[hooks.submit-missing-inputs]\nenabled = false");
    let client = hooked.house.client();
    let agent = hooked.house.agent("one");
    let below = derivation("below", &[]);
    let above = derivation("above", &[&below]);
    let top = client.submit(&[&below, &above]);
    // A server had it and has it no more.
    let lower = client.submit(&[&below]);
    build_one(&agent, &below);
    assert_eq!(client.end_of(lower), BuildState::Succeeded);
    let database = hooked.house.database();
    database
        .execute_batch(&format!(
            "UPDATE paths SET provided = 2 WHERE base = '{0}'; \
             DELETE FROM items WHERE path = (SELECT id FROM paths WHERE base = '{0}'); \
             DELETE FROM files WHERE item = (SELECT id FROM paths WHERE base = '{0}')",
            below.out.base_name()
        ))
        .unwrap();
    let lease = agent.allocation().lease;
    let reported = agent.report(lease, &Report::MissingInputs { paths: vec![below.out.clone()] });
    assert_eq!(reported.state, BuildState::Waiting);
    let shown = client.show(top);
    assert!(shown.why.contains("nobody builds it"), "{}", shown.why);
    // Somebody has it built.
    let again = client.submit(&[&below]);
    assert_ne!(again, lower);
    build_one(&agent, &below);
    build_one(&agent, &above);
    assert_eq!(client.end_of(top), BuildState::Succeeded);
}

#[test]
fn what_is_published_is_pushed_as_a_web_server_can_serve_it() {
    let hooked = Hooked::start("[hooks.mirror]\nkind = 'push'\nfolder = 'NOTES/mirror'");
    let agent = hooked.house.agent("one");
    let made = derivation("made", &[]);
    hooked.house.client().submit(&[&made]);
    build_one(&agent, &made);
    let mirror = hooked.note("mirror");
    let narinfo = format!("{}.narinfo", made.out.hash_part());
    eventually("it should be pushed", || mirror.join(&narinfo).exists().then_some(()));
    let public = hooked.house.stranger();
    let url = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines().find_map(|line| Some(line.strip_prefix("URL: ")?.to_owned())).unwrap()
    };
    let served = public.get(&format!("/{narinfo}"));
    // A web server cannot unpack nars on their way out: it offers what it has.
    let pushed = fs::read(mirror.join(&narinfo)).unwrap();
    assert_eq!(
        served.body.strip_prefix(&pushed[..]).map(|rest| rest.starts_with(b"URL: nar/none/")),
        Some(true)
    );
    let nar = url(&served.body);
    assert_eq!(fs::read(mirror.join(&nar)).unwrap(), public.get(&format!("/{nar}")).body);
    assert_eq!(fs::read(mirror.join("nix-cache-info")).unwrap(), public.get("/nix-cache-info").body);
    assert_eq!(hooked.until_done("mirror").failed, 0);
}

#[test]
fn what_is_pushed_to_and_what_an_import_uses_where_it_lies_are_never_the_same() {
    let mut hooked = Hooked::start("[hooks.mirror]\nkind = 'push'\nfolder = 'NOTES/mirror'");
    let client = hooked.house.client();
    let notes = hooked.notes.path().to_owned();
    let import = |folder: &str| -> ImportDetails {
        let source = notes.join(folder);
        fs::create_dir_all(&source).unwrap();
        let new =
            NewImport { source: source.to_str().unwrap().to_owned(), in_place: true, ..NewImport::default() };
        let begun: ImportSummary = client.0.post(&clients::START_IMPORT.path(&[]), &new).value();
        eventually("it should end", || {
            let details: ImportDetails = client.0.get(&clients::IMPORT.path(&[&begun.import])).value();
            (details.summary.state != ImportState::Running).then_some(details)
        })
    };
    let refused = import("mirror").summary;
    assert_eq!(refused.state, ImportState::Failed);
    assert!(refused.error.unwrap().contains("“mirror” pushes to"));
    // There is nothing in it yet.
    assert!(import("taken").summary.error.unwrap().contains("narinfo"));

    // The other way round, the coordinator does not start.
    let file = hooked.note("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("/mirror'", "/taken/mirror'")).unwrap();
    let folder = hooked.house.end();
    let ended = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["serve", "--state", folder.to_str().unwrap(), "--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let words = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && words.contains("“mirror” pushes to"), "{words}");
    assert!(words.contains("/taken") && words.contains("that an import took over"), "{words}");
}

#[test]
fn a_mirror_that_cannot_be_written_is_tried_again_and_does_not_hold_up_publishing() {
    let hooked = Hooked::start(
        "[hooks.mirror]\nkind = 'push'\nfolder = 'NOTES/mirror'\nfirst-wait-seconds = 1\nlongest-wait-seconds = 1",
    );
    fs::write(hooked.note("mirror/nar"), "no folder").unwrap();
    let agent = hooked.house.agent("one");
    let made = derivation("made", &[]);
    hooked.house.client().submit(&[&made]);
    build_one(&agent, &made);
    let failing = hooked.until("mirror", "it should fail", |hook| hook.last_error.is_some());
    assert!(failing.last_error.unwrap().contains("mirror/nar"));
    assert_eq!(hooked.hook("publish").waiting, 0);
    fs::remove_file(hooked.note("mirror/nar")).unwrap();
    hooked.until_done("mirror");
    let narinfo = format!("mirror/{}.narinfo", made.out.hash_part());
    assert!(Path::new(&hooked.note(&narinfo)).exists());
}

#[test]
fn a_configuration_with_a_hook_that_cannot_be_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (config, said) in [
        (
            "[hooks.tell]\nkind = 'command'\non = ['published']\nprogram = '/no/such/program'",
            "/no/such/program",
        ),
        ("[hooks.tell]\nkind = 'command'\non = ['build-failed']\nprogram = '/bin/sh'", "build-failed"),
        ("[hooks.tell]\nkind = 'whisper'", "whisper"),
        ("[hooks.tell]", "“tell”"),
        (
            "[hooks.one]\nkind = 'push'\nfolder = '/srv/mirror'\n[hooks.two]\nkind = 'push'\nfolder = '/srv/mirror/'",
            "“one”",
        ),
        (
            "[hooks.one]\nkind = 'push'\nfolder = '/srv/nars/mirror'\n[[places]]\nname = 'large'\nfolder = '/srv/nars'",
            "“large”",
        ),
    ] {
        fs::write(&file, config).unwrap();
        let ended = Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(["serve", "--state", folder.path().to_str().unwrap(), "--config", file.to_str().unwrap()])
            .output()
            .unwrap();
        let words = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{words}");
        assert!(words.contains(said), "{config}: {words}");
    }
}
