//! What this machine is and how busy it is. What a system does not tell is `None`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{malloc, sys};

/// The numbers of runnable programs, averaged over three spans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Over the last minute.
    pub one: f64,
    /// Over the last five minutes.
    pub five: f64,
    /// Over the last fifteen minutes.
    pub fifteen: f64,
}

/// Main memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs could still get without swapping.
    pub available: u64,
}

/// A file system, in bytes and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What we may still write: root's reserve is not counted.
    pub free: u64,
    /// How many files and folders we may still make; as many as there are numbers where nothing but bytes bounds them.
    pub files: u64,
}

/// The load averages.
pub fn load() -> Option<Load> {
    let mut averages = [0.0; 3];
    // SAFETY: the array has room for the three numbers that the call is told to write.
    if unsafe { libc::getloadavg(averages.as_mut_ptr(), 3) } != 3 {
        return None;
    }
    Some(Load { one: averages[0], five: averages[1], fifteen: averages[2] })
}

/// The processors that this process may use, limits of its container included.
pub fn processors() -> Option<u32> {
    u32::try_from(std::thread::available_parallelism().ok()?.get()).ok()
}

/// Main memory.
pub fn memory() -> Option<Memory> {
    sys::memory()
}

/// Has the allocator give large buffers back to the system as soon as they are freed, where it keeps them otherwise.
/// For programs that are mostly idle; to be called before there are threads.
pub fn hoard_no_memory() {
    share_memory();
    malloc::hoard_no_memory();
}

/// Has the allocator serve all threads from one arena: with one for each thread, every one of them holds what its thread
/// once needed at most. To be called before there are threads.
pub fn share_memory() {
    malloc::share_memory();
}

/// Has the allocator give back to the system what it holds and nobody uses. It walks the whole heap: for the moment when
/// a piece of work is over.
pub fn release_memory() {
    malloc::release_memory();
}

/// Has the system's threads give back the stacks of those that have ended, where they are kept for later ones. It takes a
/// thread: for the moment when a piece of work is over that took several.
pub fn release_stacks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // glibc keeps them until they have so many bytes together, and each holds some pages that its thread has written
        // to. It goes by their size, of which most is addresses only: one that is larger has it let go of all.
        const MORE_THAN_KEPT: usize = 41 << 20;
        if let Ok(thread) = std::thread::Builder::new().stack_size(MORE_THAN_KEPT).spawn(|| ()) {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

/// Has this process open as many files at a time as it wants to, or as many as the system lets it; gives how many those
/// are. What it starts from now on may open as many.
pub fn allow_open_files(wanted: u64) -> u64 {
    use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let possible = rlim_t::try_from(wanted).unwrap_or(most).min(most);
    let raised = possible > now && setrlimit(Resource::RLIMIT_NOFILE, possible, most).is_ok();
    // Some systems count in 32 bits.
    #[allow(clippy::useless_conversion)]
    u64::from(if raised { possible } else { now })
}

/// The memory that this process has, in bytes.
pub fn own_memory() -> Option<u64> {
    sys::own_memory()
}

/// How many files and connections this process has open.
pub fn own_open_files() -> Option<u64> {
    sys::own_open_files()
}

/// The processor time of this process so far.
pub fn own_processor_time() -> Option<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = |time: nix::sys::time::TimeVal| u64::try_from(time.num_microseconds()).ok();
    Some(Duration::from_micros(microseconds(usage.user_time())? + microseconds(usage.system_time())?))
}

/// The file system that holds `path`.
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    // The types of these fields differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
    let (fragment, block, blocks, free, all_files, files) = (
        u64::try_from(stat.fragment_size()).ok()?,
        u64::try_from(stat.block_size()).ok()?,
        u64::try_from(stat.blocks()).ok()?,
        u64::try_from(stat.blocks_available()).ok()?,
        u64::try_from(stat.files()).ok()?,
        u64::try_from(stat.files_available()).ok()?,
    );
    // Not all of the Hurd's file systems tell both.
    let unit = if fragment == 0 { block } else { fragment };
    // Some file systems, such as btrfs, have no such number, and say 0 of 0.
    let files = if all_files == 0 { u64::MAX } else { files };
    Some(Disk { total: blocks.checked_mul(unit)?, free: free.checked_mul(unit)?, files })
}

/// Whether the file system that holds `path` is mounted so that nobody runs programs from it (`noexec`).
pub fn is_noexec(path: &Path) -> Option<bool> {
    sys::is_noexec(path)
}

/// The machine's own name, as far as it is text.
pub fn host_name() -> Option<String> {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is ours, and the length given leaves its last byte, which stays zero.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0 {
        return None;
    }
    let name = name.split(|&byte| byte == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8(name.to_vec()).ok())?
}

/// Time since the machine's start, where the system tells it.
pub fn uptime() -> Option<Duration> {
    sys::uptime()
}

