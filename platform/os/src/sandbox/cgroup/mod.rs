//! Control groups, version 2: limits for all processes of a build together (the kernel's `admin-guide/cgroup-v2.rst`).
//!
//! A group is a folder. Where we may make some is found once ([`Cgroups::find`]); each build gets one below it, which is
//! emptied and removed when the build is over. The groups of an agent that was killed are removed by the next.

mod find;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Deadline;

/// The name of the folders that groups are made in; a number follows where there are several of us.
const FOLDER: &str = "drover-builds";
/// How many of us there may be.
const MOST: u32 = 64;
/// How long the processes of a group that is removed are given to die.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time over which the kernel counts a processor's, in microseconds.
const PERIOD: f64 = 100_000.0;

/// What a group may use. `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amounts {
    /// Bytes of main memory, and no swap. Beyond them all processes of the group are killed.
    pub memory: Option<u64>,
    /// Processors' worth of time, such as 1.5.
    pub processors: Option<f64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl Amounts {
    /// The controllers that have to be there for what is limited.
    fn controllers(&self) -> impl Iterator<Item = &'static str> {
        let wanted = [
            ("memory", self.memory.is_some()),
            ("cpu", self.processors.is_some()),
            ("pids", self.processes.is_some()),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name)
    }
}

/// A place where groups can be made.
#[derive(Debug)]
pub struct Cgroups {
    place: Arc<Place>,
    controllers: Vec<String>,
    /// The groups of an earlier run that could not be removed, and why.
    left: Vec<(PathBuf, io::Error)>,
}

/// The folder of one of us: nobody else removes what is in it while this lives.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    _lock: Flock<File>,
}

/// A group. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    /// As long as there are groups in it.
    _place: Arc<Place>,
}

impl Cgroups {
    /// Finds where groups can be made, has the controllers switched on there, and removes the groups of an earlier run. If
    /// it has to be, this process goes into a group of its own, beside those of the builds.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub fn find() -> Result<Self, String> {
        let mut why = Vec::new();
        for base in find::bases(Path::new("/proc/self"))? {
            match Self::within(&base) {
                Ok(groups) => return Ok(groups),
                Err(reason) => why.push(reason),
            }
        }
        Err(why.join("; "))
    }

    /// Makes our folder in the folder of a group.
    fn within(base: &Path) -> Result<Self, String> {
        find::settle(base)?;
        let place = Place::take(base)?;
        let controllers = find::switch_on(&place.folder)?;
        let left = remove_all_in(&place.folder).map_err(|error| {
            format!("the control groups in {} cannot be listed: {error}", place.folder.display())
        })?;
        Ok(Self { place: Arc::new(place), controllers, left })
    }

    /// The groups of an earlier run that could not be removed, each with the reason, in words.
    pub fn left(&self) -> impl Iterator<Item = String> {
        self.left.iter().map(|(group, error)| {
            format!("the control group {} of an earlier run cannot be removed: {error}", group.display())
        })
    }

    /// The controllers that these amounts want and that are not there: such limits are not set.
    pub fn lacking(&self, amounts: &Amounts) -> Vec<&'static str> {
        amounts.controllers().filter(|name| !self.controllers.iter().any(|has| has == name)).collect()
    }

    /// Makes a group of this name that may use so much, as far as there are controllers: see [`Cgroups::lacking`].
    ///
    /// # Errors
    /// When the name is none for a folder, there is such a group, or the system refuses; the message names the file.
    pub fn make(&self, name: &str, amounts: &Amounts) -> io::Result<Group> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+');
        if name.is_empty() || !name.bytes().all(plain) {
            let message = format!("{name:?} is no name for a control group");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut folder = self.place.folder.join(name);
        // What cannot be removed has its name for as long as it stays.
        while self.left.iter().any(|(left, _)| *left == folder) {
            folder.as_mut_os_string().push("+");
        }
        fs::create_dir(&folder).map_err(|error| not_made(&error, &folder))?;
        let group = Group { folder, _place: Arc::clone(&self.place) };
        // The files of a group may be the builder's, as a plain user: none in it has limits of its own. Kernels before 4.14 do
        // not know it.
        group.set_where_it_is("cgroup.max.descendants", "0")?;
        let lacking = self.lacking(amounts);
        let has = |controller| !lacking.contains(&controller);
        if let Some(memory) = amounts.memory.filter(|_| has("memory")) {
            group.set("memory.max", &memory.to_string())?;
            // A build that lost one of its processes is worth nothing. Kernels before 4.19 do not know it.
            group.set_where_it_is("memory.oom.group", "1")?;
            group.set_where_it_is("memory.swap.max", "0")?;
        }
        if let Some(processors) = amounts.processors.filter(|_| has("cpu")) {
            group.set("cpu.max", &time(processors))?;
        }
        if let Some(processes) = amounts.processes.filter(|_| has("pids")) {
            group.set("pids.max", &processes.to_string())?;
        }
        Ok(group)
    }
}

