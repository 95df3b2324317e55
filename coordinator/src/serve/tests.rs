//! Answers that go on and on: a real listener and real connections, with shorter waits.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use drover_store::StorePath;
use drover_store::derivation::{Derivation, Fixed, Output};
use drover_wire::agent::{Hello, Poll};
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{NewAgent, Submission, Wanted};
use drover_wire::route::clients::{EVENTS, LOG};
use drover_wire::route::pages::BUILD_LOG_LIVE;
use drover_wire::{BuildId, LeaseId, PROTOCOL};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use super::listen::{self, Listener};
use super::router;
use crate::config::Config;
use crate::farm::Farm;
use crate::farm::change::AgentRow;

/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(20);
/// After which a test fails rather than hang.
const TOO_LONG: Duration = Duration::from_secs(60);

/// A farm and its listener for clients.
struct Door {
    farm: Arc<Farm>,
    address: SocketAddr,
    token: String,
    runtime: Runtime,
    _folder: TempDir,
}

impl Door {
    fn open(listener: impl FnOnce() -> std::io::Result<Listener>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // However full this machine is, no event tells of it.
        let (state, storage_low_mib) = (folder.path().to_owned(), 0);
        let config = Config { state, storage_low_mib, disk_reserve_mib: 0, ..Config::default() };
        let runtime = Runtime::new().unwrap();
        let within = runtime.enter();
        let farm = Farm::open_with(config, BEAT).unwrap();
        let token = std::fs::read_to_string(farm.first_client_token().unwrap().unwrap()).unwrap();
        farm.start_tasks();
        let listener = listener().unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(listen::serve(listener, router::for_clients(&farm), farm.stopping()));
        drop(within);
        Self { farm, address, token: token.trim().to_owned(), runtime, _folder: folder }
    }

