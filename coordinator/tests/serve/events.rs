//! Events, as they are read while things happen and afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::thread;

use drover_wire::agent::{Heartbeat, Machine, Progress, Report};
use drover_wire::client::{Submission, Submitted, Wanted};
use drover_wire::event::{EventKind, FarmEvent, FarmState};
use drover_wire::route::{agents, clients};
use drover_wire::{BuildState, Code, LeaseId, Phase};

use crate::agent::Agent;
use crate::graph::{Made, derivation, output};
use crate::hooks::eventually;
use crate::house::House;
use crate::peer::Peer;

/// Reads a stream of events.
struct Reader<R> {
    lines: std::io::Lines<BufReader<R>>,
    /// The last number that was said.
    id: Option<u64>,
}

impl<R: std::io::Read> Reader<R> {
    fn new(stream: R) -> Self {
        Self { lines: BufReader::new(stream).lines(), id: None }
    }

    /// The next event; none at the end of the stream.
    fn next(&mut self) -> Option<FarmEvent> {
        let (mut data, mut kind) = (None, None);
        while let Some(Ok(line)) = self.lines.next() {
            match line.split_once(':') {
                Some(("id", id)) => self.id = Some(id.trim().parse().unwrap()),
                Some(("event", word)) => kind = Some(word.trim().parse::<EventKind>().unwrap()),
                Some(("data", json)) => data = Some(serde_json::from_str::<FarmEvent>(json).unwrap()),
                _ if line.is_empty() => {
                    if let Some(event) = data {
                        assert_eq!((Some(event.id), Some(event.kind)), (self.id, kind), "{event:?}");
                        return Some(event);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The next event of this kind.
    #[track_caller]
    fn find(&mut self, kind: EventKind) -> FarmEvent {
        loop {
            let event = self.next().expect("the stream goes on");
            if event.kind == kind {
                return event;
            }
        }
    }

    fn rest(mut self) -> Vec<FarmEvent> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn follow(peer: &Peer, query: &str) -> Reader<ureq::BodyReader<'static>> {
    let mut reader = Reader::new(peer.stream(&format!("{}?{query}", clients::EVENTS.path(&[]))));
    // What is read from here on is listened to already.
    while reader.id.is_none() {
        let line = reader.lines.next().unwrap().unwrap();
        reader.id = line.strip_prefix("id: ").map(|id| id.parse().unwrap());
    }
    reader
}

/// All that there is now.
fn all(peer: &Peer, query: &str) -> Vec<FarmEvent> {
    follow(peer, &format!("once=true&since=0&{query}")).rest()
}

fn kinds(events: &[FarmEvent]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

fn heartbeat(agent: &Agent, lease: LeaseId, phase: Phase) {
    let beat =
        Heartbeat { accepting: 1, machine: Machine::default(), leases: vec![Progress { lease, phase }] };
    assert_eq!(agent.0.post(&agents::HEARTBEAT.path(&[]), &beat).status, 200);
}

fn submit_tagged(house: &House, made: &Made, tags: &[(&str, &str)]) -> drover_wire::BuildId {
    let client = house.client();
    client.submit(&[made]);
    let wanted = Wanted {
        derivation: made.path.clone(),
        priority: 0,
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        timeout: None,
        max_silent_time: None,
    };
    let submission = Submission { builds: vec![wanted] };
    let submitted: Submitted = client.0.post(&clients::SUBMIT.path(&[]), &submission).value();
    submitted.builds[0].build
}

#[test]
fn a_build_is_told_of_from_its_submission_to_its_end_as_it_happens() {
    use EventKind::*;

    let house = House::start();
    let client = house.client();
    let mut events = follow(&client.0, "");
    let made = derivation("made", &[]);
    let build = client.submit(&[&made]);
    let submitted = events.next().unwrap();
    assert_eq!((submitted.kind, submitted.build), (BuildSubmitted, Some(build)));
    assert_eq!(
        (&submitted.derivation, submitted.system.as_deref()),
        (&Some(made.path.clone()), Some("x86_64-linux"))
    );
    let agent = house.agent("one");
    let seen = events.next().unwrap();
    assert_eq!((seen.kind, seen.agent.as_deref(), seen.build), (AgentSeen, Some("one"), None));
    let lease = agent.allocation().lease;
    let allocated = events.next().unwrap();
    assert_eq!(
        (allocated.kind, allocated.agent.as_deref(), allocated.attempt),
        (BuildAllocated, Some("one"), Some(1))
    );
    heartbeat(&agent, lease, Phase::FetchingInputs);
    let phase = events.next().unwrap();
    assert_eq!((phase.kind, phase.detail.phase), (BuildPhase, Some(Phase::FetchingInputs)));
    // Said again, it is no event.
    heartbeat(&agent, lease, Phase::FetchingInputs);
    heartbeat(&agent, lease, Phase::Building);
    assert_eq!([events.next().unwrap().kind, events.next().unwrap().kind], [BuildStarted, BuildPhase]);
    let (declared, nar) = output(&made.out, b"made", &[]);
    agent.succeed(lease, &declared, &nar);
    let ended = events.next().unwrap();
    assert_eq!((ended.kind, ended.build, ended.agent.as_deref()), (BuildSuccess, Some(build), Some("one")));
    let published = events.next().unwrap();
    assert_eq!((published.kind, published.item), (Published, Some(made.out.clone())));
    // What was told as it happened is what is kept.
    let ids: Vec<u64> = all(&client.0, "").iter().map(|event| event.id).collect();
    assert_eq!(ids.first(), Some(&submitted.id));
    assert_eq!(ids.last(), Some(&published.id));
    assert!(ids.windows(2).all(|two| two[0] < two[1]), "{ids:?}");
}

#[test]
fn a_build_that_comes_back_fails_or_is_canceled_and_what_waits_for_it_are_told_of() {
    use EventKind::*;

    let house = House::start();
    let client = house.client();
    let (lower, other) = (derivation("lower", &[]), derivation("other", &[]));
    let upper = derivation("upper", &[&lower]);
    let wanted = client.submit(&[&lower, &upper]);
    let agent = house.agent("one");
    agent.allocation();
    // The agent has lost it.
    agent.hello(&[]);
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    let canceled = client.submit(&[&other]);
    client.cancel(canceled);
    let events = all(&client.0, "");
    let told = |kind| -> Vec<&FarmEvent> { events.iter().filter(|event| event.kind == kind).collect() };
    let requeued = told(BuildRequeued);
    assert_eq!((requeued.len(), requeued[0].agent.as_deref()), (1, Some("one")), "{events:?}");
    assert!(requeued[0].detail.text.as_deref().unwrap().contains("without the build"));
    let failed = told(BuildFailure);
    assert_eq!(
        (failed.len(), failed[0].detail.state, failed[0].attempt),
        (1, Some(BuildState::Failed), Some(2))
    );
    assert_eq!(told(BuildDependencyFailed)[0].build, Some(wanted));
    assert_eq!(told(BuildCanceled)[0].build, Some(canceled));
    // It is tried again: what had failed with it goes on.
    client.submit(&[&lower]);
    let reopened = all(&client.0, "kind=build-reopened");
    assert_eq!(reopened.iter().map(|event| event.build).collect::<Vec<_>>(), [Some(wanted)]);
}

#[test]
fn who_was_cut_off_goes_on_where_it_was_also_after_a_crash() {
    let mut house = House::start();
    let client = house.client();
    let mut events = follow(&client.0, "");
    let start = events.id.unwrap();
    client.submit(&[&derivation("one", &[])]);
    let first = events.next().unwrap();
    drop(events);
    client.submit(&[&derivation("two", &[])]);
    house.crash_and_restart();
    let client = house.client();
    client.submit(&[&derivation("three", &[])]);
    let names = |events: &[FarmEvent]| -> Vec<String> {
        let names = events.iter().filter_map(|event| Some(event.derivation.as_ref()?.name().to_owned()));
        names.collect()
    };
    let mut events = follow(&client.0, &format!("since={}", first.id));
    let mut missed = vec![events.next().unwrap(), events.next().unwrap()];
    client.submit(&[&derivation("four", &[])]);
    missed.push(events.next().unwrap());
    assert_eq!(names(&missed), ["two.drv", "three.drv", "four.drv"]);
    // The header goes before the query: it is what a browser sends when it comes back to the same address.
    let header = format!("Last-Event-ID: {}\r\n", missed[1].id);
    let path = format!("{}?once=true&since={start}", clients::EVENTS.path(&[]));
    let mut connection = client.0.open("GET", &path, &format!("{header}Connection: close\r\n"));
    let head = connection.head();
    assert!(
        head[0].contains("200") && head.iter().any(|line| line.to_lowercase().ends_with("text/event-stream")),
        "{head:?}"
    );
    let rest: Vec<String> =
        std::iter::from_fn(|| Some(connection.line())).take_while(|line| line != "0").collect();
    let data: Vec<&String> = rest.iter().filter(|line| line.starts_with("data: ")).collect();
    assert!(data.len() == 1 && data[0].contains("four.drv"), "{rest:?}");
}

#[test]
fn what_was_never_there_or_is_not_kept_any_more_is_told_as_a_gap() {
    let house = House::start();
    let client = house.client();
    for name in ["one", "two", "three"] {
        client.submit(&[&derivation(name, &[])]);
    }
    let last = all(&client.0, "").last().unwrap().id;
    let reset = |query: &str| {
        let events = follow(&client.0, &format!("once=true&{query}")).rest();
        assert_eq!(kinds(&events), [EventKind::Reset], "{query}: {events:?}");
        assert_eq!(events[0].id, last);
        let said = events[0].detail.text.clone().unwrap();
        assert!(said.contains("GET /state"), "{said}");
        said
    };
    assert!(reset(&format!("since={}", last + 1)).contains("no event"));
    reset(&format!("since={}", u64::MAX));
    assert_eq!(follow(&client.0, &format!("once=true&since={last}")).rest(), []);
    house
        .database()
        .execute("DELETE FROM events WHERE id <= ?1", [i64::try_from(last - 1).unwrap()])
        .unwrap();
    assert!(reset("since=0").contains("not all kept"));
    // A filter hides no gap.
    reset("since=0&kind=agent-lost");
    assert_eq!(follow(&client.0, &format!("once=true&since={}", last - 1)).rest().len(), 1);
    // A header that no coordinator gave.
    for strange in ["abc", "-1", "99999999999999999999999", "\u{fc}"] {
        let header = format!("Last-Event-ID: {strange}\r\nConnection: close\r\n");
        let mut connection = client.0.open("GET", "/events?once=true", &header);
        assert!(connection.head()[0].contains("200"));
        let lines: Vec<String> =
            std::iter::from_fn(|| Some(connection.line())).take_while(|line| line != "0").collect();
        assert!(lines.iter().any(|line| line == "event: reset"), "{strange}: {lines:?}");
    }
}

#[test]
fn only_what_is_asked_for_is_sent_and_who_asks_wrongly_hears_it() {
    let house = House::start();
    let client = house.client();
    let made = derivation("made", &[]);
    let build = submit_tagged(&house, &made, &[("branch", "master")]);
    let agent = house.agent("one");
    let uuid = client.show(build);
    assert_eq!(uuid.summary.state, BuildState::Ready);
    agent.allocation();
    client.submit(&[&derivation("other", &[])]);
    let count = |query: &str| all(&client.0, query).len();
    assert_eq!(count("kind=build-submitted"), 2);
    assert_eq!(count("kind=build-submitted,agent-seen"), 3);
    assert_eq!(kinds(&all(&client.0, "agent=one")), [EventKind::AgentSeen, EventKind::BuildAllocated]);
    assert_eq!((count("agent=nobody"), count("tag=branch"), count("tag=branch%3Dmaster")), (0, 2, 2));
    assert_eq!(
        (count("tag=branch%3Dother"), count("system=x86_64-linux"), count("system=i586-gnu")),
        (0, 3, 0)
    );
    assert_eq!(count(&format!("build={build}&kind=build-allocated")), 1);
    for (wrong, said) in [
        ("since=x", "invalid"),
        ("kind=all", "agent-lost"),
        ("build=1", "build"),
        ("since=-1", "invalid"),
        ("since=99999999999999999999999", "too large"),
        ("since=", "empty"),
    ] {
        let problem = client.0.get(&format!("/events?{wrong}")).refused(Code::BadRequest);
        assert!(problem.message.contains(said), "{wrong}: {problem}");
    }
    Peer::new(house.clients, "").get("/events").refused(Code::Unauthorized);
    Peer::new(house.clients, "").get("/state").refused(Code::Unauthorized);
    assert_eq!(house.stranger().get("/events").status, 404);
}

#[test]
fn a_reader_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let house = House::start();
    let client = house.client();
    // Each event is of some size.
    let value = "x".repeat(1000);
    let tags: Vec<(String, &str)> = (0..60).map(|n| (format!("tag-{n}"), value.as_str())).collect();
    let tags: Vec<(&str, &str)> = tags.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let build = submit_tagged(&house, &derivation("made", &[]), &tags);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let sluggard = client.0.stream(&clients::EVENTS.path(&[]));
    let mut follower = follow(&client.0, &format!("kind=build-phase&build={build}"));
    // More than all that lies between the two ends can hold, and than a reader may be behind.
    for _ in 0..30 {
        for _ in 0..20 {
            heartbeat(&agent, lease, Phase::FetchingInputs);
            heartbeat(&agent, lease, Phase::Queued);
        }
        for _ in 0..40 {
            follower.find(EventKind::BuildPhase);
        }
    }
    let mut sluggard = Reader::new(sluggard);
    let mut seen: Vec<u64> = std::iter::from_fn(|| sluggard.next()).map(|event| event.id).collect();
    let ids: Vec<u64> = all(&client.0, "").iter().map(|event| event.id).collect();
    let last = *seen.last().unwrap();
    assert!(last < *ids.last().unwrap(), "a reader that did not read had all in the end: where was it kept?");
    // It comes back, and has the rest.
    let rest = follow(&client.0, &format!("once=true&since={last}")).rest();
    seen.extend(rest.iter().map(|event| event.id));
    let first = ids.iter().position(|id| *id == seen[0]).unwrap();
    assert_eq!(seen, ids[first..]);
}

#[test]
fn readers_that_stay_do_not_keep_the_coordinator_from_stopping() {
    let house = House::start();
    let client = house.client();
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut reader = follow(&client.0, "");
            thread::spawn(move || reader.next())
        })
        .collect();
    house.terminate();
    assert!(house.wait().success());
    assert!(readers.into_iter().all(|reader| reader.join().unwrap().is_none()));
}

#[test]
fn the_snapshot_says_how_the_farm_stands_and_at_which_event() {
    let house = House::start();
    let client = house.client();
    client.submit(&[&derivation("one", &[])]);
    let agent = house.agent("worker");
    agent.allocation();
    client.submit(&[&derivation("two", &[])]);
    let state: FarmState = client.0.get("/state").value();
    assert_eq!(Some(state.event), all(&client.0, "").last().map(|event| event.id));
    let counts = BTreeMap::from([(BuildState::Ready, 1), (BuildState::Allocated, 1)]);
    assert_eq!(state.builds, counts);
    assert_eq!((state.agents.len(), state.agents[0].builds.len()), (1, 1));
    assert!(state.agents[0].online && state.hooks.iter().any(|hook| hook.hook.as_str() == "publish"));
    assert_eq!(state.places.len(), 1);
}

#[test]
fn an_agent_that_is_not_heard_of_is_told_of_once_and_again_when_it_comes_back() {
    use EventKind::*;

    let mut house = House::with(&["--lease-seconds", "2", "--heartbeat-seconds", "1", "--poll-seconds", "1"]);
    let agent = house.agent("one");
    let mut events = follow(&house.client().0, "since=0&agent=one");
    assert_eq!(events.next().unwrap().kind, AgentSeen);
    assert_eq!(events.next().unwrap().kind, AgentLost);
    agent.hello(&[]);
    assert_eq!(events.next().unwrap().kind, AgentSeen);
    // A coordinator that was away misses it, too.
    house.crash_and_restart();
    let mut events = follow(&house.client().0, &format!("since={}&agent=one", events.id.unwrap()));
    assert_eq!(events.next().unwrap().kind, AgentLost);
}

#[test]
fn what_an_agent_does_is_told_once_though_the_coordinator_crashes_and_again_if_it_could_not_be_told() {
    let mut house = House::start();
    let client = house.client();
    client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let phases = |house: &House| -> Vec<Phase> {
        let told = all(&house.client().0, "kind=build-phase");
        told.iter().filter_map(|event| event.detail.phase).collect()
    };
    let mut events = follow(&client.0, "kind=build-phase");
    heartbeat(&agent, lease, Phase::FetchingInputs);
    events.next().unwrap();
    house.crash_and_restart();
    let agent = Agent(agent.0.moved_to(house.agents));
    let mut events = follow(&house.client().0, "kind=build-phase,build-started");
    heartbeat(&agent, lease, Phase::FetchingInputs);
    // The database does not take it.
    house
        .database()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind IN ('build-phase', 'build-started') \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    heartbeat(&agent, lease, Phase::Building);
    house.database().execute_batch("DROP TRIGGER full").unwrap();
    let told = thread::spawn(move || [events.next().unwrap().kind, events.next().unwrap().kind]);
    while !told.is_finished() {
        heartbeat(&agent, lease, Phase::Building);
    }
    assert_eq!(told.join().unwrap(), [EventKind::BuildStarted, EventKind::BuildPhase]);
    assert_eq!(phases(&house), [Phase::FetchingInputs, Phase::Building]);
}

#[test]
fn that_an_agent_is_there_is_told_when_it_can_be_and_before_what_it_gets() {
    use EventKind::*;

    let house = House::start();
    let client = house.client();
    client.submit(&[&derivation("made", &[])]);
    house
        .database()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'agent-seen' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    let agent = house.agent("one");
    assert_eq!(all(&client.0, "agent=one"), []);
    house.database().execute_batch("DROP TRIGGER full").unwrap();
    agent.allocation();
    agent.hello(&[]);
    assert_eq!(kinds(&all(&client.0, "agent=one"))[..2], [AgentSeen, BuildAllocated]);
    assert_eq!(all(&client.0, "kind=agent-seen").len(), 1);
}

#[test]
fn an_agent_is_found_by_name_and_by_uuid_also_when_it_comes_or_is_named_later() {
    let house = House::start();
    let client = house.client();
    let uuid = "6d3f2a60-0b6b-4b6e-9a53-0d7e2f6c1b11";
    let mut readers = [uuid, "late"].map(|who| follow(&client.0, &format!("agent={who}")));
    let agent = house.agent("early");
    client.submit(&[&derivation("made", &[])]);
    let bytes = uuid::Uuid::parse_str(uuid).unwrap();
    house
        .database()
        .execute("UPDATE agents SET uuid = ?1, name = 'late'", [bytes.as_bytes().as_slice()])
        .unwrap();
    agent.allocation();
    for reader in &mut readers {
        let event = reader.next().unwrap();
        assert_eq!((event.kind, event.agent.as_deref()), (EventKind::BuildAllocated, Some("late")));
    }
    assert_eq!(all(&client.0, "agent=early"), []);
    assert_eq!(all(&client.0, &format!("agent={uuid}")), all(&client.0, "agent=late"));
}

#[test]
fn a_place_that_fills_up_and_a_hook_that_fails_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(
        &config,
        "storage-low-mib = 1000000000\n[hooks.broken]\nkind = \"command\"\non = [\"build-submitted\"]\n\
         program = \"/bin/false\"\n",
    )
    .unwrap();
    let house = House::with(&["--config", config.to_str().unwrap(), "--log-json"]);
    let client = house.client();
    let mut events = follow(&client.0, "since=0&kind=storage-low,hook-failing");
    let low = events.next().unwrap();
    assert_eq!(low.kind, EventKind::StorageLow);
    assert!(low.detail.place.is_some() && low.detail.room.is_some(), "{low:?}");
    // The first time that it could be told, the database does not take it.
    house
        .database()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'hook-failing' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    let build = client.submit(&[&derivation("made", &[])]);
    eventually("it should be refused", || house.log().contains("looking after hooks failed").then_some(()));
    house.database().execute_batch("DROP TRIGGER full").unwrap();
    let failing = events.next().unwrap();
    assert_eq!((failing.kind, failing.build), (EventKind::HookFailing, Some(build)));
    assert_eq!(failing.detail.hook.as_ref().map(|hook| hook.as_str()), Some("broken"));
}

#[test]
fn a_browser_that_asks_in_its_way_gets_a_stream_that_no_proxy_keeps_back() {
    let house = House::start();
    let mut connection =
        house.client().0.open("GET", "/events", "Accept: text/event-stream\r\nAccept-Encoding: gzip\r\n");
    let head = connection.head().join("\n").to_lowercase();
    for line in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("content-encoding"), "{head}");
}
