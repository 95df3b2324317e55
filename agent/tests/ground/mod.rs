//! A real guix-daemon for tests, named by the environment, and small derivations for it.
//!
//! `DROVER_TEST_DAEMON_SOCKET` is the daemon's socket, `DROVER_TEST_DAEMON_ACL` the file with its list of keys,
//! `DROVER_BUSYBOX` a static busybox. ci/guix-root makes all three.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_agent::config::DaemonSocket;
use drover_agent::daemon::{Connection, NewText, Options};
use drover_os::{Deadline, net};
use drover_store::derivation::{Derivation, Output};
use drover_store::hash::Sha256Hash;
use drover_store::nar::Node;
use drover_store::path::{self, StorePath};

/// The daemon under test.
pub struct Ground {
    pub socket: DaemonSocket,
    pub acl: PathBuf,
    pub shell: StorePath,
}

/// A derivation that is in the daemon's store.
pub struct Made {
    pub path: StorePath,
    pub out: StorePath,
    pub text: Vec<u8>,
    pub derivation: Derivation,
}

/// The daemon that the environment names; without one, the test says loudly that it is skipped.
pub fn ground() -> Option<Ground> {
    let variable = |name: &str| std::env::var(name).ok();
    let (Some(socket), Some(acl), Some(busybox)) = (
        variable("DROVER_TEST_DAEMON_SOCKET"),
        variable("DROVER_TEST_DAEMON_ACL"),
        variable("DROVER_BUSYBOX"),
    ) else {
        skipped(
            "a real guix-daemon: set DROVER_TEST_DAEMON_SOCKET, DROVER_TEST_DAEMON_ACL and DROVER_BUSYBOX",
        );
        return None;
    };
    let socket: DaemonSocket = socket.parse().unwrap();
    let nar = shell_nar(&fs::read(busybox).unwrap());
    let shell = path::source("test-shell", &Sha256Hash::of(&nar)).unwrap();
    // A daemon that is new refuses some of those who come all at once, because its database is locked.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    Connection::open(&socket).unwrap().add_to_store(&shell, true, &mut &nar[..]).unwrap();
    Some(Ground { socket, acl: acl.into(), shell })
}

/// Says that the running test is skipped, to people and to whoever counts.
pub fn skipped(needs: &str) {
    let line = format!("{} needs {needs}", std::thread::current().name().unwrap_or("a test"));
    eprintln!("SKIPPED: {line}");
    if let Some(file) = std::env::var_os("DROVER_SKIP_FILE") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

fn shell_nar(busybox: &[u8]) -> Vec<u8> {
    let link = |name: &str| (name.as_bytes().to_vec(), Node::Symlink(b"busybox".to_vec()));
    let mut bin: std::collections::BTreeMap<_, _> =
        ["sh", "sleep", "cat", "mkdir", "head", "ln"].into_iter().map(link).collect();
    bin.insert(b"busybox".to_vec(), Node::program(busybox));
    Node::Directory([(b"bin".to_vec(), Node::Directory(bin))].into()).to_nar()
}

/// A text that no other test and no earlier run has.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{time}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Ground {
    pub fn connect(&self) -> Connection {
        let mut connection = Connection::open(&self.socket).unwrap();
        connection.set_options(&Options::default()).unwrap();
        connection
    }

    /// A derivation with one output that runs `script`, not yet in the store.
    pub fn derivation(&self, name: &str, script: &str, sources: &[StorePath]) -> Made {
        let sh = format!("{}/bin", self.shell);
        let mut all = sources.to_vec();
        all.push(self.shell.clone());
        all.sort();
        let placeholder = path::text(name, b"", &[]).unwrap();
        let variable = |k: &str, v: String| (k.as_bytes().to_vec(), v.into_bytes());
        let mut derivation = Derivation {
            outputs: vec![Output { name: "out".into(), path: placeholder, fixed: None }],
            inputs: Vec::new(),
            sources: all,
            system: drover_os::machine::system().unwrap(),
            builder: format!("{sh}/sh").into_bytes(),
            args: vec![b"-c".to_vec(), script.as_bytes().to_vec()],
            env: vec![variable("PATH", sh), variable("out", String::new()), variable("salt", unique())],
        };
        let out = derivation.outputs_with(name, &[]).unwrap().remove(0).1;
        derivation.outputs[0].path = out.clone();
        derivation.env[1].1 = out.full().into_bytes();
        let text = derivation.print();
        let path = derivation.path_of_text(&format!("{name}.drv"), &text).unwrap();
        Made { path, out, text, derivation }
    }

    /// The same, and in the store.
    pub fn made(&self, connection: &mut Connection, name: &str, script: &str) -> Made {
        let made = self.derivation(name, script, &[]);
        let references = made.derivation.references();
        let text = NewText { path: &made.path, text: &made.text, references: &references };
        connection.add_texts([text].into_iter()).unwrap();
        made
    }
}

/// The processes that have this in their environment.
pub fn processes_with(text: &[u8]) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            let environment = fs::read(folder.join("environ")).ok()?;
            environment.windows(text.len()).any(|window| window == text).then(|| folder.display().to_string())
        })
        .collect()
}

/// Fails if a process is left that has this in its environment. Where a daemon does not hear that somebody hangs up on it, nobody
/// waits for it to end them, and it does so all the same.
#[track_caller]
pub fn assert_none_with(text: &[u8]) {
    if !net::IS_HANG_UP_HEARD {
        Deadline::after(Duration::from_secs(60)).ask(|| processes_with(text).is_empty().then_some(()));
    }
    assert_eq!(processes_with(text), Vec::<String>::new());
}