    fn with_token(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    fn send(&self, stream: TcpStream, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        stream.set_read_timeout(Some(TOO_LONG)).unwrap();
        let mut answer = Answer(BufReader::with_capacity(1, stream));
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: farm\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        answer.0.get_mut().write_all(head.as_bytes()).unwrap();
        answer
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        self.send(TcpStream::connect(self.address).unwrap(), "GET", path, headers, "")
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let headers = format!("{headers}Content-Type: application/x-www-form-urlencoded\r\n");
        self.send(TcpStream::connect(self.address).unwrap(), "POST", path, &headers, body)
    }

    /// What a browser sends that somebody has logged in now.
    fn log_in(&self) -> String {
        let head = self.post("/login", "", &format!("token={}", self.token)).head(303);
        let cookie = head.iter().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    /// A build that an agent has, with its lease.
    fn build(&self) -> (AgentRow, LeaseId, BuildId) {
        let farm = &self.farm;
        let (path, text) = derivation();
        let mut bundle = Writer::new(Vec::new());
        bundle.entry(Kind::Derivation, &path, text.len() as u64, &text[..]).unwrap();
        let bundle = bundle.finish().unwrap();
        let wanted =
            Wanted { derivation: path, priority: 0, tags: [].into(), timeout: None, max_silent_time: None };
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            systems: vec!["x86_64-linux".to_owned()],
            builtins: vec!["download".to_owned()],
            max_parallel_builds: 1,
            max_allocated_builds: 1,
            holding: Vec::new(),
        };
        self.runtime.block_on(async {
            farm.upload_bundle(std::io::Cursor::new(bundle)).await.unwrap();
            farm.submit(Submission { builds: vec![wanted] }).await.unwrap();
            let agent = farm.new_agent(NewAgent { name: "one".to_owned() }).await.unwrap();
            let agent = farm.live().agent(agent.agent).unwrap();
            farm.hello(&agent, hello).await.unwrap();
            let orders = farm.poll(&agent, Poll { accepting: 1, holding: Vec::new() }).await.unwrap();
            let allocation = &orders.allocations[0];
            (agent, allocation.lease, allocation.build)
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.farm.stop();
    }
}

fn derivation() -> (StorePath, Vec<u8>) {
    let fixed = Fixed { recursive: false, algorithm: "sha256".to_owned(), hash: vec![7; 32] };
    let path = StorePath::parse_base(&format!("{}-x", "0".repeat(32))).unwrap();
    let mut derivation = Derivation {
        outputs: vec![Output { name: "out".to_owned(), path, fixed: Some(fixed) }],
        inputs: Vec::new(),
        sources: Vec::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"builtin:download".to_vec(),
        args: Vec::new(),
        env: Vec::new(),
    };
    let outputs = derivation.outputs_with("made", &[]).unwrap();
    derivation.outputs[0].path = outputs[0].1.clone();
    let text = derivation.print();
    (derivation.path_of_text("made.drv", &text).unwrap(), text)
}

/// An answer that comes line by line. No more is taken from the connection than is read.
struct Answer(BufReader<TcpStream>);

impl Answer {
    /// The next line; none when the connection has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing more comes, and no end: {error}"),
        }
    }

    /// The lines of the head, which has this status.
    #[track_caller]
    fn head(&mut self, status: u16) -> Vec<String> {
        let head: Vec<String> = std::iter::from_fn(|| self.line().filter(|line| !line.is_empty())).collect();
        let said = head.first().and_then(|line| line.split(' ').nth(1));
        assert_eq!(said, Some(status.to_string().as_str()), "{head:?}");
        head
    }

    #[track_caller]
    fn find(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        std::iter::from_fn(|| self.line()).find(|line| wanted(line)).expect("it goes on")
    }

    #[track_caller]
    fn heartbeats(&mut self, count: usize) {
        for _ in 0..count {
            self.find(|line| line == ":");
        }
    }

    /// Reads on until it is broken off, which is not as an answer ends that is whole.
    #[track_caller]
    fn breaks_off(mut self) {
        let rest: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        let before = rest.iter().rev().find(|line| !line.is_empty());
        assert!(before.is_none_or(|line| line != "0"), "it ends as if that were all: {rest:?}");
    }
}

/// The numbers of all events that a text tells of wholly.
fn ids(text: &str) -> Vec<u64> {
    let blocks = text.split("\n\n").filter(|block| block.contains("\ndata: "));
    let whole = blocks.filter(|block| block.ends_with('}'));
    whole.filter_map(|block| block.split("id: ").nth(1)?.split('\n').next()?.parse().ok()).collect()
}

#[test]
fn what_goes_on_breaks_off_after_a_logout_and_the_end_of_a_session_or_a_token() {
    let door = Door::open(|| Listener::bind(([127, 0, 0, 1], 0).into(), None));
    let (agent, lease, build) = door.build();
    let addresses =
        [EVENTS.path(&[]), format!("{}?follow=true", LOG.path(&[&build])), BUILD_LOG_LIVE.path(&[&build])];
    let read = |who: &str| {
        addresses.each_ref().map(|address| {
            let mut answer = door.get(address, who);
            answer.head(200);
            answer
        })
    };
    let (leaving, staying) = (door.log_in(), door.log_in());
    let [mut left, mut stayed, mut program] = [read(&leaving), read(&staying), read(&door.with_token())];
    let mut written = 0;
    let mut go_on = |all: &mut [&mut [Answer; 3]]| {
        let line = format!("line {written} of the log\n");
        let (farm, bytes) = (&door.farm, Bytes::from(line.clone()));
        door.runtime.block_on(farm.append_log(&agent, lease, written, bytes)).unwrap();
        written += line.len() as u64;
        for [events, log, page] in all {
            events.heartbeats(3);
            log.find(|got| got.contains(line.trim_end()));
            page.find(|got| got.contains(line.trim_end()));
        }
    };
    go_on(&mut [&mut left, &mut stayed, &mut program]);
    go_on(&mut [&mut left, &mut stayed, &mut program]);
    door.post("/logout", &leaving, "").head(303);
    left.into_iter().for_each(Answer::breaks_off);
    go_on(&mut [&mut stayed, &mut program]);
    door.farm.change("UPDATE sessions SET ends_at = 1");
    stayed.into_iter().for_each(Answer::breaks_off);
    go_on(&mut [&mut program]);
    let last = door.log_in();
    let mut with_it = read(&last);
    go_on(&mut [&mut with_it, &mut program]);
    door.farm.change("DELETE FROM tokens WHERE kind = 'client'");
    program.into_iter().chain(with_it).for_each(Answer::breaks_off);
    for nobody in [leaving, staying, last, door.with_token()] {
        door.get("/events", &nobody).head(401);
    }
}

#[test]
fn a_reader_to_whom_nothing_happens_that_it_wants_hears_that_the_other_end_is_there_and_how_far_it_is() {
    let door = Door::open(|| Listener::bind(([127, 0, 0, 1], 0).into(), None));
    let mut events = door.get("/events?kind=published", &door.with_token());
    events.head(200);
    events.heartbeats(3);
    door.farm.happen(10);
    let mut heard = Vec::new();
    // The comment, and the number of what it did not want, so that it is not gone through again.
    while heard.last().is_none_or(|line| line != "id: 1") {
        heard.push(events.line().expect("it goes on"));
    }
    let of_chunks = |line: &&String| !line.is_empty() && !line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut heard: Vec<&String> = heard.iter().filter(of_chunks).collect();
    heard.dedup();
    assert!(heard.iter().all(|line| [":", "id: 0", "id: 1"].contains(&line.as_str())), "{heard:?}");
}

#[test]
fn a_reader_that_reads_byte_by_byte_holds_up_nobody_is_cut_off_and_can_go_on() {
    // What lies in one connection at most: in its ends, and on the way there as one piece and what hyper has before it. The
    // pages behind that are there once for all.
    const HELD: u64 = (1 << 20) / EVENT as u64;
    const EVENT: usize = 8 << 10;
    const AT_ONCE: u64 = 20;
    let door = Door::open(|| Listener::narrow(Duration::from_secs(1)));
    let slow = door.runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.connect(door.address).await.unwrap().into_std().unwrap()
    });
    slow.set_nonblocking(false).unwrap();
    let mut slow = door.send(slow, "GET", "/events?since=0", &door.with_token(), "");
    slow.head(200);
    let mut follower = door.get("/events?since=0", &door.with_token());
    follower.head(200);
    let stream = &door.farm.numbers().stream;
    let (mut happened, mut read) = (0, Vec::<u8>::new());
    let start = Instant::now();
    while stream.readers.get() > 1 || happened < 4 * HELD {
        for _ in 0..AT_ONCE {
            door.farm.happen(EVENT);
        }
        happened += AT_ONCE;
        follower.find(|line| line == format!("id: {happened}"));
        follower.find(|line| line.starts_with("data: "));
        let taken = stream.sent.get() - happened;
        assert!(taken <= HELD, "{taken} events were taken by a reader that read {} bytes", read.len());
        let mut byte = [0];
        // It may have been cut off, and have had all by then.
        if slow.0.read(&mut byte).is_ok_and(|count| count == 1) {
            read.push(byte[0]);
        }
        assert!(start.elapsed() < TOO_LONG, "it is never cut off");
    }
    // What was on the way to it is all that it has; the rest it gets when it comes back.
    let mut rest = Vec::new();
    let _ = slow.0.read_to_end(&mut rest);
    let mut seen = ids(std::str::from_utf8(&[read, rest].concat()).unwrap());
    let last = *seen.last().unwrap();
    assert!(last <= HELD, "{last} of {happened}");
    let header = format!("{}Last-Event-ID: {last}\r\nConnection: close\r\n", door.with_token());
    let mut answer = door.get("/events?since=0&once=true", &header);
    answer.head(200);
    let mut rest = String::new();
    answer.0.read_to_string(&mut rest).unwrap();
    seen.extend(ids(&rest));
    assert!(seen.iter().copied().eq(1..=happened), "a gap, or something twice: {seen:?}");
}