/// A share of processors as the kernel wants it: microseconds in each period. The least that it takes is a millisecond.
fn time(processors: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // a float beyond the number's range is its end
    let share = (processors * PERIOD).max(1000.0) as u32;
    format!("{share} {PERIOD}")
}

impl Place {
    /// Takes the first folder of ours that nobody holds.
    fn take(base: &Path) -> Result<Self, String> {
        for number in 1..=MOST {
            let name = if number == 1 { FOLDER.to_owned() } else { format!("{FOLDER}-{number}") };
            let folder = base.join(name);
            let refused =
                |error: io::Error| format!("no control group can be made in {}: {error}", base.display());
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
                _ => {}
            }
            let file = File::open(&folder).map_err(refused)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Unless it was removed by the one who had it just before.
                Ok(lock) if is_at(&lock, &folder) => return Ok(Self { folder, _lock: lock }),
                Ok(_) => {}
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => return Err(refused(errno.into())),
            }
        }
        Err(format!("{MOST} others have their control groups in {}", base.display()))
    }
}

/// Whether this open folder is the one at this path.
fn is_at(open: &File, path: &Path) -> bool {
    matches!((open.metadata(), fs::metadata(path)), (Ok(open), Ok(there)) if open.ino() == there.ino())
}

impl Drop for Place {
    fn drop(&mut self) {
        // Another may have it after us; what is not empty is not ours to remove.
        let _ = fs::remove_dir(&self.folder);
    }
}

impl Group {
    /// The file that takes the processes that are to be in the group.
    #[cfg(all(target_os = "linux", not(drover_portable)))]
    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Whether the kernel killed something in it because there was no more memory for it.
    pub fn was_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| {
            let (name, count) = line.split_once(' ').unwrap_or_default();
            name.starts_with("oom_") && name.ends_with("kill") && count.trim() != "0"
        })
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let file = self.folder.join(name);
        write(&file, value).map_err(|error| with_path(&error, &format!("write {value} to"), &file))
    }

    /// Sets what older kernels do not have.
    fn set_where_it_is(&self, name: &str, value: &str) -> io::Result<()> {
        if self.folder.join(name).exists() { self.set(name, value) } else { Ok(()) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        let _ = remove(&self.folder, Deadline::after(PATIENCE));
    }
}

/// Why there is no group. What is said of full disks is not about a disk here.
fn not_made(error: &io::Error, folder: &Path) -> io::Error {
    if error.kind() == io::ErrorKind::StorageFull {
        return io::Error::other(format!(
            "make {}: the kernel has as many control groups as it can number, those of dead processes whose memory is \
             still in use among them: end what makes them on this machine, or start it anew",
            folder.display()
        ));
    }
    with_path(error, "make", folder)
}

fn with_path(error: &io::Error, attempt: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{attempt} {}: {error}", path.display()))
}

/// Writes to a file that the kernel made; makes none.
fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// Removes all groups in this folder; those that cannot be.
fn remove_all_in(folder: &Path) -> io::Result<Vec<(PathBuf, io::Error)>> {
    // All of them together get no more patience than one.
    let deadline = Deadline::after(PATIENCE);
    let groups = subgroups(folder)?.into_iter();
    Ok(groups.filter_map(|group| remove(&group, deadline).err().map(|error| (group, error))).collect())
}

fn subgroups(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Kills what is in a group and in those in it, and removes them all.
fn remove(group: &Path, deadline: Deadline) -> io::Result<()> {
    let done = deadline.ask(|| {
        kill_all_in(group);
        match remove_empty(group) {
            // Those that were killed are still ending.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Ok(())),
            result => Some(result),
        }
    });
    done.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

fn remove_empty(group: &Path) -> io::Result<()> {
    for inner in subgroups(group)? {
        remove_empty(&inner)?;
    }
    fs::remove_dir(group)
}

/// Kills every process in a group and below.
fn kill_all_in(group: &Path) {
    // Kernels from 5.14 on do it at once, whatever is forked meanwhile.
    if write(&group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // A folder that is gone has no processes.
    for inner in subgroups(group).unwrap_or_default() {
        kill_all_in(&inner);
    }
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines().filter_map(|line| line.parse().ok()).filter(|process| *process > 0) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests;
