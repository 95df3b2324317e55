//! Goes the way into a sandbox. Everything here runs between fork and exec: system calls on memory that was made before
//! or lies on the stack, no allocation, no lock.

use std::ffi::{CStr, c_char, c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null;

use super::action::{Action, Resource, Run};
use super::users::{ask, write, write_file};

/// Numbers as wide as the kernel reads them.
const NONE: c_ulong = 0;
const ONE: c_ulong = 1;

/// Does one after the other; an error comes with the number of its action, counted from `first`.
pub(super) fn all(actions: &[Action], first: usize, helper: RawFd) -> Result<(), (i32, io::Error)> {
    for (index, action) in actions.iter().enumerate() {
        if let Err(error) = perform(action, helper) {
            return Err((i32::try_from(first.saturating_add(index)).unwrap_or(i32::MAX), error));
        }
    }
    Ok(())
}

/// What a system call that says less than 0 for “no” reports.
pub(super) fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn perform(action: &Action, helper: RawFd) -> io::Result<()> {
    // SAFETY: for all calls below: pointers are to zero-ended strings and to values that the action owns or that lie on our
    // stack, the kernel keeps none of them, and what is changed is this process alone, which is one thread.
    unsafe {
        match action {
            Action::Expendable => {
                let _ = write_file(c"/proc/self/oom_score_adj", b"1000");
                Ok(())
            }
            // The kernel takes 0 for whoever writes.
            Action::Join(processes) => write(processes.as_raw_fd(), b"0"),
            Action::Unshare(flags) => done(libc::unshare(*flags)),
            Action::Write { file, text } => write_file(file, text),
            Action::Private => {
                done(libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()))
            }
            Action::Mount { from, to, kind, flags, data } => {
                done(libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), *flags, data.as_ptr().cast()))
            }
            Action::Bind { from, to, flags } => {
                done(libc::mount(from.as_ptr(), to.as_ptr(), null(), libc::MS_BIND, null()))?;
                if *flags == 0 { Ok(()) } else { restrict(to, *flags) }
            }
            Action::Restrict { to, flags } => restrict(to, *flags),
            Action::Folder { path, mode } => {
                done(libc::mkdir(path.as_ptr(), *mode))?;
                // As it is said, whatever new files do not get.
                done(libc::chmod(path.as_ptr(), *mode))
            }
            Action::File { path, text } => {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
                let file = libc::open(path.as_ptr(), flags, 0o666);
                done(file)?;
                let written = write(file, text);
                done(libc::close(file))?;
                written
            }
            Action::Link { to, at } => done(libc::symlink(to.as_ptr(), at.as_ptr())),
            Action::Root(root) => change_root(root),
            Action::Name(name) => {
                done(libc::sethostname(name.as_ptr(), name.count_bytes()))?;
                // What the kernel says where none is set.
                let none = c"(none)";
                done(libc::setdomainname(none.as_ptr(), none.count_bytes()))
            }
            Action::Loopback => loopback(),
            Action::Users => {
                done(libc::unshare(libc::CLONE_NEWUSER))?;
                ask(helper)
            }
            Action::Bounds => give_up_bounds(),
            Action::Identity { user, group, groups } => {
                if let Some(groups) = groups {
                    done(libc::setgroups(groups.len(), groups.as_ptr()))?;
                }
                done(libc::setresgid(*group, *group, *group))?;
                done(libc::setresuid(*user, *user, *user))
            }
            Action::Powerless => powerless(),
            Action::Limit { resource, now, most } => limit(*resource, *now, *most),
            Action::Personality(kind) => done(libc::personality(*kind)),
            Action::NoNewRights => done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ONE, NONE, NONE, NONE)),
            Action::Filter(filter) => install(filter),
            Action::Mask(mode) => {
                libc::umask(*mode);
                Ok(())
            }
            Action::Go(folder) => done(libc::chdir(folder.as_ptr())),
            Action::Run(run) => execute(run),
            Action::Leave => libc::_exit(0),
        }
    }
}

