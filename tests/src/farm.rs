//! A farm for a test: a real coordinator, real agents and real daemons, on free ports and in a folder of its own, all
//! gone when the test is over.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tools fail by failing the test"
)]

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Client;
use crate::graph::{Graph, Made, host_system};
use crate::ground::Ground;
use crate::http::Peer;
use crate::service::{Service, Start};
use crate::wait;

/// A coordinator with a folder for everything that belongs to the test.
#[derive(Debug)]
pub struct Farm {
    /// The coordinator.
    pub coordinator: Service,
    /// Asks it.
    pub client: Client,
    /// Where agents find it.
    pub agents: SocketAddr,
    /// Where clients find it.
    pub clients: SocketAddr,
    /// Where everybody finds substitutes.
    pub public: SocketAddr,
    state: PathBuf,
    dir: TempDir,
}

/// How a [`Farm`] is made.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Flags of `drover serve` beside those that every farm has.
    pub flags: Vec<String>,
    /// Puts the coordinator's state on a disk of its own of so many bytes.
    pub disk: Option<u64>,
    /// Where the farm's folder is made; the place for temporary files if it is not said.
    pub parent: Option<PathBuf>,
}

impl Farm {
    /// A farm without agents.
    ///
    /// # Panics
    /// When the coordinator does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    /// A farm with these flags of `drover serve`.
    ///
    /// # Panics
    /// When the coordinator does not start.
    #[must_use]
    pub fn with_flags(flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::with(&Setup { flags, ..Setup::default() })
    }

    /// A farm.
    ///
    /// # Panics
    /// When the coordinator does not start.
    #[must_use]
    pub fn with(setup: &Setup) -> Self {
        let parent = setup.parent.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("drover-").tempdir_in(parent).unwrap();
        let state = dir.path().join("coordinator");
        fs::create_dir(&state).unwrap();
        let (coordinator, [agents, clients, public]) = start_coordinator(setup, &state);
        let token =
            fs::read_to_string(seen_by(&coordinator, &state.join("client-token"))).expect("it made a token");
        let peer = Peer::stranger(&format!("http://{clients}")).token(token.trim());
        // Beside the state, where a client finds it whatever disk the state is on.
        fs::write(dir.path().join("token"), token).unwrap();
        Self { coordinator, client: Client { peer }, agents, clients, public, state, dir }
    }

    /// The folder of everything that belongs to the test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's state folder, as the coordinator sees it.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        seen_by(&self.coordinator, &self.state)
    }

    /// Starts the coordinator again after its end, and waits until it answers.
    ///
    /// # Panics
    /// When it still runs, or does not start.
    pub fn restart(&mut self) {
        self.coordinator.restart();
        wait_listening(&mut self.coordinator, &[self.agents, self.clients, self.public]);
    }

    /// A daemon with a store of its own, which takes what this coordinator signs.
    #[must_use]
    pub fn ground(&self, name: &str) -> Ground {
        let ground = self.stranger_ground(name);
        ground.authorize(&self.client.key());
        ground
    }

    /// A daemon with a store of its own, which does not know the coordinator's key.
    #[must_use]
    pub fn stranger_ground(&self, name: &str) -> Ground {
        Ground::start(&self.dir.path().join(name), &[])
    }

    /// [`Farm::ground`] with the machine's network.
    #[must_use]
    pub fn ground_with_network(&self, name: &str) -> Ground {
        let ground = Ground::start_with_network(&self.dir.path().join(name));
        ground.authorize(&self.client.key());
        ground
    }

    /// An agent beside this daemon, with a password of its own and as many builds at a time as said.
    ///
    /// # Panics
    /// When it ends at once.
    #[must_use]
    pub fn agent(&self, name: &str, ground: &Ground, parallel: u32) -> Service {
        let url = format!("http://{}", self.agents);
        Service::start(
            name,
            self.agent_start(name, ground, &url)
                .args(["--max-parallel-builds".to_owned(), parallel.to_string()]),
        )
    }

    /// How an agent is started; the test may add to it.
    ///
    /// # Panics
    /// When the coordinator refuses to have one more.
    #[must_use]
    pub fn agent_start(&self, name: &str, ground: &Ground, url: &str) -> Start {
        let (uuid, password) = self.client.new_agent(name);
        let state = ground.dir.join("agent");
        let password_file = ground.dir.join("password");
        fs::write(&password_file, password).unwrap();
        Start::new(program("drover-agent"))
            .args(["--coordinator", url, "--uuid", &uuid])
            .arg("--password-file")
            .arg(password_file)
            .arg("--state-dir")
            .arg(state)
            .arg("--daemon-socket")
            .arg(&ground.socket)
            .args(["--system", &host_system(), "--max-1min-load-average", "1000"])
    }

    /// Waits until an agent is heard of.
    ///
    /// # Panics
    /// When it is not within [`wait::LONG`].
    #[track_caller]
    pub fn wait_online(&self, name: &str) {
        wait::until(&format!("the agent {name} should be online"), || {
            self.client.agents().iter().any(|agent| agent.name == name && agent.online).then_some(())
        });
    }

    /// Runs a command of the operators' command line.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn drover<S: Into<OsString>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.drover_command(words).output().expect("drover can be run")
    }

    /// A command of the operators' command line, to be run.
    #[must_use]
    pub fn drover_command<S: Into<OsString>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program("drover"));
        command
            .args(words.into_iter().map(Into::into))
            .env("DROVER_COORDINATOR", format!("http://{}", self.clients))
            .env("DROVER_TOKEN_FILE", self.dir.path().join("token"))
            .stdin(Stdio::null());
        command
    }

    /// Writes a graph's files beside everything else, and says where one of them is.
    ///
    /// # Panics
    /// When writing fails.
    #[must_use]
    pub fn file(&self, graph: &Graph, made: &Made) -> PathBuf {
        let folder = self.dir.path().join("graph");
        graph.write(&folder).unwrap();
        Graph::file(&folder, made)
    }
}