/// When the machine started, on the clock of deadlines; with [`uptime`] it tells a restart from a long silence.
pub fn started() -> Option<Instant> {
    Instant::now().checked_sub(uptime()?)
}

/// Whether the clock of deadlines is another one than that of the date, which somebody may set. Where it is not, it shows
/// the seconds since 1970.
pub fn has_steady_clock() -> bool {
    let seconds = |clock| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is ours and of the type that the call fills.
        (unsafe { libc::clock_gettime(clock, &raw mut time) } == 0).then_some(time.tv_sec)
    };
    match (seconds(libc::CLOCK_MONOTONIC), seconds(libc::CLOCK_REALTIME)) {
        (Some(steady), Some(date)) => steady.abs_diff(date) > 1,
        _ => false,
    }
}

/// Sets the clock of the date, for the whole machine, to so many seconds since 1970.
///
/// # Errors
/// When this process may not, or the system knows no such time.
pub fn set_date(seconds: u64) -> io::Result<()> {
    let seconds = seconds.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let time = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    // SAFETY: `time` is ours and of the type that the call reads; nothing is kept.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A name for the time since the machine's start, which no other start has; none where the system has no such thing.
pub fn boot_id() -> Option<String> {
    sys::boot_id()
}

/// A name that this installation keeps over restarts and shares with no other machine: 32 hex digits, which systemd and
/// others write when it is made.
pub fn id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().find_map(|path| {
        let id = fs::read_to_string(path).ok()?;
        let id = id.trim();
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
    })
}

/// Guix's name for what this program was compiled for, such as `x86_64-linux`; the machine can run that, and
/// whether it runs more is for its operator to say. `None` for a processor that Guix does not know.
pub fn system() -> Option<String> {
    let processor = match std::env::consts::ARCH {
        known @ ("x86_64" | "aarch64" | "riscv64") => known,
        "x86" if sys::KERNEL == "gnu" => "i586",
        "x86" => "i686",
        "arm" => "armhf",
        "loongarch64" => "loongarch64",
        "powerpc" => "powerpc",
        "powerpc64" if cfg!(target_endian = "little") => "powerpc64le",
        _ => return None,
    };
    Some(format!("{processor}-{}", sys::KERNEL))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    use std::sync::{Arc, Barrier};

    #[test]
    fn this_machine_tells_what_it_is() {
        assert!(load().unwrap().one >= 0.0);
        assert!(processors().unwrap() >= 1);
        let memory = memory().unwrap();
        assert!(memory.available <= memory.total && memory.total > 0);
        assert!(uptime().is_none_or(|time| time > Duration::ZERO));
        assert!(host_name().is_some_and(|name| !name.is_empty() && !name.contains('\0')));
        assert!(system().is_some_and(|system| system.ends_with(&format!("-{}", sys::KERNEL))));
        assert!(id().is_none_or(|id| id.len() == 32));
    }

    #[test]
    fn files_are_allowed_up_to_what_the_system_lets_and_never_fewer_than_before() {
        let before = allow_open_files(0);
        assert!(before > 0);
        let after = allow_open_files(before + 1);
        assert!((before..=before + 1).contains(&after), "{before} {after}");
        assert_eq!(allow_open_files(1), after);
    }

    #[test]
    fn a_date_that_no_clock_has_is_refused() {
        // No test sets the clock of the machine that it runs on.
        assert_eq!(set_date(u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn free_disk_is_part_of_the_whole_and_unknown_for_no_path() {
        let disk = disk(Path::new("/")).unwrap();
        assert!(disk.free <= disk.total && disk.total > 0 && disk.files > 0);
        assert!(super::disk(Path::new("/no/such/folder")).is_none());
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn stacks_of_threads_that_have_ended_are_given_back() {
        const THREADS: usize = 8;
        // Of a size that no other thread here has.
        const STACK: usize = 241 * 4096;
        let stacks = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let size = |line: &str| {
                let (from, to) = line.split_once(' ')?.0.split_once('-')?;
                Some(usize::from_str_radix(to, 16).ok()? - usize::from_str_radix(from, 16).ok()?)
            };
            maps.lines().filter(|line| size(line) == Some(STACK)).count()
        };
        let together = Arc::new(Barrier::new(THREADS));
        let thread = || {
            let together = Arc::clone(&together);
            std::thread::Builder::new().stack_size(STACK).spawn(move || together.wait()).unwrap()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| thread()).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let kept = stacks();
        assert!(kept > 0);
        release_stacks();
        // Threads of other tests may have got some of them.
        assert!(stacks() < kept, "{kept}");
    }

    #[test]
    fn programs_run_where_this_one_does_and_of_no_path_it_is_unknown() {
        assert_ne!(is_noexec(&std::env::current_exe().unwrap()), Some(true));
        assert_eq!(is_noexec(Path::new("/no/such/folder")), None);
    }
}
