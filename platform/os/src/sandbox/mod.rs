//! Programs that see nothing but what they are given: a root of their own, their own processes, network, users and
//! devices.
//!
//! A [`Sandbox`] says what a program gets; [`crate::process::Program::sandbox`] puts the program into it, and everything
//! else about running it is as ever. What is done between fork and exec is a list of steps that is made before
//! (`plan.rs`), for there only system calls are allowed (`enter.rs`). The step that fails is told by its number, and named
//! by the [`Failure`] within the error of [`crate::process::Program::spawn`].
//!
//! There are two ways in. As root the mounts are made with root's rights, and then a user namespace is entered in which
//! nobody exists but root, to whom files may belong, and the program's own user. Without root a user namespace comes
//! first, in which we are the program's user, and lends the rights for the rest.

mod available;
pub mod cgroup;
mod failure;

#[cfg(all(target_os = "linux", not(drover_portable)))]
mod action;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod enter;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod mounts;
#[cfg(all(target_os = "linux", not(drover_portable)))]
pub(crate) mod plan;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod seccomp;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod users;

#[cfg(any(not(target_os = "linux"), drover_portable))]
#[path = "elsewhere.rs"]
pub(crate) mod plan;

use std::path::{Path, PathBuf};

pub use available::{Unavailable, available};
pub use failure::{Failure, Step};

/// What a program gets instead of the machine.
#[derive(Debug)]
pub struct Sandbox {
    /// An absolute path to a folder of the machine, on which `/` is mounted: a file system in memory, which nobody inside can
    /// change. What the folder itself has is hidden from what is mounted, so none of it can be a bind's.
    pub root: PathBuf,
    /// What is made in it before anything is mounted, parents first; /proc and /dev come by themselves.
    pub made: Vec<Made>,
    /// What of the machine is there, mounted in this order. Where one goes there is an empty file or folder: made, or within
    /// an earlier one of these, where it is the caller's to make.
    pub binds: Vec<Bind>,
    /// Who the program is.
    pub ids: Ids,
    /// What the machine is called in there.
    pub host_name: String,
    /// The machine's own network; without it there is a loopback that is up, and nothing else.
    pub network: bool,
    /// The processor claims to be one of 32 bits, as it does in any case if we are a program for one.
    pub bits32: bool,
    /// Where the program starts: an absolute path inside.
    pub folder: PathBuf,
    /// What it may use.
    pub limits: Limits,
    /// The control group that it runs in. It is emptied and removed with the sandbox.
    pub cgroup: Option<cgroup::Group>,
}

/// Something small that is in the root of a sandbox, by its absolute path inside. It belongs to root, or to ourselves without
/// root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A folder.
    Folder(PathBuf),
    /// A file that everybody may read.
    File(PathBuf, Vec<u8>),
    /// A symbolic link, and where it leads.
    Link(PathBuf, PathBuf),
}

impl Made {
    /// Its path inside.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path, _) | Self::Link(path, _) => path,
        }
    }
}

/// A file or folder of the machine that is there in a sandbox; symbolic links are refused, for they would be followed:
/// make them. What is mounted below it is not there, and neither setuid programs nor devices work in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Its absolute path on the machine.
    pub from: PathBuf,
    /// Its absolute path inside.
    pub to: PathBuf,
    /// Whether it may be changed.
    pub write: bool,
}

/// Who a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Its user and group inside.
    pub inside: (u32, u32),
    /// As root: the user and group that these are on the machine. `None`: ourselves, which needs no root.
    pub outside: Option<(u32, u32)>,
}

/// What a program may use. `None`: as much as we may. It leaves no core files unless it asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The processes and threads of its user. Before Linux 5.14 those outside of the sandbox count, too.
    pub processes: Option<u64>,
    /// The bytes that a file may have.
    pub file_size: Option<u64>,
    /// The files that each process may have open at a time.
    pub open_files: Option<u64>,
}
