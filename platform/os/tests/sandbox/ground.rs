//! A root to run programs in, with the machine's own programs, and both ways to be run.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{self, Interest};
use drover_os::process::{Exit, Program, Tree, read_all};
use drover_os::sandbox::{Bind, Ids, Limits, Made, Sandbox, available};
use drover_os::user;

/// Nobody.
const PLAIN_USER: u32 = 65534;
/// Who programs are, inside and for root outside.
pub(crate) const USER: u32 = 30001;
pub(crate) const GROUP: u32 = 30000;

/// What a line begins with that says what is skipped.
const SKIPPED: &str = "SKIPPED: ";

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Says loudly that a test is not run, as `ci/test` counts it.
pub(crate) fn skipped(test: &str, why: &str) {
    eprintln!("{SKIPPED}{test}: {why}");
    note_skipped(&format!("{test}: {why}"));
}

/// For `ci/test`, which counts these lines.
fn note_skipped(line: &str) {
    if let Some(file) = std::env::var_os("DROVER_SKIP_FILE") {
        use std::io::Write;
        if let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(file) {
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Runs a check, the test of this name, as who we are, and if that is root as a plain user, too.
pub(crate) fn both(name: &str, check: impl FnOnce()) {
    match available() {
        Ok(()) => check(),
        Err(why) => skipped(name, &why.to_string()),
    }
    if user::is_root() {
        let folder = tempfile::tempdir().unwrap();
        let output = plain(name, folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        eprint!("{said}");
        // It has no way to the list of those that were skipped, which is root's.
        for line in said.lines().filter_map(|line| line.strip_prefix(SKIPPED)) {
            note_skipped(&format!("{line} (as a plain user)"));
        }
        assert!(output.status.success(), "as a plain user: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{name} should be a test");
    }
}

/// Runs a test of this name as a plain user, who gets this folder.
pub(crate) fn plain(name: &str, folder: &Path) -> Command {
    open(folder);
    let room = folder.join("tmp");
    fs::create_dir(&room).unwrap();
    fs::set_permissions(&room, fs::Permissions::from_mode(0o1777)).unwrap();
    // Where these tests lie, a plain user may not be let.
    let tests = folder.join("tests");
    // By another process: no child of another test holds it open for writing.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&tests).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(tests);
    command.args(["--exact", name, "--nocapture"]).env("TMPDIR", room).current_dir("/");
    command.env_remove("DROVER_SKIP_FILE").uid(PLAIN_USER).gid(PLAIN_USER);
    command
}

fn open(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A sandbox with the machine's programs, and a folder `/build` that may be written to.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path());
        let [root, build, tmp] = ["root", "build", "tmp-inside"].map(|name| folder.path().join(name));
        for made in [&root, &build, &tmp] {
            fs::create_dir(made).unwrap();
            open(made);
        }
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).unwrap();
        let outside = user::is_root().then_some((USER, GROUP));
        if outside.is_some() {
            std::os::unix::fs::chown(&build, Some(USER), Some(GROUP)).unwrap();
        }
        let bind = |from: &Path, to: &str, write| Bind { from: from.into(), to: to.into(), write };
        let mut made = vec![Made::Folder("/build".into()), Made::Folder("/tmp".into())];
        let mut binds = vec![bind(&build, "/build", true), bind(&tmp, "/tmp", true)];
        // What is a link on this machine is one in there.
        for name in ["usr", "bin", "lib", "lib64"] {
            let there = Path::new("/").join(name);
            match fs::read_link(&there) {
                Ok(to) => made.push(Made::Link(there, to)),
                Err(_) if there.is_dir() => {
                    made.push(Made::Folder(there.clone()));
                    binds.push(bind(&there, &format!("/{name}"), false));
                }
                Err(_) => {}
            }
        }
        let sandbox = Sandbox {
            root,
            made,
            binds,
            ids: Ids { inside: (USER, GROUP), outside },
            host_name: "localhost".into(),
            network: false,
            bits32: false,
            folder: "/build".into(),
            limits: Limits::default(),
            cgroup: None,
        };
        Self { folder, sandbox }
    }

    /// Has a file or folder of the machine's be there, too.
    pub(crate) fn bind(&mut self, from: &Path, to: &str, write: bool) {
        self.sandbox.made.push(match from.is_dir() {
            true => Made::Folder(to.into()),
            false => Made::File(to.into(), Vec::new()),
        });
        self.sandbox.binds.push(Bind { from: from.into(), to: to.into(), write });
    }

    /// The folder that is `/build` inside.
    pub(crate) fn build(&self) -> PathBuf {
        self.folder.path().join("build")
    }

    /// Starts a shell script.
    pub(crate) fn start(&self, script: &str) -> Tree {
        self.program("/bin/sh", ["-c", script]).spawn().unwrap()
    }

    pub(crate) fn program<const N: usize>(&self, program: &str, args: [&str; N]) -> Program {
        let variables = [("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())];
        Program::new(program).args(args).environment(variables).one_output().sandbox(&self.sandbox).unwrap()
    }

    /// Runs a shell script: how it ended, and what it said.
    pub(crate) fn run(&self, script: &str) -> (Exit, String) {
        finish(self.start(script))
    }

    /// Runs a shell script that has to end well.
    pub(crate) fn says(&self, script: &str) -> String {
        let (exit, said) = self.run(script);
        assert!(exit.is_success(), "{script}: {exit:?}: {said}");
        said.trim_end().to_owned()
    }
}

/// Waits for the end of a program: how it ended, and what it said.
pub(crate) fn finish(mut tree: Tree) -> (Exit, String) {
    let said = read_all(tree.output.take().unwrap(), 1 << 20).unwrap();
    let exit = tree.wait(soon()).unwrap().expect("it should end soon");
    (exit, String::from_utf8_lossy(&said).into_owned())
}

/// Waits until a program has said this much.
pub(crate) fn hears(tree: &mut Tree, words: &str) {
    let mut heard = Vec::new();
    let mut byte = [0; 1];
    let deadline = soon();
    while !heard.ends_with(words.as_bytes()) {
        let output = tree.output.as_ref().unwrap();
        let is_heard = poll::wait_one(output.as_fd(), Interest::Readable, deadline).unwrap();
        assert!(is_heard, "it says nothing more after {:?}", String::from_utf8_lossy(&heard));
        let count = tree.output.as_mut().unwrap().read(&mut byte).unwrap();
        assert_eq!(count, 1, "it ended after {:?}", String::from_utf8_lossy(&heard));
        heard.push(byte[0]);
    }
}

/// A number of seconds that only one test sleeps for, so that its sleepers are found.
pub(crate) fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How many processes of the machine sleep for this time.
pub(crate) fn sleepers(mark: &str) -> usize {
    let wanted = format!("sleep\0{mark}\0");
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .count()
}
