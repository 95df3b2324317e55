//! The way into a sandbox as a list of steps, made before the fork.

use std::ffi::{CString, OsStr, OsString, c_ulong};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::action::{Action, Resource, Run};
use super::{Failure, Ids, Limits, Sandbox, enter, mounts, seccomp, users};

/// Numbers of the kernel's (`linux/personality.h`).
const PER_LINUX32: c_ulong = 0x0008;
const ADDR_NO_RANDOMIZE: c_ulong = 0x0004_0000;
/// The group that files have for us whose own is not in our user namespace.
const NO_GROUP: u32 = 65534;

/// A way into a sandbox.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the supervisor does before it makes the program's process.
    outer: Vec<Action>,
    /// What the keeper does before it makes the program's process.
    middle: Vec<Action>,
    /// What the program's process does.
    inner: Vec<Action>,
    /// Who is whom in the program's user namespace, if the supervisor has to say so: the users, and the groups.
    maps: Option<[Vec<u8>; 2]>,
    /// Whose pipe the program writes to.
    owner: Option<(u32, u32)>,
}

impl Plan {
    /// The way into this sandbox, up to where the program runs.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what cannot be, and what reading the machine reports.
    pub(crate) fn new(sandbox: &Sandbox) -> io::Result<Self> {
        let mut outer = Vec::new();
        let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if !sandbox.network {
            namespaces |= libc::CLONE_NEWNET;
        }
        let (maps, groups) = match sandbox.ids.outside {
            Some(outside) => {
                outer.push(Action::Unshare(libc::CLONE_NEWPID));
                let groups = mounts::device_groups();
                let groups: Vec<_> = groups.filter(|group| !is_taken(*group, sandbox.ids, outside)).collect();
                (Some(maps(sandbox.ids, outside, &groups)?), Some(groups))
            }
            None => {
                outer.push(Action::Unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID));
                outer.extend(own_maps(sandbox.ids));
                // Without root nobody may forget groups: they could be what a file's permissions keep out.
                (None, None)
            }
        };
        // The keeper is the first process of one pid namespace, in which it makes another, whose first one is the program.
        let middle = vec![Action::Unshare(libc::CLONE_NEWPID)];
        // What it puts into file systems in memory counts for nobody, so the kernel would take the largest process that there
        // is. As root this is done with root's rights, without which it is not taken back.
        let mut inner = vec![Action::Expendable, Action::Mask(0o022)];
        if let Some(group) = &sandbox.cgroup {
            inner.push(Action::Join(OpenOptions::new().write(true).open(group.processes())?.into()));
        }
        inner.push(Action::Unshare(namespaces));
        inner.extend(mounts::actions(sandbox)?);
        inner.push(Action::Name(text(&sandbox.host_name)?));
        if !sandbox.network {
            inner.push(Action::Loopback);
        }
        if maps.is_some() {
            inner.push(Action::Users);
        }
        let (user, group) = sandbox.ids.inside;
        inner.extend([Action::Bounds, Action::Identity { user, group, groups }, Action::Powerless]);
        inner.extend(limits(sandbox.limits));
        // We may be of 32 bits ourselves, and the kernel of 64.
        let bits32 = sandbox.bits32 || cfg!(target_pointer_width = "32");
        // Addresses are the same each time, as guix-daemon has it: some programs put them into what they build.
        let kind = if bits32 { PER_LINUX32 } else { 0 };
        let filter = seccomp::Kind { network: sandbox.network, bits32 };
        inner.extend([
            Action::Personality(kind | ADDR_NO_RANDOMIZE),
            Action::Go(path(&sandbox.folder)?),
            Action::NoNewRights,
            Action::Filter(seccomp::filter(filter)?),
        ]);
        Ok(Self { outer, middle, inner, maps, owner: sandbox.ids.outside })
    }

    /// Adds the program: its path inside, all of its arguments from its name on, and its variables.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when one of them has a zero byte in it.
    pub(crate) fn run<'text>(
        &mut self,
        program: &OsStr,
        arguments: impl Iterator<Item = &'text OsStr>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<()> {
        let variables = variables.map(|(name, value)| {
            let mut variable = name;
            variable.push("=");
            variable.push(value);
            text(variable)
        });
        let arguments = arguments.map(text).collect::<io::Result<_>>()?;
        self.inner.push(Action::Run(Run::new(
            text(program)?,
            arguments,
            variables.collect::<io::Result<_>>()?,
        )));
        Ok(())
    }

    /// Ends where the program would run.
    pub(crate) fn only_try(&mut self) {
        self.inner.push(Action::Leave);
    }

    /// Has the supervisor wait until somebody reads from this pipe.
    #[cfg(test)]
    pub(crate) fn hang_outside(&mut self, pipe: &Path) {
        self.outer.insert(0, Action::Write { file: text(pipe).unwrap(), text: Vec::new() });
    }

    /// Has the program's process wait until somebody reads from this pipe.
    #[cfg(test)]
    pub(crate) fn hang_inside(&mut self, pipe: &Path) {
        self.inner.insert(0, Action::Write { file: text(pipe).unwrap(), text: Vec::new() });
    }

    /// Gives the program what it writes to, so that it may open it anew by its name in /dev.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn hand_over(&self, descriptor: impl AsFd) -> io::Result<()> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        Ok(nix::unistd::fchown(descriptor, Some(user.into()), Some(group.into()))?)
    }

    /// What failed, by the number that [`Plan::enter_outer`], [`Plan::enter_middle`] or [`Plan::enter`] gave. The words begin with these.
    pub(crate) fn failure(&self, attempt: &str, number: i32, error: &io::Error) -> Option<Failure> {
        let number = usize::try_from(number).ok()?;
        let action = self.outer.iter().chain(&self.middle).chain(&self.inner).nth(number)?;
        Some(Failure::new(action.step(), format!("{attempt}: {}", action.words()), error.raw_os_error()?))
    }

    /// Does what the supervisor does; an error comes with the number of the step that failed.
    ///
    /// Safe to call between fork and exec: system calls on what was made before.
    pub(crate) fn enter_outer(&self) -> Result<(), (i32, io::Error)> {
        enter::all(&self.outer, 0, -1)
    }

    /// Does what the keeper does; an error comes with the number of the step that failed.
    ///
    /// Safe to call between fork and exec: system calls on what was made before.
    pub(crate) fn enter_middle(&self) -> Result<(), (i32, io::Error)> {
        enter::all(&self.middle, self.outer.len(), -1)
    }

    /// Does what the program's process does, and becomes the program; `helper` leads to who answers with
    /// [`Plan::help`]. Returns when a step fails.
    ///
    /// Safe to call between fork and exec: system calls on what was made before.
    pub(crate) fn enter(&self, helper: RawFd) -> (i32, io::Error) {
        match enter::all(&self.inner, self.outer.len() + self.middle.len(), helper) {
            Err(failure) => failure,
            // The last step runs the program.
            Ok(()) => (-1, io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    /// What has to stay open for it, or -1.
    pub(crate) fn descriptor(&self) -> RawFd {
        let mut joins = self.inner.iter();
        let found = joins.find_map(|action| match action {
            Action::Join(processes) => Some(processes.as_raw_fd()),
            _ => None,
        });
        found.unwrap_or(-1)
    }

    /// Waits until the program's process asks by this socket, whose other end nobody else has, and says who is whom in its
    /// user namespace. Comes back, too, when the process ends before, and at once if it says so itself.
    ///
    /// Safe to call between fork and exec: system calls on what was made before.
    pub(crate) fn help(&self, program: libc::pid_t, socket: RawFd) {
        if let Some([names, groups]) = &self.maps {
            users::help(program, socket, names, groups);
        }
    }
}

/// Who is whom, for one who is root and has root's files, the program's user and these further groups seen; others do not
/// exist.
fn maps(ids: Ids, outside: (u32, u32), groups: &[u32]) -> io::Result<[Vec<u8>; 2]> {
    let map = |inside: u32, outside: u32| {
        if outside == 0 {
            return Err(invalid("a program in a sandbox is not run as root of the machine"));
        }
        let root = if inside == 0 { "" } else { "0 0 1\n" };
        Ok(format!("{root}{inside} {outside} 1\n"))
    };
    let further = groups.iter().map(|group| format!("{group} {group} 1\n"));
    let users = map(ids.inside.0, outside.0)?;
    let groups = map(ids.inside.1, outside.1)?.into_bytes().into_iter();
    Ok([users.into_bytes(), groups.chain(further.flat_map(String::into_bytes)).collect()])
}

/// Whether a group of the machine cannot be one that the program has besides: it is root's, or its number is another's in there,
/// or it stands for all that have none where we are.
fn is_taken(group: u32, ids: Ids, outside: (u32, u32)) -> bool {
    [0, ids.inside.1, outside.1, NO_GROUP].contains(&group)
}

/// The steps by which we become who we are in the user namespace that we just made.
fn own_maps(ids: Ids) -> [Action; 3] {
    let write = |file: &std::ffi::CStr, text: String| Action::Write {
        file: file.to_owned(),
        text: text.into_bytes(),
    };
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    [
        // Without it the kernel takes no group.
        write(c"/proc/self/setgroups", "deny".into()),
        write(c"/proc/self/uid_map", format!("{} {user} 1\n", ids.inside.0)),
        write(c"/proc/self/gid_map", format!("{} {group} 1\n", ids.inside.1)),
    ]
}

fn limits(limits: Limits) -> impl Iterator<Item = Action> {
    let limit = |resource: Resource, most: Option<u64>| {
        most.map(|most| Action::Limit { resource, now: most, most: Some(most) })
    };
    [
        Some(Action::Limit { resource: libc::RLIMIT_CORE, now: 0, most: None }),
        limit(libc::RLIMIT_NPROC, limits.processes),
        limit(libc::RLIMIT_FSIZE, limits.file_size),
        limit(libc::RLIMIT_NOFILE, limits.open_files),
    ]
    .into_iter()
    .flatten()
}

/// A text without a zero byte.
pub(super) fn text(text: impl AsRef<OsStr>) -> io::Result<CString> {
    let text = text.as_ref();
    CString::new(text.as_bytes())
        .map_err(|_| invalid(&format!("{}: has a zero byte", text.to_string_lossy())))
}

/// An absolute path.
pub(super) fn path(path: &Path) -> io::Result<CString> {
    if !path.is_absolute() {
        return Err(invalid(&format!("{}: is no absolute path", path.display())));
    }
    text(path)
}

pub(super) fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
