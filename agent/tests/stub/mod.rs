//! A coordinator that does what a test wants, where the real one cannot be made to: it goes away for a while, cuts
//! uploads, and keeps everything that it was told.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

mod http;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use drover_store::path::StorePath;
use drover_wire::agent::{
    Allocation, BundleRequest, Closure, GiveUp, GiveUpReason, Heartbeat, Hello, Orders, Output, Poll,
    Received, Report, Reported, Welcome,
};
use drover_wire::bundle::{self, Kind};
use drover_wire::{BuildState, Code, LeaseId, Phase, Problem};
use serde::Serialize;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that was told, and what is to be answered.
#[derive(Default)]
pub struct Told {
    pub hellos: Vec<Hello>,
    pub polls: Vec<Poll>,
    pub heartbeats: Vec<Heartbeat>,
    pub phases: BTreeMap<LeaseId, Vec<Phase>>,
    pub logs: BTreeMap<LeaseId, Vec<u8>>,
    pub declared: Vec<Output>,
    /// The compressed outputs, as far as they came.
    pub uploads: HashMap<String, Vec<u8>>,
    /// Bytes of outputs that arrived, those that were thrown away included.
    pub uploaded: u64,
    pub reports: Vec<(LeaseId, Report)>,
    pub connections: u32,

    /// To give out.
    pub allocations: Vec<Allocation>,
    /// Given out and not reported; given again to a poll that does not list it.
    pub given: Vec<Allocation>,
    /// How many the agent wants to hold, by its last word.
    pub accepting: u32,
    pub give_up: Vec<GiveUp>,
    pub closures: HashMap<LeaseId, Closure>,
    pub contents: HashMap<StorePath, (Kind, Vec<u8>)>,
    pub nars: HashMap<String, Vec<u8>>,
    pub give_up_at_hello: Vec<LeaseId>,
    /// Every connection is closed without an answer.
    pub away: bool,
    /// Uploads get no answer, as long as it holds.
    pub hold_uploads: bool,
    /// Uploads are cut after so many bytes, each number once.
    pub cuts: Vec<u64>,
}

/// The stub. Its threads end with the test's process.
pub struct Stub {
    pub port: u16,
    told: Mutex<Told>,
    changed: Condvar,
}

