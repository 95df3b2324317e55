//! A machine that has only a kernel and an agent: no guix-daemon, a store of the agent's own, and builds in its sandbox.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tools fail by failing the test"
)]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use drover_store::narinfo::NarInfo;
use drover_store::path::StorePath;

use crate::farm::{Farm, program};
use crate::graph::host_system;
use crate::ground;
use crate::service::{Service, Start, processes_with};
use crate::wait;

/// Who the plain user is: nobody whom the machine knows.
const PLAIN: u32 = 54_321;

/// Who an agent runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the test.
    Same,
    /// Somebody without any rights, also where root runs the test.
    Plain,
}

impl User {
    /// The number of a user whom the agent must be made to be.
    fn other(self) -> Option<u32> {
        (self == Self::Plain && nix::unistd::Uid::effective().is_root()).then_some(PLAIN)
    }

    /// The words before a program that make it run as this user, in the same process.
    fn words(self) -> Vec<String> {
        let Some(user) = self.other() else { return Vec::new() };
        // A change of users forgets whose end is to be the program's: it is said once more.
        let words =
            ["setpriv", "--reuid", "U", "--regid", "U", "--clear-groups", "--pdeathsig", "KILL", "--"];
        words.map(|word| if word == "U" { user.to_string() } else { word.to_owned() }).into()
    }
}

/// Such a machine's part of the disk.
#[derive(Debug)]
pub struct Board {
    /// The agent's name.
    pub name: String,
    /// Everything of it.
    pub dir: PathBuf,
    /// Its store: what is /gnu/store within a build.
    pub store: PathBuf,
    user: User,
    agent: PathBuf,
}

impl Board {
    /// One whose agent takes what this farm's coordinator signs.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn new(farm: &Farm, name: &str, user: User) -> Self {
        let dir = farm.dir().join(name);
        for folder in ["agent", "root"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let mut agent = program("drover-agent");
        let acl = dir.join("acl");
        fs::write(&acl, format!("(acl (entry {} (tag (guix import))))\n", farm.client.key().trim())).unwrap();
        if let Some(user) = user.other() {
            // The program, wherever it was compiled, where that user can get at it.
            fs::set_permissions(farm.dir(), fs::Permissions::from_mode(0o711)).unwrap();
            let copy = dir.join("drover-agent");
            fs::copy(&agent, &copy).unwrap();
            agent = copy;
            for file in [dir.clone(), dir.join("agent"), dir.join("root"), acl] {
                chown(file, Some(user), Some(user)).unwrap();
            }
        }
        Self { name: name.to_owned(), store: dir.join("root/gnu/store"), dir, user, agent }
    }

    /// How its agent is started; the test may add to it.
    ///
    /// # Panics
    /// When the coordinator refuses to have one more.
    #[must_use]
    pub fn start(&self, farm: &Farm, url: &str) -> Start {
        let (uuid, password) = farm.client.new_agent(&self.name);
        let file = self.dir.join("password");
        fs::write(&file, password).unwrap();
        if let Some(user) = self.user.other() {
            chown(&file, Some(user), Some(user)).unwrap();
        }
        let mut words = self.user.words().into_iter();
        let start = match words.next() {
            Some(first) => Start::new(first).args(words).arg(&self.agent),
            None => Start::new(&self.agent),
        };
        start
            .args(["--coordinator", url, "--uuid", &uuid])
            .arg("--password-file")
            .arg(file)
            .arg("--state-dir")
            .arg(self.dir.join("agent"))
            .args(["--executor", "sandbox", "--store-root"])
            .arg(self.dir.join("root"))
            .arg("--authorized-keys")
            .arg(self.dir.join("acl"))
            .args(["--system", &host_system(), "--max-1min-load-average", "1000"])
    }

    /// Its agent, with as many builds at a time as said and these flags.
    ///
    /// # Panics
    /// When it is not heard of, or ends at once.
    #[must_use]
    pub fn agent(&self, farm: &Farm, parallel: u32, flags: &[&str]) -> Service {
        let url = format!("http://{}", farm.agents);
        let parallel = parallel.to_string();
        let start =
            self.start(farm, &url).args(["--max-parallel-builds", &parallel]).args(flags.iter().copied());
        let mut agent = Service::start(&self.name, start);
        wait::until(&format!("the agent {} should be online", self.name), || {
            if let Some(status) = agent.exited() {
                panic!("it ended at once ({status}): {}", agent.text());
            }
            farm.client.agents().iter().any(|one| one.name == self.name && one.online).then_some(())
        });
        agent
    }

