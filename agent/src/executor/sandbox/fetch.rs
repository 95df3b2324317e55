//! `builtin:download` as a build: within its limits, and ended with it.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use drover_os::poll::{self, Entry, Interest};

use super::Ground;
use super::download::{self, DownloadError, Request};
use super::limits::{Clock, Limit, Limits};
use super::plan::Plan;
use super::stopping::Stopping;
use crate::executor::{Ended, Error};
use crate::store::StoreError;

/// The stack of a thread that only waits.
const SMALL_STACK: usize = 64 * 1024;

/// Downloads what the derivation wants into `folder`, under the output's base name; gives how the build ended if it did not
/// end well.
///
/// # Errors
/// [`Error::Away`] when it was stopped, [`Error::Stream`] when the log cannot be kept,
/// [`Error::Refused`] when this machine's disk or network is in the way.
pub(super) fn run(
    ground: &Ground,
    plan: &Plan,
    folder: &Path,
    limits: &mut Limits<'_>,
    stop: &Stopping,
) -> Result<Option<Ended>, Error> {
    let Some((output, _)) = plan.derivation.fixed() else {
        return Ok(Some(Ended::Failed("builtin:download is for fixed outputs only".to_owned())));
    };
    let broken = Cell::new(false);
    let read = |path: &_| {
        let file = ground.store.read_file(path, download::TABLE_MAX);
        file.inspect_err(|error| broken.set(is_of_the_machine(error)))
    };
    let request = match Request::of(&plan.derivation, &ground.settings.mirrors, read) {
        Ok(request) => Request { size_max: ground.settings.max_output_size, ..request },
        Err(error) if broken.get() => return Err(Error::Refused(error.to_string())),
        Err(error) => return Ok(Some(Ended::Failed(error.to_string()))),
    };
    let dest = folder.join(output.path.base_name());
    let own = Stopping::new()?;
    let farm = ground.files.as_deref();
    let (result, limit) =
        within(limits, stop, &own, |log| download::download(&request, farm, &dest, log, &own))?;
    stop.check()?;
    match (result, limit) {
        (_, Some(limit)) => Ok(Some(limit.ended(&plan.path))),
        (Ok(()), None) => Ok(None),
        (Err(DownloadError::Stopped), None) => Err(Stopping::error()),
        (Err(DownloadError::Log(source)), None) => {
            Err(Error::Stream { attempted: "keep the log of a download".to_owned(), source })
        }
        (Err(DownloadError::Disk { path, source }), None) => {
            Err(Error::refused(format!("write a download to {path}: {source}"), &source))
        }
        // Another machine may reach them, or this one later.
        (Err(error @ DownloadError::Away { .. }), None) => Err(Error::Refused(error.to_string())),
        (Err(error @ DownloadError::Nowhere { .. }), None) => Ok(Some(Ended::Failed(error.to_string()))),
    }
}

/// Whether an item that is there cannot be read for a reason that is not in the item.
fn is_of_the_machine(error: &StoreError) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidData};
    !matches!(error, StoreError::Io { source, .. } if matches!(source.kind(), FileTooLarge | InvalidData))
}

/// Does something that logs and can be stopped by `own`, which is said when `stop` is or a limit is reached.
fn within<T>(
    limits: &mut Limits<'_>,
    stop: &Stopping,
    own: &Stopping,
    work: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> T,
) -> Result<(T, Option<Limit>), Error> {
    let clock = Mutex::new(limits.clock);
    let clock = || clock.lock().unwrap_or_else(PoisonError::into_inner);
    let done = Stopping::new()?;
    let mut too_long = None;
    let (result, reached) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("limits".to_owned()).stack_size(SMALL_STACK);
        let watch = thread.spawn_scoped(scope, || watch(&|| *clock(), stop, own, &done));
        let watch = watch.map_err(|error| {
            Error::Refused(format!("start a thread for the limits of a download: {error}"))
        })?;
        let result = work(&mut |bytes| match limits.take(bytes) {
            Ok(None) => {
                clock().spoke();
                Ok(())
            }
            Ok(Some(limit)) => {
                too_long = Some(limit);
                Err(io::Error::other("the log is too long"))
            }
            Err(Error::Stream { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        });
        done.stop();
        // It does not panic.
        Ok::<_, Error>((result, watch.join().unwrap_or(None)))
    })?;
    Ok((result, too_long.or(reached)))
}

/// Waits until the work is done, or is to be stopped; the limit for which it is.
fn watch(clock: &dyn Fn() -> Clock, stop: &Stopping, own: &Stopping, done: &Stopping) -> Option<Limit> {
    let mut entries =
        [Entry::new(stop.as_fd(), Interest::Readable), Entry::new(done.as_fd(), Interest::Readable)];
    loop {
        if let Some(limit) = clock().reached() {
            own.stop();
            return Some(limit);
        }
        match poll::wait(&mut entries, clock().deadline()) {
            Ok(0) => {}
            _ if done.is_stopped() => return None,
            _ => {
                own.stop();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use drover_store::nar::{Limits, Node};
    use drover_store::{Sha256Hash, path};

    #[test]
    fn a_table_that_this_machine_cannot_read_is_told_from_one_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots");
        std::fs::create_dir(&roots).unwrap();
        let store = Store::open(&folder.path().join("root"), &roots).unwrap();
        let nar = Node::Directory([(b"a".to_vec(), Node::file("x"))].into()).to_nar();
        let tree = path::source("tree", &Sha256Hash::of(&nar)).unwrap();
        store.add_file(&tree, true, &mut &nar[..], Limits::default()).unwrap();
        let text = path::text("text", b"many", &[]).unwrap();
        store.add_text(&text, b"many", &[]).unwrap();
        let error = |path, most| store.read_file(path, most).unwrap_err();
        assert!(!is_of_the_machine(&error(&tree, 9)) && !is_of_the_machine(&error(&text, 3)));
        drover_os::tree::remove(&store.on_disk(&text)).unwrap();
        assert!(is_of_the_machine(&error(&text, 9)));
    }
}
