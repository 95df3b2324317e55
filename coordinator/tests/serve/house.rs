//! A real coordinator in a folder of its own.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use drover_wire::client::{AgentSummary, NewAgent, Secret};
use drover_wire::route::clients;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::client::Client;
use crate::peer::Peer;

/// What a coordinator with a log of JSON has said is in this file of its folder.
const LOG: &str = "stderr";
const RESERVE: &str = "--disk-reserve-mib";

/// A running coordinator; dropped, it is killed.
pub(crate) struct House {
    pub(crate) folder: TempDir,
    pub(crate) agents: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) public: SocketAddr,
    /// Where numbers are read without a token, if the flags have it.
    pub(crate) metrics: Option<SocketAddr>,
    flags: Vec<String>,
    child: Child,
}

impl House {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With these flags of `drover serve`.
    pub(crate) fn with(flags: &[&str]) -> Self {
        Self::logging_to(None, flags)
    }

    /// With a standard error of its own.
    pub(crate) fn logging_to(log: Option<Stdio>, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (child, [agents, clients, public], metrics) = spawn(&folder, &flags, log);
        Self { folder, agents, clients, public, metrics, flags, child }
    }

    /// Ends it as if the power had failed, and starts it again, at other ports.
    pub(crate) fn crash_and_restart(&mut self) {
        self.end();
        (self.child, [self.agents, self.clients, self.public], self.metrics) =
            spawn(&self.folder, &self.flags, None);
    }

    /// Ends it, and leaves its folder.
    pub(crate) fn end(&mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.folder.path().to_owned()
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
    }

    /// How it ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("client-token")).unwrap().trim().to_owned()
    }

    /// What it has logged, if that is JSON.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(LOG)).unwrap()
    }

    /// The operator.
    pub(crate) fn client(&self) -> Client {
        Client(Peer::new(self.clients, &format!("Bearer {}", self.token())))
    }

    /// Everybody.
    pub(crate) fn stranger(&self) -> Peer {
        Peer::new(self.public, "")
    }

    /// Its database, beside it.
    pub(crate) fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.folder.path().join("drover.sqlite")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        database
    }

    /// A new agent with a password, which has said hello.
    pub(crate) fn agent(&self, name: &str) -> Agent {
        let client = self.client();
        let new = NewAgent { name: name.to_owned() };
        let agent: AgentSummary = client.0.post(&clients::NEW_AGENT.path(&[]), &new).value();
        let secret: Secret = client.0.post(&clients::PASSWORD.path(&[&agent.agent]), &()).value();
        let pair = format!("{}:{}", agent.agent, secret.secret);
        let basic = format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        let agent = Agent(Peer::new(self.agents, &basic));
        agent.hello(&[]);
        agent
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_file(folder: &TempDir) -> Stdio {
    let mut open = OpenOptions::new();
    open.create(true).append(true).open(folder.path().join(LOG)).unwrap().into()
}

fn spawn(
    folder: &TempDir,
    flags: &[String],
    log: Option<Stdio>,
) -> (Child, [SocketAddr; 3], Option<SocketAddr>) {
    let usual = || match flags.iter().any(|flag| flag == "--log-json") {
        true => log_file(folder),
        false => Stdio::inherit(),
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_drover"))
        .arg("serve")
        .arg("--state")
        .arg(folder.path())
        .args([
            "--agents-listen",
            "127.0.0.1:0",
            "--clients-listen",
            "127.0.0.1:0",
            "--public-listen",
            "127.0.0.1:0",
        ])
        .args(if flags.iter().any(|flag| flag == RESERVE) { &[][..] } else { &[RESERVE, "1"] })
        // However full this machine is, no event tells of it; but for a file that says when one does.
        .args(if flags.iter().any(|flag| flag == "--config") { &[][..] } else { &["--storage-low-mib", "0"] })
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.unwrap_or_else(usual))
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = |whom: &str| {
        let start = format!("listening for {whom} on ");
        let found = lines.by_ref().find_map(|line| Some(line.unwrap().strip_prefix(&start)?.to_owned()));
        found.expect("it says where it listens").parse().unwrap()
    };
    let addresses = ["agents", "clients", "everybody"].map(&mut address);
    let metrics = flags.iter().any(|flag| flag == "--metrics-listen").then(|| address("metrics"));
    (child, addresses, metrics)
}
