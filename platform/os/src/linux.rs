//! What is Linux's own. Another system gets a module with the same functions.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::machine::Memory;
pub(crate) use kin::{ask_for_senders, be_known, end_with_parent, is_told, sender, tell};

#[path = "linux/kin.rs"]
mod kin;

/// Whether no program runs from the file system that holds `path`, as it is mounted there.
pub(crate) fn is_noexec(path: &Path) -> Option<bool> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    Some(statvfs(path).ok()?.flags().contains(FsFlags::ST_NOEXEC))
}

/// An unconnected Unix stream socket: non-blocking, closed on exec.
pub(crate) fn unix_socket() -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// A pipe, its reading end first: non-blocking at both ends, closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    pipe_with(libc::O_NONBLOCK)
}

/// A pipe that blocks, its reading end first: closed on exec.
pub(crate) fn blocking_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    pipe_with(0)
}

fn pipe_with(flags: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors that the call writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so both are open, fresh and owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Two sockets that are connected to one another: blocking, closed on exec.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn socket_pair() -> io::Result<[RawFd; 2]> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors that the call writes.
    let result = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    };
    if result == 0 { Ok(ends) } else { Err(io::Error::last_os_error()) }
}

/// Closes a descriptor that its owner gave up; none if it is negative.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn close(descriptor: RawFd) {
    // SAFETY: takes no memory, and the caller says that nobody uses it any more.
    unsafe { libc::close(descriptor) };
}

/// Probes a silent TCP peer after `idle`, then every quarter of it, and gives it up after four probes.
pub(crate) fn set_keepalive(socket: BorrowedFd<'_>, idle: Duration) -> io::Result<()> {
    let seconds = c_int::try_from(idle.as_secs()).unwrap_or(c_int::MAX).max(1);
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 4).max(1))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4)
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // four
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value lives on the stack during the call and `size` is its size; nothing is kept.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the sizes from which glibc takes memory from the system, and gives it back, and so keeps it from raising them
/// each time that a larger buffer is freed. musl has no such habit.
pub(crate) fn hoard_no_memory() {
    #[cfg(target_env = "gnu")]
    {
        // As large as the buffers of connections: among them in the heap would lie small things that stay, each of which
        // keeps a page.
        const MAPPED: c_int = 16 * 1024;
        const TRIMMED: c_int = 64 * 1024;
        // SAFETY: numbers are set under the allocator's own lock. Whether it takes them changes nothing but sizes.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIMMED);
        }
    }
}

/// Has glibc use one arena, as musl does.
pub(crate) fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number is set under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// What musl frees goes back by itself; glibc keeps it until it is told.
pub(crate) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only pages that the allocator has free are given back, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
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

/// Removes extended attributes, as far as the system lets.
pub(crate) fn clear_attributes(path: &Path) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    // SAFETY: the path ends with a zero; with no room, nothing is written.
    let length = unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
    // None, which is the rule, or a file system that has no such thing.
    let Some(length) = usize::try_from(length).ok().filter(|length| *length > 0) else { return };
    let mut names = vec![0_u8; length];
    // SAFETY: as above, and `names` is ours and as long as said; nothing is kept.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Some(names) = usize::try_from(length).ok().and_then(|length| names.get(..length)) else { return };
    for name in names.split_inclusive(|byte| *byte == 0) {
        if let Ok(name) = CStr::from_bytes_with_nul(name) {
            // SAFETY: both end with a zero; nothing is kept. What stays is the system's, such as a label.
            unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
        }
    }
}

/// Whether a file, folder or link has extended attributes, access control lists among them.
pub(crate) fn has_attributes(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a zero; with no room, nothing is written.
    unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Writes out the file system that a file is on.
pub(crate) fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::syncfs(file)?)
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
    // SAFETY: takes and writes no memory. Kernels without it (before 3.4) say EINVAL, and orphans then go to init.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
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
    // Kernels before 5.9: one by one.
    for descriptor in 0..end_of_descriptors() {
        if !keep.contains(&descriptor) {
            // SAFETY: as above; a number that is not open is refused without effect.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// The number from which on there are no descriptors here.
fn end_of_descriptors() -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours and of the type that the call fills.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let end = if known { limit.rlim_cur.min(1 << 20) } else { 1024 };
    c_int::try_from(end).unwrap_or(1024)
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

/// Waits until a child ends, or nobody can read any more what is written to this pipe; whether it is the latter.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn wait_for_child_or_reader_gone(pipe: RawFd) -> bool {
    // That its other end is closed is told without being asked for.
    let mut entry = libc::pollfd { fd: pipe, events: 0, revents: 0 };
    wait_for_children(&raw mut entry, 1, std::ptr::null()) && entry.revents != 0
}

/// Waits until a child ends, but no longer than this.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn wait_for_child(longest: Duration) {
    #[allow(clippy::cast_possible_wrap)] // below a thousand million
    let nanoseconds = longest.subsec_nanos() as libc::c_long;
    // A time has no more bits on some systems.
    let seconds = i32::try_from(longest.as_secs()).unwrap_or(i32::MAX);
    let time = libc::timespec { tv_sec: seconds.into(), tv_nsec: nanoseconds };
    wait_for_children(std::ptr::null_mut(), 0, &raw const time);
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

/// Sends SIGKILL to every child of the calling process.
///
/// Safe to call between fork and exec: system calls only, and nothing but the stack. That is why it reads /proc by hand.
pub(crate) fn kill_children() {
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

/// The living descendants of a process, itself not included. Zombies do not live.
pub(crate) fn descendants(root: u32) -> io::Result<Vec<u32>> {
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

/// Time since the machine's start, sleep included.
pub(crate) fn uptime() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and of the type that the call fills.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// What systemd and others write at a machine's installation: 32 hex digits.
pub(crate) fn machine_id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().find_map(|path| {
        let id = fs::read_to_string(path).ok()?;
        let id = id.trim();
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
    })
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

    /// For [`all_descriptors_but_some_are_closed`], which runs this as a process of its own.
    #[test]
    fn closes_all_but_some() {
        if std::env::var_os("DROVER_TEST_CLOSE").is_none() {
            return;
        }
        let files = [(); 4].map(|()| std::os::fd::IntoRawFd::into_raw_fd(fs::File::open("/").unwrap()));
        // SAFETY: takes numbers, and gives one that is not open.
        let far = unsafe { libc::fcntl(files[0], libc::F_DUPFD, 100) };
        close_all_but([2, files[2], -1, 1, far, 0, files[1]]);
        // SAFETY: as above; what is not open is refused.
        let open = |file: RawFd| unsafe { libc::fcntl(file, libc::F_GETFD) } >= 0;
        assert!([0, 1, 2, files[1], files[2], far].into_iter().all(open));
        assert!((0..200).filter(|file| open(*file)).count() == 6);
        std::process::exit(7);
    }

    #[test]
    fn all_descriptors_but_some_are_closed() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::tests::closes_all_but_some", "--nocapture"])
            .env("DROVER_TEST_CLOSE", "1")
            .status();
        assert_eq!(status.unwrap().code(), Some(7));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24000000 kB\nMemFree:  5 kB\nMemAvailable:   22000000 kB\n";
        let memory = parse_memory(text).unwrap();
        assert_eq!((memory.total, memory.available), (24_000_000 * 1024, 22_000_000 * 1024));
        assert!(parse_memory("MemTotal: many kB\n").is_none());
    }
}