    /// Where an item of its store is.
    #[must_use]
    pub fn item(&self, path: &StorePath) -> PathBuf {
        self.store.join(path.base_name())
    }

    /// What its store knows of an item; none if it does not count as one.
    ///
    /// # Panics
    /// When it is there and no narinfo.
    #[must_use]
    pub fn narinfo(&self, path: &StorePath) -> Option<NarInfo> {
        let text = fs::read(self.store.join(".drover/items").join(path.base_name())).ok()?;
        Some(
            NarInfo::parse(&text)
                .unwrap_or_else(|e| panic!("{path}: {e}: {}", String::from_utf8_lossy(&text))),
        )
    }

    /// What is in the making in its store.
    #[must_use]
    pub fn making(&self) -> BTreeSet<PathBuf> {
        entries(&self.store.join(".drover/making")).collect()
    }

    /// What there is of it on the machine now, to be compared with what is there later.
    #[must_use]
    pub fn traces(&self, agent: &Service) -> Traces {
        let pid = agent.pid();
        let children =
            fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().flat_map(|task| {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            });
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let user = self.user.other();
        // What the sandbox's users, by their numbers, and the plain one have; and what an agent calls after itself, whoever
        // it runs as. Other farms on this machine have their own.
        let own = format!("-{pid}-");
        let of_it = |entry: &PathBuf| {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let is_named = name.starts_with("drover") && name.contains(&own);
            let foreign = |owner: u32| (30_000..31_000).contains(&owner) || Some(owner) == user;
            is_named || entry.symlink_metadata().is_ok_and(|file| foreign(file.uid()))
        };
        Traces {
            making: self.making(),
            children: children.collect(),
            groups: groups(pid),
            mounts: mounts.lines().map(str::to_owned).collect(),
            temporary: entries(&std::env::temp_dir()).filter(of_it).collect(),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // What is in a store may not be written to, and so not be removed, by anybody but root.
        if !nix::unistd::Uid::effective().is_root() {
            let _ = Command::new("chmod").args(["-R", "u+w"]).arg(&self.dir).stderr(Stdio::null()).status();
        }
    }
}

/// What an agent that builds has on its machine beside what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    making: BTreeSet<PathBuf>,
    children: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    temporary: BTreeSet<PathBuf>,
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The control groups below those of a process, and those that are called after us.
fn groups(pid: u32) -> BTreeSet<PathBuf> {
    let own: Vec<String> = fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.rsplit_once(':').map(|(_, group)| group.to_owned()))
        .filter(|group| group != "/")
        .collect();
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in entries(&folder).filter(|entry| entry.symlink_metadata().is_ok_and(|file| file.is_dir()))
        {
            let text = entry.to_string_lossy().into_owned();
            if text.contains("drover") || own.iter().any(|group| text.contains(&format!("{group}/"))) {
                found.insert(entry.clone());
            }
            open.push(entry);
        }
    }
    found
}

/// Opens the gate at which a builder waits that ran [`ground::GATE`] and has this value of the variable `marker`.
///
/// # Panics
/// When none comes to its gate.
#[track_caller]
pub fn open_gate(marker: &str) {
    wait::until(&format!("a builder with the marker {marker} should wait at its gate"), || {
        processes_with("marker", marker).into_iter().find_map(|pid| {
            // Without a reader the gate does not open: the builder is not there yet.
            let gate = format!("/proc/{pid}/cwd/gate");
            let mut gate =
                OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(gate).ok()?;
            gate.write_all(b"go\n").ok()
        })
    });
}

/// Whether builds can be made in a sandbox here by such a user; if not, says so loudly, for whoever counts. This is about
/// the machine, and asks it without the agent: an agent that refuses where it could build fails its tests.
#[must_use]
pub fn available(test: &str, user: User) -> bool {
    let mut words = user.words();
    words.extend(["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork"].map(str::to_owned));
    if user == User::Plain || !nix::unistd::Uid::effective().is_root() {
        words.extend(["--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(["--mount-proc", "true"].map(str::to_owned));
    let Some((first, rest)) = words.split_first() else { return false };
    let output =
        Command::new(first).args(rest).stdin(Stdio::null()).output().expect("setpriv and unshare can be run");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ground::skipped(test, &format!("{user:?} user: this machine allows no namespaces: {why}"));
    }
    output.status.success()
}
