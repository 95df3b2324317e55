//! What to run and how, and its start.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[cfg(all(target_os = "linux", not(drover_portable)))]
use super::keeper;
use super::supervisor::{self, Record};
use super::{Tree, next_record};
use crate::sandbox::plan::Plan;
use crate::sandbox::{Failure, Sandbox};
use crate::{Deadline, posix, sys};

/// How long a program in a sandbox may take to come to run: longer than any disk that still answers has it wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to run and how.
#[derive(Debug)]
pub struct Program {
    command: Command,
    /// Its own name for itself, if that is not what it is started by.
    name: Option<OsString>,
    /// Whether its variables are those that were set, and not ours.
    own_variables: bool,
    one_output: bool,
    sandbox: Option<Plan>,
    patience: Duration,
}

impl Program {
    /// A program by its path or its name on PATH, with standard streams to and from nowhere.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self {
            command,
            name: None,
            own_variables: false,
            one_output: false,
            sandbox: None,
            patience: PATIENCE,
        }
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
        self.own_variables = true;
        self
    }

    /// Calls it by this name, its zeroth argument, instead of what it is started by.
    #[must_use]
    pub fn named(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.arg0(&name);
        self.name = Some(name.as_ref().to_owned());
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

    /// Connects standard output and standard error to one pipe, [`Tree::output`], so that what comes from both keeps its
    /// order.
    #[must_use]
    pub fn one_output(mut self) -> Self {
        self.one_output = true;
        self
    }

    /// Puts it into a sandbox, which has to live as long as the program does. The program is named by its path in there
    /// and is looked for nowhere else. User and folder are those of the sandbox: do not set others. It is the first
    /// process there, and its end is that of all others.
    ///
    /// # Errors
    /// When the sandbox cannot be as it is described, such as a path that is not absolute or is not there.
    pub fn sandbox(mut self, sandbox: &Sandbox) -> io::Result<Self> {
        self.sandbox = Some(Plan::new(sandbox)?);
        Ok(self)
    }

    /// Goes into its sandbox only, and leaves.
    pub(crate) fn only_try(mut self) -> Self {
        if let Some(plan) = &mut self.sandbox {
            plan.only_try();
        }
        self
    }

    /// Starts it, in a session of its own.
    ///
    /// # Errors
    /// When there is no such program, or the system has no more room; the message names the program. When it is a
    /// sandbox that cannot be entered, there is a [`crate::sandbox::Failure`] in the error; when the way there takes more than
    /// some minutes, it is [`io::ErrorKind::TimedOut`], and what was begun is ended.
    pub fn spawn(mut self) -> io::Result<Tree> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("start {name}: {error}"));
        let (reports, writer) = sys::report_channel().map_err(failed)?;
        let report_to = writer.as_raw_fd();
        let sandbox = self.finished_plan().map_err(failed)?.map(Arc::new);
        let output = self.connect_output(sandbox.as_deref()).map_err(failed)?;
        // Closes when the program runs; before, it says why it does not.
        let (failures, fail_writer) = posix::pipe().map_err(failed)?;
        let fail_to = fail_writer.as_raw_fd();
        let plan = sandbox.clone();
        // SAFETY: the closure runs between fork and exec and makes system calls only; it takes no lock, allocates
        // nothing, and touches no memory but its own copies and the plan, which is not changed any more. The writers
        // are open until after the spawn.
        unsafe {
            self.command.pre_exec(move || match &plan {
                #[cfg(all(target_os = "linux", not(drover_portable)))]
                Some(plan) => keeper::split_into(plan, report_to, fail_to),
                #[cfg(any(not(target_os = "linux"), drover_portable))]
                Some(plan) => plan.split_into(report_to, fail_to),
                None => supervisor::split(report_to),
            })
        };
        let mut supervisor = self.command.spawn().map_err(failed)?;
        drop((writer, fail_writer));
        let mut tree = Tree {
            stdin: supervisor.stdin.take(),
            stdout: supervisor.stdout.take(),
            stderr: supervisor.stderr.take(),
            output,
            supervisor,
            reports,
            pid: 0,
            exit: None,
            gone: false,
            ends_all: sandbox.is_some(),
        };
        let deadline = Deadline::after(self.patience);
        if let Some(sandbox) = sandbox {
            let record = next_record(&failures, deadline).map_err(|error| failed(tree.give_up(error)))?;
            if let Some(record) = record {
                let (step, error) = supervisor::parse_failure(record);
                let failure = sandbox.failure(&format!("start {name} in a sandbox"), step, &error);
                return Err(failure.map_or_else(|| failed(error), Failure::into_error));
            }
        }
        // Sent before the program starts, so it is there already or on its way.
        match tree.next_report(deadline).map_err(|error| failed(tree.give_up(error)))? {
            Some(Record::Started(pid)) => tree.pid = pid,
            _ => return Err(failed(io::Error::other("its supervisor ended at once"))),
        }
        Ok(tree)
    }

    /// The way into its sandbox, up to and including the program, if it has one.
    fn finished_plan(&mut self) -> io::Result<Option<Plan>> {
        let Some(mut plan) = self.sandbox.take() else { return Ok(None) };
        let program = self.command.get_program();
        let arguments = [self.name.as_deref().unwrap_or(program)].into_iter().chain(self.command.get_args());
        if self.own_variables {
            let variables = self.command.get_envs();
            let set = variables.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
            plan.run(program, arguments, set)?;
        } else {
            plan.run(program, arguments, std::env::vars_os())?;
        }
        Ok(Some(plan))
    }

    /// Makes the pipe for [`Program::one_output`]; the end to read from.
    fn connect_output(&mut self, sandbox: Option<&Plan>) -> io::Result<Option<File>> {
        if !self.one_output {
            return Ok(None);
        }
        let (reader, writer) = posix::blocking_pipe()?;
        if let Some(plan) = sandbox {
            plan.hand_over(&writer)?;
        }
        self.command.stdout(writer.try_clone()?).stderr(writer);
        Ok(Some(reader.into()))
    }
}

#[cfg(all(test, target_os = "linux", not(drover_portable)))]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use crate::sandbox::{Ids, Limits, available};

    #[test]
    fn what_hangs_on_its_way_into_a_sandbox_is_ended() {
        if let Err(why) = available() {
            eprintln!("SKIPPED: {why}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sandbox = Sandbox {
            root: folder.path().to_owned(),
            made: Vec::new(),
            binds: Vec::new(),
            ids: Ids { inside: (1, 1), outside: crate::user::is_root().then_some((1, 1)) },
            host_name: "localhost".into(),
            network: false,
            bits32: false,
            folder: "/".into(),
            limits: Limits::default(),
            cgroup: None,
        };
        for start in [Plan::hang_outside, Plan::hang_inside] {
            let mut program = Program::new("/nothing").sandbox(&sandbox).unwrap();
            start(program.sandbox.as_mut().unwrap(), &pipe);
            program.patience = Duration::from_millis(200);
            let error = program.spawn().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            assert!(error.to_string().starts_with("start /nothing: "), "{error}");
            // Who waits for somebody to read from it counts as one who writes.
            let mut reader =
                OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }
}
