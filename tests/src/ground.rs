//! A real guix-daemon with a store of its own, by `ci/guix-root`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tools fail by failing the test"
)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use drover_store::path::StorePath;

use crate::graph::Made;
use crate::service::Start;
use crate::wait;

/// A daemon, without a network if not said otherwise; it ends when this is dropped, or when the test ends in any other way.
#[derive(Debug)]
pub struct Ground {
    /// Everything of it: the store, the daemon's state, its log.
    pub dir: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The list of keys whose imports it takes.
    pub acl: PathBuf,
    /// The folder that is its /gnu/store.
    pub store: PathBuf,
    holder: Option<(Child, ChildStdin)>,
    flags: Vec<String>,
    network: bool,
}

impl Ground {
    /// Starts a daemon with its files in this folder, which is visible to it under the same name.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(dir: &Path, flags: &[&str]) -> Self {
        Self::start_with(dir, flags, false)
    }

    /// A daemon that has the machine's network, for substitutes from a server on this machine: by itself it takes them
    /// from nowhere, until a client names a server.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with_network(dir: &Path) -> Self {
        Self::start_with(dir, &["--substitute-urls=http://127.0.0.1:9"], true)
    }

    fn start_with(dir: &Path, flags: &[&str], network: bool) -> Self {
        let mut ground = Self {
            dir: dir.to_owned(),
            socket: PathBuf::new(),
            acl: PathBuf::new(),
            store: PathBuf::new(),
            holder: None,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            network,
        };
        ground.resume();
        ground
    }

    /// Starts the daemon again, after [`Ground::stop`] or its death.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        self.stop();
        let mut child = script("hold", &self.dir)
            .args(&self.flags)
            .env("GUIX_ROOT_NETWORK", if self.network { "host" } else { "none" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ci/guix-root can be run");
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            let Some(Ok(line)) = lines.next() else {
                panic!("ci/guix-root hold {} ended early", self.dir.display())
            };
            match line.split_once('=') {
                Some(("DAEMON_SOCKET", path)) => self.socket = path.into(),
                Some(("ACL", path)) => self.acl = path.into(),
                Some(("STORE", path)) => self.store = path.into(),
                _ => panic!("ci/guix-root said “{line}”"),
            }
        }
        self.holder = Some((child, stdin));
    }

    /// Stops the daemon and everything that it started, at once, as by a kill.
    pub fn stop(&mut self) {
        if let Some((mut child, stdin)) = self.holder.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }

    /// Takes a key, an s-expression, into the list of those whose imports the daemon takes.
    ///
    /// # Panics
    /// When the list cannot be written.
    pub fn authorize(&self, key: &str) {
        fs::write(&self.acl, format!("(acl (entry {} (tag (guix import))))\n", key.trim())).unwrap();
    }

    /// Runs a command beside the daemon, such as `guix gc --list-live`.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Output {
        script("run", &self.dir).args(words).stdin(Stdio::null()).output().expect("ci/guix-root can be run")
    }

    /// How a command is started that runs on beside the daemon, in the machine's network.
    #[must_use]
    pub fn beside(&self, words: &[&str]) -> Start {
        Start::new(crate::top().join("ci/guix-root")).arg("run").arg(&self.dir).args(words.iter().copied())
    }

    /// Where an item of its store is, seen from outside.
    #[must_use]
    pub fn item(&self, path: &StorePath) -> PathBuf {
        self.store.join(path.base_name())
    }

    /// Whether the store has it.
    #[must_use]
    pub fn has(&self, path: &StorePath) -> bool {
        self.item(path).symlink_metadata().is_ok()
    }

    /// Opens the gate at which a builder waits that ran [`GATE`].
    ///
    /// # Panics
    /// When no builder of that derivation comes to its gate.
    #[track_caller]
    pub fn open_gate(&self, made: &Made) {
        let name = made.path.name();
        wait::until(&format!("a builder of {name} should wait at its gate"), || {
            let gates = self.build_folders(name);
            // Without a reader the gate does not open: the builder is not there yet.
            gates.iter().find_map(|folder| {
                let gate = folder.join("gate");
                let mut gate =
                    OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(gate).ok()?;
                gate.write_all(b"go\n").ok()
            })
        });
    }

    /// The build folders of a derivation with this name.
    fn build_folders(&self, name: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.dir.join("tmp")) else { return Vec::new() };
        let start = format!("guix-build-{name}-");
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|found| found.starts_with(&start)))
            .flat_map(|entry| [entry.path(), entry.path().join("top")])
            .collect()
    }
}

/// A piece of a builder's script: says so, and waits until the test opens the gate.
pub const GATE: &str = "mkfifo gate\necho 'at the gate'\nread go <gate\necho 'through the gate'\n";

impl Drop for Ground {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = fs::read(self.dir.join("daemon.log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- guix-daemon in {}:", self.dir.display());
            for line in &lines[lines.len().saturating_sub(20)..] {
                eprintln!("{line}");
            }
        }
    }
}

fn script(command: &str, dir: &Path) -> Command {
    let mut script = Command::new(crate::top().join("ci/guix-root"));
    script.arg(command).arg(dir);
    script
}

/// Whether grounds can be had on this machine; if not, says so loudly, for whoever counts.
#[must_use]
pub fn available(test: &str) -> bool {
    if nix::unistd::Uid::effective().is_root() {
        return true;
    }
    skipped(test, "a guix-daemon of its own needs root");
    false
}

/// Says that a test could not run.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(file) = std::env::var_os("DROVER_SKIP_FILE") {
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
            let _ = writeln!(file, "{test}: {why}");
        }
    }
}
