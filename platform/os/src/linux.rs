//! What is Linux's own. `hurd.rs` has the same functions, but for those that a sandbox alone needs.

use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use crate::machine::Memory;
use crate::posix::{self, set_option};
pub(crate) use kin::{ask_for_senders, be_known, end_with_parent, is_told, sender, tell};

#[path = "linux/kin.rs"]
mod kin;

/// Whether no program runs from the file system that holds `path`, as it is mounted there.
pub(crate) fn is_noexec(path: &Path) -> Option<bool> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    Some(statvfs(path).ok()?.flags().contains(FsFlags::ST_NOEXEC))
}

/// A program can have a signal sent to it when the other side of a socket ends.
pub(crate) const IS_HANG_UP_HEARD: bool = true;

/// Who waits at a socket is woken when it is shut down.
pub(crate) const LOOK_WHETHER_CANCELLED: Option<Duration> = None;

/// Probes a silent TCP peer after `idle`, then every quarter of it, and gives it up after four probes.
pub(crate) fn set_keepalive(socket: BorrowedFd<'_>, idle: Duration) -> io::Result<()> {
    let seconds = c_int::try_from(idle.as_secs()).unwrap_or(c_int::MAX).max(1);
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 4).max(1))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4)
}

/// Reads what is in the page cache; none where there is nothing of it, or the file system or kernel cannot tell.
pub(crate) fn read_from_memory(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<Option<usize>> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The two halves where a register has one, and all of it and nothing that counts where it has both.
    #[allow(clippy::cast_possible_truncation)]
    let (low, high) = (offset as libc::c_long, (offset >> 32) as libc::c_long);
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `part` describes `buffer`, which is ours alone during the call; nothing is kept. The system call itself,
    // for older C libraries have no function for it.
    let read = unsafe {
        libc::syscall(libc::SYS_preadv2, file.as_raw_fd(), &raw const part, 1, low, high, libc::RWF_NOWAIT)
    };
    match usize::try_from(read) {
        Ok(read) => Ok(Some(read)),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(None)
            }
            error => Err(error),
        },
    }
}

/// A number that the kernel takes at each start.
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// Makes the calling process inherit the orphans among its descendants.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn adopt_orphans() {
    // SAFETY: takes and writes no memory. Where it is not to be had, see below.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Whether there is something like the adoption of orphans. QEMU says EINVAL where it plays the processor of a program and nothing
/// else, and orphans go to the system's first process: then what is left of a program is what is left of its process group.
///
/// Safe to call between fork and exec: one system call.
fn can_adopt() -> bool {
    let mut adopts: c_int = 0;
    // SAFETY: writes to a number of ours.
    unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut adopts, 0, 0, 0) == 0 }
}

/// Gives the calling process a name of its own, of at most 15 bytes, among those that are listed.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn call_process(name: &CStr) {
    // SAFETY: the name ends with a zero, and is only read. It is there on every kernel.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Closes every descriptor of the calling process but these; negative ones count for nothing.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn close_all_but<const COUNT: usize>(mut keep: [RawFd; COUNT]) {
    keep.sort_unstable();
    let range = |first: libc::c_uint, last: libc::c_uint| {
        // SAFETY: a system call without memory. Its caller gives up these descriptors for good.
        first > last || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
    };
    let (mut first, mut closed) = (0, true);
    for kept in keep.iter().filter_map(|kept| libc::c_uint::try_from(*kept).ok()) {
        closed = closed && (kept == 0 || range(first, kept - 1));
        first = kept.saturating_add(1);
    }
    if closed && range(first, libc::c_uint::MAX) {
        return;
    }
    // Kernels before 5.9.
    posix::close_all_but(&keep);
}

extern "C" fn woken(_signal: c_int) {}

/// Has the end of a child wake the calling process in [`wait_for_child_or_reader_gone`] and [`wait_for_child`], and
/// nowhere else, so that none is missed.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn wake_for_children() {
    // SAFETY: both sets are ours, on the stack, and filled before they are used; the handler does nothing.
    unsafe {
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const children, std::ptr::null_mut());
        libc::signal(libc::SIGCHLD, woken as extern "C" fn(c_int) as libc::sighandler_t);
    }
}