impl Stub {
    pub fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stub = Arc::new(Self { port, told: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&stub);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stub = Arc::clone(&serving);
                let stream = stream.unwrap();
                thread::spawn(move || stub.serve(stream));
            }
        });
        stub
    }

    /// Looks at what was told, or changes what is answered.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told());
        self.changed.notify_all();
    }

    /// Waits until something is true.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&mut Told) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut told = self.told();
        loop {
            if let Some(found) = look(&mut told) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {PATIENCE:?}");
            told = self.changed.wait_timeout(told, left).unwrap().0;
        }
    }

    pub fn wait_for_report(&self, lease: LeaseId) -> Report {
        self.wait_for("a report", |told| {
            told.reports.iter().find(|(of, _)| *of == lease).map(|(_, report)| report.clone())
        })
    }

    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        self.change(|told| told.connections += 1);
        let mut stream = BufReader::new(stream);
        while let Ok(Some(request)) = http::head(&mut stream) {
            if self.told().away || self.answer(&request, &mut stream).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &http::Request, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
        let parts: Vec<&str> = request.path.split('/').skip(2).collect();
        let lease = || parts[1].parse::<LeaseId>().unwrap();
        match (request.method.as_str(), parts.as_slice()) {
            ("PATCH", ["leases", _, "log"]) => self.log(lease(), request, stream),
            ("PATCH", ["leases", _, "outputs", item]) => self.upload(item, request, stream),
            ("GET", ["leases", _, "closure"]) => {
                request.bytes(stream)?;
                let closure = self.told().closures.get(&lease()).cloned();
                json(stream, &closure.unwrap())
            }
            ("GET", ["nars", item]) => {
                request.bytes(stream)?;
                let nar = self.told().nars.get(*item).cloned().unwrap();
                http::answer(stream, 200, &nar)
            }
            _ => {
                let body = request.bytes(stream)?;
                self.message(&parts, &body, stream)
            }
        }
    }

    fn message(&self, parts: &[&str], body: &[u8], stream: &mut BufReader<TcpStream>) -> io::Result<()> {
        match parts {
            ["hello"] => {
                let hello: Hello = serde_json::from_slice(body).unwrap();
                let give_up = self.told().give_up_at_hello.clone();
                self.change(|told| told.hellos.push(hello));
                json(
                    stream,
                    &Welcome {
                        agent: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse().unwrap(),
                        name: "stub".into(),
                        version: "0".into(),
                        lease_seconds: 900,
                        heartbeat_seconds: 30,
                        poll_seconds: 30,
                        public_key: String::new(),
                        give_up,
                    },
                )
            }
            ["poll"] => {
                let poll: Poll = serde_json::from_slice(body).unwrap();
                self.change(|told| {
                    told.accepting = poll.accepting;
                    told.polls.push(poll.clone());
                });
                let mut told = self.told();
                loop {
                    let orders = told.orders(&poll.holding);
                    if told.away {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    if orders != Orders::default() {
                        drop(told);
                        return json(stream, &orders);
                    }
                    told = self.changed.wait_timeout(told, PATIENCE).unwrap().0;
                }
            }
            ["heartbeat"] => {
                let heartbeat: Heartbeat = serde_json::from_slice(body).unwrap();
                self.change(|told| {
                    for progress in &heartbeat.leases {
                        let phases = told.phases.entry(progress.lease).or_default();
                        if phases.last() != Some(&progress.phase) {
                            phases.push(progress.phase);
                        }
                    }
                    told.accepting = heartbeat.accepting;
                    told.heartbeats.push(heartbeat);
                });
                json(stream, &Orders::default())
            }
            ["bundle"] => {
                let wanted: BundleRequest = serde_json::from_slice(body).unwrap();
                let mut writer = bundle::Writer::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
                for path in wanted.paths {
                    let (kind, contents) = self.told().contents.get(&path).cloned().unwrap();
                    writer.entry(kind, &path, contents.len() as u64, &contents[..]).unwrap();
                }
                http::answer(stream, 200, &writer.finish().unwrap().finish().unwrap())
            }
            ["leases", _, "outputs"] => {
                let output: Output = serde_json::from_slice(body).unwrap();
                let mut told = self.told();
                let received = told.uploads.get(output.path.base_name()).map_or(0, Vec::len) as u64;
                told.declared.push(output);
                drop(told);
                json(stream, &Received { received, complete: false })
            }
            ["leases", lease, "report"] => {
                let report: Report = serde_json::from_slice(body).unwrap();
                let lease: LeaseId = lease.parse().unwrap();
                self.change(|told| {
                    told.given.retain(|given| given.lease != lease);
                    told.reports.push((lease, report));
                });
                json(stream, &Reported { state: BuildState::Succeeded })
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn log(
        &self,
        lease: LeaseId,
        request: &http::Request,
        stream: &mut BufReader<TcpStream>,
    ) -> io::Result<()> {
        let bytes = request.bytes(stream)?;
        let mut told = self.told();
        let log = told.logs.entry(lease).or_default();
        if request.offset() != log.len() as u64 {
            let mut problem = Problem::new(Code::WrongOffset, "another offset");
            problem.received = Some(log.len() as u64);
            drop(told);
            return http::answer(stream, 416, &serde_json::to_vec(&problem)?);
        }
        log.extend_from_slice(&bytes);
        let received = log.len() as u64;
        drop(told);
        self.changed.notify_all();
        json(stream, &Received { received, complete: false })
    }

    fn upload(
        &self,
        item: &str,
        request: &http::Request,
        stream: &mut BufReader<TcpStream>,
    ) -> io::Result<()> {
        assert_eq!(self.told().uploads.get(item).map_or(0, Vec::len) as u64, request.offset());
        request.body(stream, |piece| {
            let mut told = self.told();
            if told.away {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            told.uploaded += piece.len() as u64;
            self.changed.notify_all();
            let upload = told.uploads.entry(item.to_owned()).or_default();
            upload.extend_from_slice(piece);
            let size = upload.len() as u64;
            if let Some(at) = told.cuts.iter().position(|cut| *cut <= size) {
                told.cuts.remove(at);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Ok(())
        })?;
        let mut told = self.told();
        while told.hold_uploads {
            told = self.changed.wait(told).unwrap();
        }
        let received = told.uploads.get(item).map_or(0, Vec::len) as u64;
        drop(told);
        json(stream, &Received { received, complete: true })
    }
}

impl Told {
    fn orders(&mut self, holding: &[LeaseId]) -> Orders {
        let room = usize::try_from(self.accepting).unwrap().saturating_sub(self.given.len());
        let new = self.allocations.drain(..room.min(self.allocations.len()));
        self.given.extend(new);
        let allocations =
            self.given.iter().filter(|given| !holding.contains(&given.lease)).cloned().collect();
        Orders { allocations, give_up: std::mem::take(&mut self.give_up) }
    }

    pub fn cancel(&mut self, lease: LeaseId) {
        self.give_up.push(GiveUp { lease, reason: GiveUpReason::Canceled });
    }
}

fn json(stream: &mut BufReader<TcpStream>, message: &impl Serialize) -> io::Result<()> {
    http::answer(stream, 200, &serde_json::to_vec(message)?)
}
