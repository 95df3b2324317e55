//! The steps into a sandbox: everything that they need is made before, and they have words for when they fail.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::os::fd::OwnedFd;

use super::Step;

/// A step into a sandbox.
#[derive(Debug)]
pub(super) enum Action {
    /// Has the kernel end this process, and those that it starts, before any of the machine's own when memory runs out.
    /// Where that cannot be it is left out.
    Expendable,
    /// Goes into a control group by the file that lists its processes.
    Join(OwnedFd),
    /// Leaves these namespaces for fresh ones.
    Unshare(c_int),
    /// Writes all of this into a file at once.
    Write { file: CString, text: Vec<u8> },
    /// Takes the mounts out of the sight of the machine.
    Private,
    /// Mounts a file system.
    Mount { from: CString, to: CString, kind: CString, flags: c_ulong, data: CString },
    /// Has a file or folder appear at a second place, with these restrictions beside those that it has.
    Bind { from: CString, to: CString, flags: c_ulong },
    /// Sets the restrictions of what is mounted here.
    Restrict { to: CString, flags: c_ulong },
    /// Makes a folder.
    Folder { path: CString, mode: libc::mode_t },
    /// Makes a file.
    File { path: CString, text: Vec<u8> },
    /// Makes a symbolic link.
    Link { to: CString, at: CString },
    /// Makes this folder, which is a mount point, the root, and lets go of the old one.
    Root(CString),
    /// Says what the machine is called.
    Name(CString),
    /// Brings the loopback up.
    Loopback,
    /// Enters a user namespace; the supervisor says who is whom.
    Users,
    /// Gives up for ever what programs might be allowed to do beyond a user's rights.
    Bounds,
    /// Becomes this user and group; with these further groups, or those that came with us.
    Identity { user: u32, group: u32, groups: Option<Vec<libc::gid_t>> },
    /// Gives up every right beyond the user's.
    Powerless,
    /// Sets a limit: as it counts, and how far it may be raised, if that is to be set.
    Limit { resource: Resource, now: u64, most: Option<u64> },
    /// Says what kind of processor this is.
    Personality(c_ulong),
    /// From now on no program gives more rights than whoever runs it has.
    NoNewRights,
    /// From now on these system calls are refused.
    Filter(Vec<libc::sock_filter>),
    /// Says which permissions new files do not get.
    Mask(libc::mode_t),
    /// Goes to this folder.
    Go(CString),
    /// Becomes the program.
    Run(Run),
    /// Ends well, instead of running a program.
    Leave,
}

/// What the C libraries call a resource differs in type.
#[cfg(target_env = "gnu")]
pub(super) type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
pub(super) type Resource = c_int;

impl Action {
    /// What it is about.
    pub(super) fn step(&self) -> Step {
        match self {
            Self::Join(_) => Step::Cgroup,
            Self::Unshare(_) => Step::Namespaces,
            Self::Write { .. } | Self::Users => Step::Users,
            Self::Mount { kind, .. } if kind.as_c_str() == c"proc" => Step::Processes,
            Self::Private
            | Self::Mount { .. }
            | Self::Bind { .. }
            | Self::Restrict { .. }
            | Self::Folder { .. }
            | Self::File { .. }
            | Self::Link { .. }
            | Self::Root(_)
            | Self::Go(_) => Step::Mounts,
            Self::Name(_) | Self::Loopback => Step::Network,
            Self::Expendable
            | Self::Bounds
            | Self::Identity { .. }
            | Self::Powerless
            | Self::Limit { .. }
            | Self::Personality(_)
            | Self::NoNewRights
            | Self::Filter(_)
            | Self::Mask(_) => Step::Rights,
            Self::Run(_) | Self::Leave => Step::Program,
        }
    }

    /// What is attempted, on what.
    pub(super) fn words(&self) -> String {
        let lossy = |text: &CStr| text.to_string_lossy().into_owned();
        match self {
            Self::Expendable => "be the first to end when memory runs out".to_owned(),
            Self::Join(_) => "go into its control group".to_owned(),
            Self::Unshare(flags) => format!("make {}", namespaces(*flags)),
            Self::Write { file, text } => {
                format!("write “{}” to {}", String::from_utf8_lossy(text).trim_end(), lossy(file))
            }
            Self::Private => "take its mounts apart from the machine's".to_owned(),
            Self::Mount { to, kind, .. } => format!("mount a {} on {}", lossy(kind), lossy(to)),
            Self::Bind { from, to, .. } => format!("mount {} on {}", lossy(from), lossy(to)),
            Self::Restrict { to, .. } => format!("restrict what is mounted on {}", lossy(to)),
            Self::Folder { path, .. } => format!("make the folder {}", lossy(path)),
            Self::File { path, .. } => format!("make the file {}", lossy(path)),
            Self::Link { at, .. } => format!("make the symbolic link {}", lossy(at)),
            Self::Root(root) => format!("make {} its root", lossy(root)),
            Self::Name(name) => format!("call the machine {}", lossy(name)),
            Self::Loopback => "bring its loopback up".to_owned(),
            Self::Users => "make a user namespace and say who is whom in it".to_owned(),
            Self::Bounds | Self::Powerless => "give up the rights of root".to_owned(),
            Self::Identity { user, group, .. } => format!("become user {user} of group {group}"),
            Self::Limit { now, .. } => format!("set a limit to {now}"),
            Self::Personality(_) => "set its personality".to_owned(),
            Self::NoNewRights => "forbid setuid programs".to_owned(),
            Self::Filter(_) => "install its filter of system calls".to_owned(),
            Self::Mask(_) => "set the permissions of new files".to_owned(),
            Self::Go(folder) => format!("go to the folder {}", lossy(folder)),
            Self::Run(run) => format!("run {}", lossy(&run.program)),
            Self::Leave => "leave".to_owned(),
        }
    }
}

/// The names of namespaces.
fn namespaces(flags: c_int) -> String {
    let all = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNS, "mount"),
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
    ];
    let names: Vec<_> = all.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    format!("namespaces ({})", names.join(", "))
}

/// A program with its arguments and variables, as the system takes them.
#[derive(Debug)]
pub(super) struct Run {
    program: CString,
    arguments: Strings,
    variables: Strings,
}

/// Strings, and the addresses of all of them with a null behind.
#[derive(Debug)]
struct Strings {
    /// What the pointers point to; never changed.
    _texts: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers point into heap memory that belongs to the same value, moves with it nowhere and is never written.
unsafe impl Send for Strings {}
// SAFETY: as above: it is only read.
unsafe impl Sync for Strings {}

impl Strings {
    fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _texts: texts, pointers }
    }
}

impl Run {
    /// The program by its path, with all arguments from its own name on.
    pub(super) fn new(program: CString, arguments: Vec<CString>, variables: Vec<CString>) -> Self {
        Self { program, arguments: Strings::new(arguments), variables: Strings::new(variables) }
    }

    /// Its path.
    pub(super) fn program(&self) -> *const c_char {
        self.program.as_ptr()
    }

    /// Its arguments, with a null behind.
    pub(super) fn arguments(&self) -> *const *const c_char {
        self.arguments.pointers.as_ptr()
    }

    /// Its variables, with a null behind.
    pub(super) fn variables(&self) -> *const *const c_char {
        self.variables.pointers.as_ptr()
    }
}