/// By what a supervisor reports, the end of who reads it first: non-blocking, closed on exec.
pub(crate) fn report_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    posix::pipe()
}

/// Waits until a child ends, or nobody can read any more what is written to this pipe, but no longer than this; whether
/// it is that nobody can.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn wait_for_child_or_reader_gone(pipe: RawFd, longest: Option<Duration>) -> bool {
    // That its other end is closed is told without being asked for.
    let mut entry = libc::pollfd { fd: pipe, events: 0, revents: 0 };
    let longest = longest.map(timespec);
    let longest = longest.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    wait_for_children(&raw mut entry, 1, longest) && entry.revents != 0
}

/// Waits until a child ends, but no longer than this.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn wait_for_child(longest: Duration) {
    let longest = timespec(longest);
    wait_for_children(std::ptr::null_mut(), 0, &raw const longest);
}

fn timespec(time: Duration) -> libc::timespec {
    #[allow(clippy::cast_possible_wrap)] // below a thousand million
    let nanoseconds = time.subsec_nanos() as libc::c_long;
    // A time has no more bits on some systems.
    let seconds = i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
    libc::timespec { tv_sec: seconds.into(), tv_nsec: nanoseconds }
}

/// Waits with all signals let in: whether it is about the descriptors.
fn wait_for_children(
    entries: *mut libc::pollfd,
    count: libc::nfds_t,
    longest: *const libc::timespec,
) -> bool {
    // SAFETY: the set is ours and filled before it is used; the callers own the entries, as many as they say, and the
    // time, during the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::ppoll(entries, count, longest, &raw const none) > 0
    }
}

/// Whether something is left of a program that has ended, and whose end no signal will tell: where orphans are adopted, all that
/// is left are the calling process' children.
pub(crate) fn is_something_left(program: libc::pid_t) -> bool {
    !can_adopt() && posix::has_members(program)
}

/// Sends SIGKILL to every child of the calling process.
///
/// Safe to call between fork and exec: system calls only, and nothing but the stack. That is why it reads /proc by hand.
pub(crate) fn kill_what_is_left(program: libc::pid_t) {
    if !can_adopt() {
        posix::kill_group(program);
    }
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { libc::getpid() };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the name ends with a zero.
    let proc = unsafe { libc::open(c"/proc".as_ptr(), flags) };
    if proc < 0 {
        return;
    }
    let mut entries = [0_u8; 4096];
    loop {
        // SAFETY: `entries` is ours, and as long as said. The call fills it with whole entries.
        let filled =
            unsafe { libc::syscall(libc::SYS_getdents64, proc, entries.as_mut_ptr(), entries.len()) };
        let Some(mut left) = usize::try_from(filled).ok().and_then(|filled| entries.get(..filled)) else {
            break;
        };
        if left.is_empty() {
            break;
        }
        while let Some((name, rest)) = next_entry(left) {
            left = rest;
            if parent_of(proc, name) == Some(own) {
                if let Some(child) = number(name) {
                    // SAFETY: a child of ours that nobody has waited for: its number is nobody else's.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                }
            }
        }
    }
    // SAFETY: opened above, and used by nobody else.
    unsafe { libc::close(proc) };
}

/// The name of the first entry that `getdents64` gave, and what is behind it. An entry is a number and an offset of eight
/// bytes each, its length of two, a kind of one, and a name that ends with a zero.
fn next_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes([*entries.get(16)?, *entries.get(17)?]));
    let name = entries.get(19..length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some((&name[..end], entries.get(length..)?))
}

/// A process id in digits.
fn number(digits: &[u8]) -> Option<libc::pid_t> {
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|pid| *pid > 0)
}

