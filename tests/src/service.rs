//! A program that runs beside a test: its output is kept, lines of it can be waited for, and it ends with the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tools fail by failing the test"
)]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::LONG;

/// How a program is started, so that it can be started again.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    /// Variables beside those of the test.
    pub env: Vec<(OsString, OsString)>,
}

impl Start {
    /// A program with these arguments.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { words: vec![program.into()], env: Vec::new() }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The command; it is killed when the thread that starts it ends, even by a kill.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.words);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

#[derive(Debug, Default)]
struct Output {
    bytes: Mutex<Vec<u8>>,
    more: Condvar,
}

/// A running program.
#[derive(Debug)]
pub struct Service {
    name: String,
    start: Start,
    child: Child,
    output: Arc<Output>,
    ended: Option<ExitStatus>,
}

impl Service {
    /// Starts a program; the name is for messages.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, start: Start) -> Self {
        let output = Arc::new(Output::default());
        let child = spawn(&start, &output);
        Self { name: name.to_owned(), start, child, output, ended: None }
    }

    /// Starts it again, after it has ended; what it printed before stays.
    ///
    /// # Panics
    /// When it still runs, or cannot be started.
    pub fn restart(&mut self) {
        assert!(self.exited().is_some(), "{} still runs", self.name);
        self.child = spawn(&self.start, &self.output);
        self.ended = None;
    }

    /// Changes how it is started the next time.
    pub fn start_mut(&mut self) -> &mut Start {
        &mut self.start
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let pid = i32::try_from(self.child.id()).expect("a process has a number of 31 bits");
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.ended = self.child.wait().ok();
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within [`LONG`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        crate::wait::until(&format!("{name} should end"), || self.exited())
    }

    /// Where its output ends now, for [`Service::line_after`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.output.bytes.lock().unwrap().len()
    }

    /// Waits for a line of its output that contains this.
    ///
    /// # Panics
    /// When there is none within [`LONG`].
    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        self.line_after(0, part)
    }

    /// [`Service::line`] among what came after a mark.
    ///
    /// # Panics
    /// When there is none within [`LONG`].
    #[track_caller]
    pub fn line_after(&self, mark: usize, part: &str) -> String {
        let deadline = Instant::now() + LONG;
        let mut bytes = self.output.bytes.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(bytes.get(mark..).unwrap_or_default());
            if let Some(line) = text.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not say “{part}”", self.name);
            bytes = self.output.more.wait_timeout(bytes, left.min(Duration::from_secs(1))).unwrap().0;
        }
    }

    /// Everything that it has printed.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.bytes.lock().unwrap()).into_owned()
    }

    /// The bytes of memory that it has resident.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn resident(&self) -> u64 {
        resident(self.pid()).unwrap_or_else(|| panic!("{} has ended", self.name))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let ended = self.exited();
        self.kill();
        if thread::panicking() || std::env::var_os("DROVER_SHOW_LOGS").is_some() {
            let text = self.text();
            let lines: Vec<&str> = text.lines().collect();
            let mut report = match ended {
                Some(status) => format!("---- {}, which had ended ({}):\n", self.name, words(status)),
                None => format!("---- {}:\n", self.name),
            };
            for line in &lines[lines.len().saturating_sub(60)..] {
                let _ = writeln!(report, "{line}");
            }
            eprint!("{report}");
        }
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn spawn(start: &Start, output: &Arc<Output>) -> Child {
    let mut child =
        start.command().spawn().unwrap_or_else(|e| panic!("starting {:?} failed: {e}", start.words));
    pump(child.stdout.take().expect("its output is a pipe"), Arc::clone(output));
    pump(child.stderr.take().expect("its output is a pipe"), Arc::clone(output));
    child
}

fn pump(mut from: impl Read + Send + 'static, to: Arc<Output>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            to.bytes.lock().unwrap().extend_from_slice(&buffer[..n]);
            to.more.notify_all();
        }
    });
}

/// The bytes of memory that a process has resident, by `VmRSS`.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// The most bytes of memory that a process has had resident, by `VmHWM`.
#[must_use]
pub fn peak(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, word: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(word))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The processes whose environment has this variable with this value: how a builder is found among all others.
#[must_use]
pub fn processes_with(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}").into_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == wanted))
        })
        .collect()
}
