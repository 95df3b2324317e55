//! Files: written as a whole, locked, linked, removed with what is below them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use drover_os::file::{self, Access, Lock, LockError};
use drover_os::{machine, tree};

use super::{Finding, Glance, Outcome, expect, failed};

/// More than one buffer.
const BYTES: usize = 1 << 20;

pub(super) fn temporary(_: &Glance) -> Outcome {
    let folder = Folder::temporary()?;
    try_all(folder.path())?;
    Ok(Finding::Works(format!(
        "replaced, locked, linked, synced and removed in {}",
        std::env::temp_dir().display()
    )))
}

pub(super) fn state(glance: &Glance) -> Outcome {
    let path = &glance.config.state_dir;
    if !path.exists() {
        return Ok(Finding::Unknown(format!("{} is made at the first start", path.display())));
    }
    let folder = Folder::in_folder(path)?;
    try_all(folder.path())?;
    let free =
        machine::disk(path).map_or("an unknown number of".into(), |disk| (disk.free >> 20).to_string());
    Ok(Finding::Works(format!("{}, with {free} MiB free", path.display())))
}

fn try_all(folder: &Path) -> Result<(), String> {
    let (path, link, deep) = (folder.join("file"), folder.join("link"), folder.join("a/b/c"));
    for contents in [vec![b'1'; BYTES], b"2".to_vec()] {
        file::replace(&path, &contents, Access::Private).map_err(|error| error.to_string())?;
        let read = file::read_regular(&path, BYTES as u64).map_err(failed("read a file"))?;
        expect(read == contents, || "a file has not the contents that were written".into())?;
    }
    symlink("file", &link).map_err(failed("make a link"))?;
    expect(fs::read_link(&link).is_ok_and(|to| to == Path::new("file")), || "a link leads elsewhere".into())?;
    let lock = Lock::take(&path).map_err(|error| error.to_string())?;
    match Lock::take(&path) {
        Err(LockError::Held { .. }) => {}
        Err(error) => return Err(error.to_string()),
        Ok(_) => return Err("a file is locked twice: two agents could have the same state".into()),
    }
    drop(lock);
    Lock::take(&path).map_err(failed("lock a file again"))?;
    fs::create_dir_all(&deep)
        .and_then(|()| fs::write(deep.join("file"), b"x"))
        .map_err(failed("make folders"))?;
    tree::sync_file_system(folder).map_err(failed("write out a file system"))?;
    tree::remove(&folder.join("a")).map_err(|error| error.to_string())?;
    expect(!folder.join("a").exists(), || "a folder is there after it was removed".into())
}

/// A fresh folder that is removed with this.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// One in the folder for temporary files.
    pub(super) fn temporary() -> Result<Self, String> {
        Self::in_folder(&std::env::temp_dir())
            .map_err(|error| format!("{error}; TMPDIR can name another place for temporary files"))
    }

    fn in_folder(folder: &Path) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("drover-doctor-{}-{count}", std::process::id()));
        fs::create_dir(&path).map_err(failed(&format!("make the folder {}", path.display())))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Small, it does no harm where it cannot be removed.
        let _ = tree::remove(&self.0);
    }
}
