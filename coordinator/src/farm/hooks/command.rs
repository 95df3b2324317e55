//! A program is run: what happened is on its standard input, as JSON; that it leaves with code 0 means that it is done.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{self, Entry, Interest};
use drover_os::process::{Exit, Program, Tree};
use drover_wire::hook::{Event, HookInput};
use tokio::sync::watch;

use super::failure::Failure;
use super::queue::Run;
use crate::config::Hook;
use crate::farm::error::Error;
use crate::farm::{Farm, outputs, paths, show, unsql};

/// What is kept of the end of what a program complains.
const LAST_WORDS: usize = 2000;
/// A pipe that has room has room for so much, by POSIX: writing it does not block.
const PIECE: usize = 512;
/// How long it takes at most to see that the coordinator stops.
const LOOK: Duration = Duration::from_millis(200);
/// How long a killed program may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// Runs the program; whatever it started is ended with it.
pub(super) fn run(
    farm: &Farm,
    hook: &Hook,
    run: &Run,
    program: &Path,
    arguments: &[String],
) -> Result<(), Failure> {
    let Some(input) = input(farm, hook, run)? else { return Ok(()) };
    let mut input = serde_json::to_vec(&input).map_err(|error| Failure::new(&error.to_string()))?;
    input.push(b'\n');
    talk(program, arguments, &input, hook.limit, &farm.stopping())
}

/// Runs a program that reads these bytes, or does not.
fn talk(
    program: &Path,
    arguments: &[String],
    input: &[u8],
    limit: Duration,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let name = program.display();
    let cannot = |error: io::Error| Failure::new(&format!("cannot run {name}: {error}"));
    let tree = Program::new(program).args(arguments).pipes().spawn().map_err(cannot)?;
    let mut talk = Talk { tree, input, last_words: VecDeque::new() };
    let deadline = Deadline::after(limit);
    let exit = loop {
        if let Some(exit) = talk.tree.wait(Deadline::after(Duration::ZERO)).map_err(cannot)? {
            break Some(exit);
        }
        if *stopping.borrow() || deadline.is_over() {
            break None;
        }
        talk.go_on(Deadline::after(LOOK).min(deadline)).map_err(cannot)?;
    };
    talk.tree.kill(Deadline::after(DYING)).map_err(cannot)?;
    // Nobody writes any more: what is left in the pipe is its end.
    while talk.tree.stderr.is_some() && talk.listen().map_err(cannot)? {}
    let how = match exit {
        Some(exit) if exit.is_success() => return Ok(()),
        Some(Exit::Code(code)) => format!("{name} left with code {code}"),
        Some(Exit::Signal(signal)) => format!("{name} was ended by signal {signal}"),
        None if *stopping.borrow() => return Err(Failure::Stopped),
        None => format!("{name} took longer than {} seconds and was ended", limit.as_secs()),
    };
    Err(Failure::new(&match talk.last_words().as_str() {
        "" => how,
        words => format!("{how}: {words}"),
    }))
}

/// A program that runs, and what is said to it and by it.
struct Talk<'a> {
    tree: Tree,
    /// What it has not read yet.
    input: &'a [u8],
    last_words: VecDeque<u8>,
}

impl Talk<'_> {
    /// Waits until the program reads, writes or ends; whether it did. Nothing that it does or does not do here blocks:
    /// it need not read its input, and may write without end.
    fn go_on(&mut self, deadline: Deadline) -> io::Result<bool> {
        if self.input.is_empty() {
            self.tree.stdin = None;
        }
        let Tree { stdin, stdout, stderr, .. } = &self.tree;
        let mut entries = vec![Entry::new(self.tree.descriptor(), Interest::Readable)];
        let mut add = |fd, interest| {
            entries.push(Entry::new(fd, interest));
            entries.len() - 1
        };
        let to_write = stdin.as_ref().map(|stdin| add(stdin.as_fd(), Interest::Writable));
        let to_drop = stdout.as_ref().map(|stdout| add(stdout.as_fd(), Interest::Readable));
        let to_read = stderr.as_ref().map(|stderr| add(stderr.as_fd(), Interest::Readable));
        if poll::wait(&mut entries, deadline)? == 0 {
            return Ok(false);
        }
        let to_write = to_write.is_some_and(|entry| entries[entry].is_writable());
        let to_drop = to_drop.is_some_and(|entry| entries[entry].is_readable());
        let to_read = to_read.is_some_and(|entry| entries[entry].is_readable());
        drop(entries);
        if to_write {
            self.write();
        }
        let mut buffer = [0; 8192];
        if to_drop && read(&mut self.tree.stdout, &mut buffer)? == 0 {
            self.tree.stdout = None;
        }
        if to_read {
            self.hear(&mut buffer)?;
        }
        Ok(true)
    }

    /// Takes some of what is left of its complaints; false when there is no more now.
    fn listen(&mut self) -> io::Result<bool> {
        let Some(stderr) = &self.tree.stderr else { return Ok(false) };
        if !poll::wait_one(stderr.as_fd(), Interest::Readable, Deadline::after(LOOK))? {
            return Ok(false);
        }
        self.hear(&mut [0; 8192])?;
        Ok(true)
    }

    /// Keeps the end of its complaints.
    fn hear(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let count = read(&mut self.tree.stderr, buffer)?;
        if count == 0 {
            self.tree.stderr = None;
        }
        self.last_words.extend(&buffer[..count]);
        let over = self.last_words.len().saturating_sub(LAST_WORDS);
        self.last_words.drain(..over);
        Ok(())
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.tree.stdin else { return };
        let piece = &self.input[..PIECE.min(self.input.len())];
        match stdin.write(piece) {
            Ok(count) => self.input = &self.input[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It does not want to know.
            Err(_) => self.input = &[],
        }
    }

    fn last_words(&self) -> String {
        let bytes: Vec<u8> = self.last_words.iter().copied().collect();
        let words = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = words.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(10)..].join("; ")
    }
}