/// The parent of the process whose folder in /proc has this name. Allocates nothing.
fn parent_of(proc: RawFd, name: &[u8]) -> Option<libc::pid_t> {
    number(name)?;
    let mut path = [0_u8; 32];
    path.get_mut(..name.len())?.copy_from_slice(name);
    path.get_mut(name.len()..)?.get_mut(..5)?.copy_from_slice(b"/stat");
    // Its first fields are far shorter, whatever the program is called.
    let mut stat = [0_u8; 512];
    // SAFETY: the path ends with a zero, for there is room for more; the buffer is ours and as long as said; the
    // descriptor is closed once.
    let read = unsafe {
        let file = libc::openat(proc, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let read = libc::read(file, stat.as_mut_ptr().cast(), stat.len());
        libc::close(file);
        read
    };
    let (_, parent) = state_and_parent(stat.get(..usize::try_from(read).ok()?)?)?;
    libc::pid_t::try_from(parent).ok()
}

/// Kills what runs below a supervisor. One that forks meanwhile hands its child to the supervisor, where the next call
/// finds it.
pub(crate) fn kill_below(supervisor: u32, program: u32) -> io::Result<()> {
    if let (false, Ok(program)) = (can_adopt(), libc::pid_t::try_from(program)) {
        posix::kill_group(program);
    }
    for descendant in descendants(supervisor)?.into_iter().filter_map(|id| libc::pid_t::try_from(id).ok()) {
        // SAFETY: takes numbers. It may be gone already.
        unsafe { libc::kill(descendant, libc::SIGKILL) };
    }
    Ok(())
}

/// The living descendants of a process, itself not included. Zombies do not live.
fn descendants(root: u32) -> io::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut dead = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends while we look is no descendant any more.
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { continue };
        let Some((state, parent)) = state_and_parent(&stat) else { continue };
        children.entry(parent).or_default().push(pid);
        if matches!(state, b'Z' | b'X' | b'x') {
            dead.push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found.retain(|pid| !dead.contains(pid));
    Ok(found)
}

/// The third and fourth field of a /proc/PID/stat line. The second is the program's name in parentheses, which
/// may itself hold parentheses and blanks.
fn state_and_parent(stat: &[u8]) -> Option<(u8, u32)> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Memory as /proc/meminfo tells it.
pub(crate) fn memory() -> Option<Memory> {
    parse_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable").or_else(|| bytes("MemFree"))? })
}

/// What this process has of it, as /proc/self/status tells.
pub(crate) fn own_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

pub(crate) fn own_open_files() -> Option<u64> {
    // The one that reads them is among them.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u64::try_from(count).ok()
}

/// Time since the machine's start, sleep included.
pub(crate) fn uptime() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and of the type that the call fills.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Guix's name for the kernel: the second half of a system's name.
pub(crate) const KERNEL: &str = "linux";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_blanks_and_parentheses_confuses_nobody() {
        assert_eq!(state_and_parent(b"12 (a) R 9 (b) S 7 12 12 0"), Some((b'S', 7)));
        assert_eq!(state_and_parent(b"12 (unfinished"), None);
        assert_eq!(state_and_parent(b"12 (x) S"), None);
    }

    #[test]
    fn entries_of_a_folder_are_read_one_by_one_and_broken_ones_not_at_all() {
        let entry = |name: &[u8], length: u16| {
            let mut entry = vec![0; usize::from(length)];
            entry[16..18].copy_from_slice(&length.to_ne_bytes());
            entry[19..19 + name.len()].copy_from_slice(name);
            entry
        };
        let both = [entry(b"self", 24), entry(b"1234", 32)].concat();
        let (first, rest) = next_entry(&both).unwrap();
        let (second, rest) = next_entry(rest).unwrap();
        assert_eq!((first, second, rest), (&b"self"[..], &b"1234"[..], &b""[..]));
        assert_eq!(next_entry(rest), None);
        assert_eq!(next_entry(&both[..23]), None);
        assert_eq!((number(b"self"), number(b"1234"), number(b"0")), (None, Some(1234), None));
    }

    #[test]
    fn a_process_knows_what_it_has() {
        assert!(own_memory().unwrap() > 100_000);
        let before = own_open_files().unwrap();
        let _open: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some meanwhile.
        assert!(own_open_files().unwrap() > before + 50);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24000000 kB\nMemFree:  5 kB\nMemAvailable:   22000000 kB\n";
        let memory = parse_memory(text).unwrap();
        assert_eq!((memory.total, memory.available), (24_000_000 * 1024, 22_000_000 * 1024));
        assert!(parse_memory("MemTotal: many kB\n").is_none());
    }
}