/// What a command printed, and how it ended: for messages.
#[must_use]
pub fn words(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The program of this name, freshly compiled: from the folder that `DROVER_BIN_DIR` names, or by cargo.
///
/// # Panics
/// When compiling it fails.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("DROVER_BIN_DIR") {
            return folder.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--bins", "--package", "drover", "--package", "drover-agent"])
            .current_dir(crate::top())
            .output()
            .expect("cargo can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // …/target/debug/deps/this-test
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().unwrap();
        if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
    });
    folder.join(name)
}

/// An address on the loopback that nobody listens on. Its port is below those that the system gives to connections: one
/// of these could take it before the program does that it is for.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> SocketAddr {
    let any = |_| 10_000 + (RandomState::new().build_hasher().finish() % 20_000) as u16;
    let mut free = (0..1000).map(any).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.next().unwrap().local_addr().unwrap()
}

/// Starts a coordinator at free ports. Somebody else may take one of them right before it does: then others are tried.
fn start_coordinator(setup: &Setup, state: &Path) -> (Service, [SocketAddr; 3]) {
    const TRIES: usize = 5;
    for last in (0..TRIES).map(|attempt| attempt + 1 == TRIES) {
        let addresses = [free_port(), free_port(), free_port()];
        let [agents, clients, public] = addresses.map(|address| address.to_string());
        let serve = Start::new(program("drover"))
            .arg("serve")
            .arg("--state")
            .arg(state)
            .args(["--agents-listen".to_owned(), agents])
            .args(["--clients-listen".to_owned(), clients])
            .args(["--public-listen".to_owned(), public])
            .args(["--disk-reserve-mib", "1"])
            .args(&setup.flags);
        let start = match setup.disk {
            None => serve,
            Some(bytes) => on_small_disk(&serve, state, bytes),
        };
        let mut coordinator = Service::start("drover serve", start);
        match try_listening(&mut coordinator, &addresses) {
            Ok(()) => return (coordinator, addresses),
            Err(text) if !last && text.contains("Address already in use") => {}
            Err(text) => panic!("{text}"),
        }
    }
    unreachable!("the last try ends otherwise")
}

/// Waits until a program listens on all these addresses.
///
/// # Panics
/// When it ends, or does not within [`wait::LONG`].
#[track_caller]
pub fn wait_listening(service: &mut Service, addresses: &[SocketAddr]) {
    if let Err(text) = try_listening(service, addresses) {
        panic!("{text}");
    }
}

/// The same; what it said, if it ends instead.
#[track_caller]
fn try_listening(service: &mut Service, addresses: &[SocketAddr]) -> Result<(), String> {
    for address in addresses {
        wait::until(&format!("something should listen on {address}"), || {
            if let Some(status) = service.exited() {
                return Some(Err(format!("it ended at once ({status}): {}", service.text())));
            }
            TcpStream::connect_timeout(address, Duration::from_secs(1)).ok().map(Ok)
        })?;
    }
    Ok(())
}

/// The same program, with a small disk of its own in the place of this folder. The disk is in a namespace of its own:
/// it goes when the program ends. `nsenter` keeps the process the same.
fn on_small_disk(start: &Start, folder: &Path, bytes: u64) -> Start {
    let script = format!("mount -t tmpfs -o size={bytes} none \"$0\" && exec \"$@\"");
    Start::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(folder)
        .args(start.words.iter().cloned())
}

/// A small disk for any program.
#[must_use]
pub fn small_disk(start: &Start, folder: &Path, bytes: u64) -> Start {
    on_small_disk(start, folder, bytes)
}

/// A file as a program sees it, from outside.
#[must_use]
pub fn seen_by(service: &Service, file: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", service.pid()));
    root.join(file.strip_prefix("/").unwrap_or(file))
}