/// Becomes the program. Waits a while for one that somebody holds open for writing: a process that another of our threads
/// forked does so for a moment when it was being written at that time.
fn execute(run: &Run) -> io::Result<()> {
    const MOMENT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    for _ in 0..200 {
        // SAFETY: what is handed over is as the call wants it, and lives; it returns only if it failed. The pause is a
        // constant's copy.
        unsafe {
            let result = done(libc::execve(run.program(), run.arguments(), run.variables()));
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
                    libc::nanosleep(&MOMENT, std::ptr::null_mut());
                }
                result => return result,
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::ETXTBSY))
}

/// Adds restrictions to a mount. Those that it has stay: in a user namespace the kernel refuses to take any away.
fn restrict(to: &CStr, flags: c_ulong) -> io::Result<()> {
    // SAFETY: the structure is plain numbers, ours, and of the type that the call fills; the path ends with a zero.
    unsafe {
        let mut now: libc::statvfs = std::mem::zeroed();
        done(libc::statvfs(to.as_ptr(), &raw mut now))?;
        // These four have the same values in what is told and in what is set; the others stay as they are by themselves.
        let all = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let flags = libc::MS_REMOUNT | libc::MS_BIND | flags | (now.f_flag & all);
        done(libc::mount(null(), to.as_ptr(), null(), flags, null()))
    }
}

/// Puts the root below this mount point and lets go of it.
fn change_root(root: &CStr) -> io::Result<()> {
    let here = c".";
    let slash = c"/";
    // SAFETY: all strings end with a zero.
    unsafe {
        done(libc::chdir(root.as_ptr()))?;
        // With both the same, the old root is on top of the new one, from where it is taken away.
        if libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) == 0 {
            done(libc::umount2(here.as_ptr(), libc::MNT_DETACH))?;
        } else {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
            // The first file system of all, from the kernel's initramfs, cannot be let go of: it is covered.
            done(libc::mount(here.as_ptr(), slash.as_ptr(), null(), libc::MS_MOVE, null()))?;
            done(libc::chroot(here.as_ptr()))?;
        }
        done(libc::chdir(slash.as_ptr()))
    }
}

fn loopback() -> io::Result<()> {
    // SAFETY: the request is ours, plain bytes, and filled as far as the call reads it; the socket is closed once.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        done(socket)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            *to = *from as c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = done(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request));
        libc::close(socket);
        result
    }
}

/// Empties the set of rights that running a program could give.
fn give_up_bounds() -> io::Result<()> {
    for right in 0..64 as c_ulong {
        // SAFETY: takes numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, right, NONE, NONE, NONE) } != 0 {
            let error = io::Error::last_os_error();
            // The first number that is none.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Empties the sets of rights that we have (`linux/capability.h`), and with them those that programs are handed.
fn powerless() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: the kernel reads the header, whose second number is our own process, and three numbers twice.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn limit(resource: Resource, now: u64, most: Option<u64>) -> io::Result<()> {
    // What a smaller machine cannot count is no limit there.
    #[allow(clippy::useless_conversion)] // the same numbers here, not everywhere
    let number = |limit| libc::rlim_t::try_from(limit).unwrap_or(libc::rlim_t::MAX);
    // SAFETY: the structure is ours and of the type that the calls read and fill.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        done(libc::getrlimit(resource, &raw mut limit))?;
        // Nobody without rights can raise what they are held to.
        if let Some(most) = most {
            limit.rlim_max = limit.rlim_max.min(number(most));
        }
        limit.rlim_cur = limit.rlim_max.min(number(now));
        done(libc::setrlimit(resource, &raw const limit))
    }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel does not write to it.
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(u16::MAX),
        filter: filter.as_ptr().cast_mut(),
    };
    let set = |flags: c_ulong| {
        // SAFETY: the program describes the filter, which lives during the call.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // Filters are no reason to run slower for fear of what is speculated: this one keeps no secrets. Old kernels do not know.
    match set(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(0),
        result => result,
    }
}
