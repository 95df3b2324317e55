//! Programs that are ended together with everything that they started.
//!
//! A program runs below a small supervisor, a fork of ours that inherits every descendant whose own parent ends
//! (on Linux; elsewhere the process group is what there is). So nothing escapes by forking twice or by making a
//! session of its own: as long as a descendant lives, it is found below the supervisor. And when we are killed, so that
//! nobody hears its reports any more, the supervisor ends what is below it.

mod supervisor;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::poll::{self, Interest};
use crate::{Deadline, sys};
use supervisor::{RECORD, Record};

/// How long a dropped tree is given to die; SIGKILL needs no cooperation, but a busy machine needs a moment.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a tree that dies.
const LOOK: Duration = Duration::from_millis(2);

/// What to run and how.
#[derive(Debug)]
pub struct Program {
    command: Command,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it left with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A running program with all of its descendants. Dropping it kills them, and so does the end of this process, whatever
/// ended it.
#[derive(Debug)]
pub struct Tree {
    supervisor: Child,
    reports: OwnedFd,
    pid: u32,
    exit: Option<Exit>,
    gone: bool,
    /// Writes to the program, if asked for by [`Program::pipes`].
    pub stdin: Option<ChildStdin>,
    /// Reads what the program prints, if asked for by [`Program::pipes`].
    pub stdout: Option<ChildStdout>,
    /// Reads what the program complains, if asked for by [`Program::pipes`].
    pub stderr: Option<ChildStderr>,
}

impl Program {
    /// A program by its path or its name on PATH, with standard streams to and from nowhere.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets the whole environment; without this it is ours.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.command.env_clear().envs(variables);
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs as this user and group, without further groups. Needs root.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.command.uid(user).gid(group);
        self
    }

    /// Connects all three standard streams to the [`Tree`]'s fields.
    #[must_use]
    pub fn pipes(mut self) -> Self {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self
    }

    /// Connects standard output and standard error, such as to a file or a socket.
    #[must_use]
    pub fn output(mut self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout).stderr(stderr);
        self
    }

    /// Starts it, in a session of its own.
    ///
    /// # Errors
    /// When there is no such program, or the system has no more room; the message names the program.
    pub fn spawn(mut self) -> io::Result<Tree> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("start {name}: {error}"));
        let (reports, writer) = sys::pipe().map_err(failed)?;
        let report_to = writer.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and makes system calls only; it takes no lock, allocates
        // nothing, and touches no memory but its own copies. `writer` is open until after the spawn.
        unsafe { self.command.pre_exec(move || supervisor::split(report_to)) };
        let mut supervisor = self.command.spawn().map_err(failed)?;
        drop(writer);
        let mut tree = Tree {
            stdin: supervisor.stdin.take(),
            stdout: supervisor.stdout.take(),
            stderr: supervisor.stderr.take(),
            supervisor,
            reports,
            pid: 0,
            exit: None,
            gone: false,
        };
        // Sent before the program starts, so it is there already or on its way.
        match tree.next_report(Deadline::never()).map_err(failed)? {
            Some(Record::Started(pid)) => tree.pid = pid,
            _ => return Err(failed(io::Error::other("its supervisor ended at once"))),
        }
        Ok(tree)
    }
}

