//! Files in a folder.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use drover_os::file;

use super::opened::Opened;
use super::target::{StoreError, below};
use super::{make_folder_of, remove_if_there};

/// What the name of a file ends with that is not whole yet.
const PARTIAL: &str = ".new";

/// A folder that files are put into.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// This folder, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path)
            .map_err(|error| StoreError::io(format!("make the folder {}", path.display()), error))?;
        Ok(Self { path: path.to_owned() })
    }

    /// This folder, as it is; it may not be there now.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn take(&self, from: &Path, name: &str) -> Result<(), StoreError> {
        let to = below(&self.path, name)?;
        let failed = |error| StoreError::io(format!("put {}", to.display()), error);
        make_folder_of(&to).map_err(failed)?;
        match fs::rename(from, &to) {
            Ok(()) => file::sync_folder_of(&to).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut file = File::open(from).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                self.put(&mut file, size, name)?;
                // What is left of it is removed with everything else that was on its way.
                let _ = fs::remove_file(from);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn put(&self, from: &mut dyn Read, size: u64, name: &str) -> Result<(), StoreError> {
        let to = below(&self.path, name)?;
        let partial = below(&self.path, &format!("{name}{PARTIAL}"))?;
        let mut write = || -> io::Result<()> {
            make_folder_of(&to)?;
            let mut file = File::create(&partial)?;
            let written = io::copy(&mut from.take(size.saturating_add(1)), &mut file)?;
            if written != size {
                let said = format!("{written} bytes came, or more, and there should be {size}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, said));
            }
            file.sync_all()?;
            fs::rename(&partial, &to)?;
            file::sync_folder_of(&to)
        };
        write().map_err(|error| {
            // Best effort: what is left goes with the leftover that it is noted as.
            let _ = remove_if_there(&partial);
            StoreError::io(format!("write {}", to.display()), error)
        })
    }

    pub(super) fn open(&self, name: &str, size: u64, range: Range<u64>) -> Result<Opened, StoreError> {
        let path = below(&self.path, name)?;
        let failed = |error| StoreError::io(format!("read {}", path.display()), error);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.gone(name)),
            Err(error) => return Err(failed(error)),
        };
        let found = file.metadata().map_err(failed)?.len();
        if found != size {
            let place = self.path.display().to_string();
            return Err(StoreError::Length { name: name.to_owned(), place, found, expected: size });
        }
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
        }
        Ok(Opened::File(file))
    }

    pub(super) fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let path = below(&self.path, name)?;
        match fs::metadata(&path) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(format!("look at {}", path.display()), error)),
        }
    }

    /// As [`super::Target::read`].
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let path = below(&self.path, name)?;
        let failed = |error| StoreError::io(format!("read {}", path.display()), error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        for name in [name, &format!("{name}{PARTIAL}")] {
            let path = below(&self.path, name)?;
            remove_if_there(&path)
                .map_err(|error| StoreError::io(format!("remove {}", path.display()), error))?;
        }
        Ok(())
    }

    fn gone(&self, name: &str) -> StoreError {
        StoreError::Gone { name: name.to_owned(), place: self.path.display().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::make(&dir.path().join("a/place")).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_file_is_there_as_a_whole_and_is_read_in_parts() {
        let (dir, folder) = folder();
        let from = dir.path().join("from");
        fs::write(&from, b"0123456789").unwrap();
        folder.take(&from, "01/x.nar").unwrap();
        assert!(!from.exists());
        let mut text = String::new();
        folder.open("01/x.nar", 10, 3..10).unwrap().reader(7).read_to_string(&mut text).unwrap();
        assert_eq!(text, "3456789");
        folder.put(&mut &b"abc"[..], 3, "01/y.nar").unwrap();
        assert_eq!(folder.size("01/y.nar").unwrap(), Some(3));
        assert_eq!(folder.read("01/y.nar", 2).unwrap().as_deref(), Some(&b"ab"[..]));
        folder.remove("01/y.nar").unwrap();
        assert_eq!(folder.size("01/y.nar").unwrap(), None);
        assert_eq!(folder.read("01/y.nar", 2).unwrap(), None);
    }

    #[test]
    fn a_stream_of_another_length_is_not_put() {
        let (_dir, folder) = folder();
        for size in [2, 4] {
            folder.put(&mut &b"abc"[..], size, "01/x.nar").unwrap_err();
            assert_eq!(fs::read_dir(folder.path().join("01")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_file_of_another_length_is_not_read_and_one_that_is_not_there_is_told_apart() {
        let (_dir, folder) = folder();
        folder.put(&mut &b"abc"[..], 3, "01/x.nar").unwrap();
        let error = folder.open("01/x.nar", 4, 0..4).unwrap_err();
        assert!(matches!(error, StoreError::Length { found: 3, expected: 4, .. }), "{error}");
        assert!(matches!(folder.open("01/y.nar", 4, 0..4).unwrap_err(), StoreError::Gone { .. }));
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let (_dir, folder) = folder();
        for name in ["", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/"] {
            assert!(folder.open(name, 0, 0..0).is_err(), "{name}");
            assert!(folder.put(&mut &b""[..], 0, name).is_err(), "{name}");
            assert!(folder.remove(name).is_err(), "{name}");
        }
    }
}