fn read(from: &mut Option<impl Read>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(from) = from else { return Ok(0) };
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What the program is told; none if what it is about is not there any more.
fn input(farm: &Farm, hook: &Hook, run: &Run) -> Result<Option<HookInput>, Error> {
    farm.database.read_blocking(|sql| {
        let mut input = HookInput {
            hook: hook.name.clone(),
            event: run.kind,
            at: run.queued_at,
            run: unsql(run.id),
            attempt: run.tries.saturating_add(1),
            build: None,
            item: None,
            missing: Vec::new(),
        };
        if let Some(build) = run.build {
            let Some(uuid) = paths::build_of_number(sql, build)? else { return Ok(None) };
            input.build = Some(show::details(sql, &farm.live, uuid)?);
        }
        if let Some(path) = run.path {
            let Some(item) = outputs::item_info(sql, None, path)? else { return Ok(None) };
            input.item = Some(item);
        }
        if run.kind == Event::MissingInputs {
            let detail = run.detail.as_deref().unwrap_or("[]");
            input.missing = serde_json::from_str(detail)
                .map_err(|error| Error::Damaged(format!("the event of the run {}: {error}", run.id)))?;
        }
        Ok(Some(input))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8], seconds: u64) -> Result<(), String> {
        let (_stop, stopping) = watch::channel(false);
        let arguments = ["-c".to_owned(), script.to_owned()];
        talk(Path::new("/bin/sh"), &arguments, input, Duration::from_secs(seconds), &stopping)
            .map_err(|failure| failure.to_string())
    }

    /// More than any pipe takes.
    fn much() -> Vec<u8> {
        vec![b'x'; 2 << 20]
    }

    #[test]
    fn a_program_has_all_of_its_input_before_its_end() {
        assert_eq!(shell(r#"[ "$(wc -c)" = 2097152 ]"#, &much(), 600), Ok(()));
    }

    #[test]
    fn a_program_that_does_not_read_its_input_is_as_good() {
        assert_eq!(shell("exec true", &much(), 600), Ok(()));
        assert_eq!(shell("exec <&-; echo x >&2", &much(), 600), Ok(()));
    }

    #[test]
    fn one_that_fails_says_why_with_its_last_words() {
        let error =
            shell("echo first >&2; echo; echo no room on the mirror >&2; exit 3", b"", 600).unwrap_err();
        assert!(error.contains("code 3") && error.ends_with("first; no room on the mirror"), "{error}");
        let error = shell("kill -9 $$", b"", 600).unwrap_err();
        assert!(error.contains("signal 9"), "{error}");
    }

    #[test]
    fn one_that_writes_without_end_is_ended_at_its_time_and_little_of_it_kept() {
        let error = shell("yes & exec yes complaint >&2", &much(), 1).unwrap_err();
        assert!(error.contains("longer than 1 seconds") && error.contains("complaint; complaint"), "{error}");
        assert!(error.len() < 3000, "{}", error.len());
    }

    #[test]
    fn what_a_program_leaves_running_ends_with_it() {
        // Holds on to what we read from: were it left, its end would not come.
        assert_eq!(shell("sleep 1000 & exit 0", b"", 600), Ok(()));
        let error = shell("sleep 1000 & echo gone >&2; exit 1", b"", 600).unwrap_err();
        assert!(error.ends_with("gone"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let (_stop, stopping) = watch::channel(false);
        let error = talk(Path::new("/no/such"), &[], b"", Duration::from_secs(9), &stopping).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    #[test]
    fn a_coordinator_that_stops_ends_its_programs_and_counts_nothing() {
        let (stop, stopping) = watch::channel(false);
        stop.send_replace(true);
        let arguments = ["1000".to_owned()];
        let ended = talk(Path::new("/bin/sleep"), &arguments, b"", Duration::from_secs(600), &stopping);
        assert_eq!(ended, Err(Failure::Stopped));
    }
}
