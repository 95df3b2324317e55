//! A stand-in for the coordinator's listener, for what the real one does not do on demand: break off, lie, go away.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use drover_store::Derivation;
use drover_wire::bundle::{self, Kind};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "a-client-token";

/// What a client asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) range: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

/// What it is answered: so many of the bytes are really sent.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) hangs: bool,
}

impl Reply {
    pub(crate) fn bytes(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), sent: usize::MAX, hangs: false }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::bytes(200, value.to_string())
    }

    pub(crate) fn problem(status: u16, code: &str, message: &str) -> Self {
        Self { status, ..Self::json(&json!({"code": code, "message": message})) }
    }

    /// Breaks off after so many bytes of the body.
    pub(crate) fn cut(self, sent: usize) -> Self {
        Self { sent, ..self }
    }

    /// Falls silent after so many bytes of the body, until the client hangs up.
    pub(crate) fn hang_after(self, sent: usize) -> Self {
        Self { sent, hangs: true, ..self }
    }

    /// Hangs up without a word.
    pub(crate) fn none() -> Self {
        Self::bytes(0, "")
    }
}

/// A listener whose answers a test makes.
pub(crate) struct Double {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Double {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { url, requests }
    }

    /// Everything that was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.requests().iter().filter(|request| request.is(method, path)).count()
    }
}

fn serve(stream: TcpStream, answer: &(dyn Fn(&Request) -> Reply + Send + Sync), log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let go_on = || (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    let Some((request, authorized)) = read(&mut reader, go_on) else { return };
    let reply = if authorized {
        log.lock().unwrap().push(request.clone());
        answer(&request)
    } else {
        Reply::problem(
            401,
            "unauthorized",
            "the client token is not one of this coordinator's: see its first start",
        )
    };
    if reply.status == 0 {
        return;
    }
    let head = format!(
        "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        reply.status,
        reply.body.len()
    );
    let mut stream = stream;
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&reply.body[..reply.sent.min(reply.body.len())]);
    if reply.hangs {
        let _ = reader.read(&mut [0]);
    }
}

fn read(reader: &mut impl BufRead, go_on: impl Fn()) -> Option<(Request, bool)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (mut length, mut chunked, mut range, mut authorized) = (0, false, None, false);
    let mut waits = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "transfer-encoding" => chunked = true,
            "expect" => waits = true,
            "range" => range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "authorization" => authorized = value == format!("Bearer {TOKEN}"),
            _ => {}
        }
    }
    if waits {
        go_on();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    Some((Request { method, path: path.to_owned(), query: query.to_owned(), range, body }, authorized))
}

/// The part of a coordinator that takes submissions.
#[derive(Debug, Default)]
pub(crate) struct Farm {
    /// Base names of what it has.
    pub(crate) known: HashSet<String>,
    /// Base names of sources that derivations which it has lack.
    pub(crate) lacking: Vec<String>,
    /// Base names of what was uploaded, in order.
    pub(crate) uploaded: Vec<String>,
    /// The state that every build is in at once.
    pub(crate) state: &'static str,
    /// The revisions that were submitted, `SET@REVISION`, with their rows as they came.
    pub(crate) revisions: Vec<(String, Vec<Value>)>,
}

pub(crate) const BUILD: &str = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";

impl Farm {
    pub(crate) fn shared(state: &'static str) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { state, ..Self::default() }))
    }

    pub(crate) fn answer(&mut self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/missing") => {
                let question = request.json();
                let paths = question["paths"].as_array().unwrap().iter();
                let missing: Vec<_> = paths.filter(|p| !self.known.contains(base(p))).collect();
                Reply::json(&json!({ "missing": missing }))
            }
            ("GET", "/v1/missing-sources") => {
                let missing = self.lacking.iter().filter(|name| !self.known.contains(*name));
                let missing: Vec<_> = missing.map(|name| format!("/gnu/store/{name}")).collect();
                Reply::json(&json!({ "missing": missing }))
            }
            ("POST", "/v1/bundle") => self.take(&request.body),
            ("POST", "/v1/builds") => {
                let submission = request.json();
                let builds = submission["builds"].as_array().unwrap().iter().map(|wanted| {
                    json!({"derivation": wanted["derivation"], "build": BUILD, "state": self.state, "new": true})
                });
                let builds: Vec<_> = builds.collect();
                Reply::json(&json!({
                    "builds": builds, "for_inputs": 3, "missing_sources": [], "missing_sources_count": 0
                }))
            }
            ("POST", path) if path.starts_with("/v1/sets/") => {
                let (set, revision) = path["/v1/sets/".len()..].split_once("/revisions/").unwrap();
                self.submit_set(set, revision, &request.query, &request.body)
            }
            _ => Reply::problem(404, "not-found", "there is no such route"),
        }
    }

    fn submit_set(&mut self, set: &str, revision: &str, query: &str, body: &[u8]) -> Reply {
        let lines = String::from_utf8(zstd::decode_all(body).unwrap()).unwrap();
        let lines = lines.lines().filter(|line| !line.is_empty());
        let rows: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(query.split('&').any(|field| field == format!("rows={}", rows.len())), "{query}");
        let lacks = |row: &&Value| {
            row.get("derivation").is_some_and(|derivation| !self.known.contains(base(derivation)))
        };
        if let Some(row) = rows.iter().find(lacks) {
            return Reply::problem(422, "missing-derivation", &format!("{row} is not here"));
        }
        let name = format!("{set}@{revision}");
        let before = self.revisions.last().cloned();
        let new = before.as_ref().is_none_or(|(last, _)| *last != name);
        let count = rows.len();
        if new {
            self.revisions.push((name, rows));
        }
        let superseded = before.filter(|_| new).map(|(name, _)| name.split_once('@').unwrap().1.to_owned());
        Reply::json(&json!({
            "set": set, "revision": revision, "superseded": superseded, "new": new, "rows": count,
            "rows_new": 1, "rows_gone": 2, "not_evaluated": 0, "builds": 1200, "for_inputs": 3, "canceled": 7,
            "missing_sources": [], "missing_sources_count": 4
        }))
    }

    /// Takes a bundle, and refuses a derivation that comes before its inputs or its sources.
    fn take(&mut self, body: &[u8]) -> Reply {
        let mut reader = bundle::Reader::new(zstd::Decoder::new(body).unwrap());
        let (mut derivations, mut sources) = (0, 0);
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut contents = Vec::new();
            reader.contents().read_to_end(&mut contents).unwrap();
            if entry.kind == Kind::Derivation {
                derivations += 1;
                for input in Derivation::parse(&contents).unwrap().inputs {
                    if !self.known.contains(input.derivation.base_name()) {
                        return Reply::problem(422, "missing-derivation", "an input comes too late");
                    }
                }
            } else {
                sources += 1;
            }
            self.known.insert(entry.path.base_name().to_owned());
            self.uploaded.push(entry.path.base_name().to_owned());
        }
        Reply::json(&json!({"derivations": derivations, "sources": sources, "known": 0}))
    }
}

fn base(path: &Value) -> &str {
    path.as_str().unwrap().strip_prefix("/gnu/store/").unwrap()
}