impl Tree {
    /// The program's process id, which is also that of its session and process group.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits until the program itself ends; `None` when the deadline came first. Descendants may live on: see
    /// [`Tree::kill`].
    ///
    /// # Errors
    /// When its supervisor was killed, so that nobody knows how it ended.
    pub fn wait(&mut self, deadline: Deadline) -> io::Result<Option<Exit>> {
        while self.exit.is_none() {
            match self.next_report(deadline) {
                Ok(Some(Record::Ended(exit))) => self.exit = Some(exit),
                Ok(Some(Record::Started(_))) => {}
                Ok(None) => return Err(io::Error::other("the program's supervisor was killed")),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.exit)
    }

    /// A descriptor that becomes readable when the program has ended, for [`crate::poll::wait`]; ask
    /// [`Tree::wait`] then. Never read from it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// Sends SIGTERM to the program's process group: what lets well-behaved programs tidy up.
    pub fn terminate(&self) {
        if self.exit.is_none() && !self.gone {
            // It may be gone already.
            let _ = killpg(pid(self.pid), Signal::SIGTERM);
        }
    }

    /// Kills the program and everything that it started, and waits until nothing of it is left.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when something still lives at the deadline (a process that hangs in the kernel).
    pub fn kill(&mut self, deadline: Deadline) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        if self.exit.is_none() {
            let _ = killpg(pid(self.pid), Signal::SIGKILL);
        }
        loop {
            // One that forks while we look hands its child to the supervisor, where the next look finds it.
            for descendant in sys::descendants(self.supervisor.id())? {
                let _ = kill(pid(descendant), Signal::SIGKILL);
            }
            if self.supervisor.try_wait()?.is_some() {
                self.gone = true;
                return Ok(());
            }
            if deadline.is_over() {
                let message = format!("a process started by {} survives SIGKILL so far", self.pid);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            // The supervisor leaves once it has no children, which closes this pipe.
            self.wait_for_end(Deadline::after(LOOK).min(deadline))?;
        }
    }

    /// Waits for the end of the reports, noting those that still come.
    fn wait_for_end(&mut self, deadline: Deadline) -> io::Result<()> {
        loop {
            match self.next_report(deadline) {
                Ok(Some(Record::Ended(exit))) => self.exit = Some(exit),
                Ok(Some(Record::Started(_))) => {}
                // The end of the pipe precedes the end of the process by a moment.
                Ok(None) => {
                    std::thread::yield_now();
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The supervisor's next record; `None` when it has left.
    fn next_report(&mut self, deadline: Deadline) -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD];
        loop {
            // Records are written and read as a whole: they are far shorter than what pipes keep together.
            match nix::unistd::read(&self.reports, &mut bytes) {
                Ok(0) => return Ok(None),
                Ok(RECORD) => return Record::parse(bytes).map(Some),
                Ok(_) => return Err(io::Error::other("the supervisor sent half a report")),
                Err(nix::errno::Errno::EAGAIN) => {
                    if !poll::wait_one(self.reports.as_fd(), Interest::Readable, deadline)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Nobody is left to tell; whatever hangs in the kernel dies when it leaves it.
        let _ = self.kill(Deadline::after(DROP_PATIENCE));
    }
}

/// Reads a stream to its end, at most `limit` bytes of it: for the output of programs that print little.
///
/// # Errors
/// What the stream reports; [`io::ErrorKind::FileTooLarge`] beyond the limit.
pub fn read_all(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes of output"),
        ));
    }
    Ok(bytes)
}

/// Process ids are positive and fit, or they did not come from the system.
fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    fn is_alive(id: u32) -> bool {
        // A zombie of somebody else's still has an entry, and does not live.
        std::fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }

    fn first_number(stream: &mut impl Read) -> u32 {
        let mut text = String::new();
        let mut byte = [0; 1];
        while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            text.push(char::from(byte[0]));
        }
        text.trim().parse().unwrap()
    }

    #[test]
    fn output_and_exit_code_are_the_programs() {
        let mut tree = shell("read word; echo $word; echo bad >&2; exit 7").pipes().spawn().unwrap();
        tree.stdin.take().unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(read_all(tree.stdout.take().unwrap(), 100).unwrap(), b"hello\n");
        assert_eq!(read_all(tree.stderr.take().unwrap(), 100).unwrap(), b"bad\n");
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(7)));
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(7)));
    }

    #[test]
    fn a_program_that_a_signal_ended_says_which() {
        let mut tree = shell("kill -9 $$").spawn().unwrap();
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
    }

    #[test]
    fn a_missing_program_is_an_error_with_its_name() {
        let error = Program::new("/no/such/program").spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[test]
    fn waiting_for_a_program_that_goes_on_ends_at_the_deadline() {
        let mut tree = shell("read forever").pipes().spawn().unwrap();
        assert_eq!(tree.wait(Deadline::after(Duration::from_millis(10))).unwrap(), None);
        assert!(is_alive(tree.id()));
        tree.kill(soon()).unwrap();
        assert!(!is_alive(tree.id()));
    }

    #[test]
    fn terminating_reaches_the_program() {
        let mut tree =
            shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done").pipes().spawn().unwrap();
        let mut ready = [0; 6];
        tree.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        tree.terminate();
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(3)));
    }

    #[test]
    fn a_grandchild_that_forked_twice_into_its_own_session_dies_with_its_tree() {
        let mut tree = shell("(setsid sh -c 'echo $$; exec sleep 1000' &) ; exit 0").pipes().spawn().unwrap();
        let grandchild = first_number(tree.stdout.as_mut().unwrap());
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(0)));
        assert!(is_alive(grandchild));
        tree.kill(soon()).unwrap();
        assert!(!is_alive(grandchild));
    }

    #[test]
    fn dropping_a_tree_kills_what_the_program_left_behind() {
        let mut tree = shell("setsid sh -c '(echo $$; exec sleep 1000)' & wait").pipes().spawn().unwrap();
        let grandchild = first_number(tree.stdout.as_mut().unwrap());
        assert!(is_alive(grandchild));
        drop(tree);
        assert!(!is_alive(grandchild));
    }

    /// For [`what_a_program_started_ends_with_the_process_that_started_the_program_even_if_that_is_killed`], which runs
    /// this as a process of its own, with a folder to write to.
    #[test]
    fn starts_trees_and_waits_to_be_killed() {
        let Some(folder) = std::env::var_os("DROVER_TEST_TREES") else { return };
        // Below one that ignores what it can, in a session of its own; and left by its parent.
        let deep =
            "trap '' TERM HUP PIPE INT; setsid sh -c 'echo $$ >deep; exec sleep 1000' & echo $$ >top; wait";
        let left = "(sh -c 'echo $$ >left; exec sleep 1000' &) ; exit 0";
        let folder = Path::new(&folder);
        // Started by a thread that does not live as long as they do.
        let start = |script: &'static str| {
            let program = shell(script).folder(folder);
            std::thread::spawn(move || program.spawn().unwrap()).join().unwrap()
        };
        let _trees = [deep, left].map(start);
        std::thread::sleep(Duration::from_secs(600));
    }

    #[test]
    fn what_a_program_started_ends_with_the_process_that_started_the_program_even_if_that_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let name = "process::tests::starts_trees_and_waits_to_be_killed";
        let mut starter = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("DROVER_TEST_TREES", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut read = |name: &str| {
            let id = soon().ask(|| {
                assert_eq!(starter.try_wait().unwrap(), None, "it should wait to be killed");
                let text = std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
                text.strip_suffix('\n')?.parse::<u32>().ok()
            });
            id.unwrap_or_else(|| panic!("{name} should be started"))
        };
        let all = ["deep", "top", "left"].map(&mut read);
        assert!(all.iter().all(|id| is_alive(*id)));
        starter.kill().unwrap();
        starter.wait().unwrap();
        let gone = soon().ask(|| all.iter().all(|id| !is_alive(*id)).then_some(()));
        assert!(gone.is_some(), "{all:?} should be gone");
    }

    #[test]
    fn killing_one_tree_spares_the_others() {
        let mut doomed = shell("read forever").pipes().spawn().unwrap();
        let other = shell("read forever").pipes().spawn().unwrap();
        doomed.kill(soon()).unwrap();
        assert!(is_alive(other.id()));
    }

    #[test]
    fn the_supervisor_keeps_none_of_our_descriptors_open() {
        // Whoever reads from the program's output sees its end although the supervisor, which the sleeping child
        // keeps busy, goes on.
        let mut tree = shell("sleep 1000 >/dev/null 2>&1 & echo done").pipes().spawn().unwrap();
        assert_eq!(read_all(tree.stdout.take().unwrap(), 100).unwrap(), b"done\n");
        tree.kill(soon()).unwrap();
    }

    #[test]
    fn more_output_than_allowed_is_an_error() {
        let error = read_all(&[0_u8; 11][..], 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
