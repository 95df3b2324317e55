//! A folder as what is taken from: nars with narinfos beside them, in the layouts that substitute servers have on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use drover_store::StorePath;

use super::herder::{Herder, path_of};
use super::said::{Form, NARINFO_LIMIT, Said};
use super::server::{check_relative, decoded};
use super::source::{Found, SourceError};

/// How deep folders are looked through: each that is open takes a file descriptor.
const DEPTH: usize = 16;

/// A folder on this machine.
#[derive(Debug)]
pub(super) struct Folder {
    /// Without links in it.
    root: PathBuf,
    /// Where its narinfos are, if they are not beside the nars.
    herder: Option<Herder>,
}

impl Folder {
    /// `herder`: the database of the nar-herder whose folder it is.
    ///
    /// # Errors
    /// When there is no such folder, or it cannot be looked at; nor the database.
    pub(super) fn at(root: &Path, herder: Option<&Path>) -> Result<Self, SourceError> {
        let failed = |error: io::Error| {
            SourceError::Refused(format!("cannot look at the folder {}: {error}", root.display()))
        };
        let root_itself = std::fs::canonicalize(root).map_err(failed)?;
        if !root_itself.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        let herder = herder.map(Herder::open).transpose()?;
        Ok(Self { root: root_itself, herder })
    }

    /// The database with its narinfos, if there is one.
    pub(super) fn herder(&self) -> Option<&Herder> {
        self.herder.as_ref()
    }

    /// Where it is, without links in it.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The narinfo of an item: beside the one that refers to it, or where layouts have it.
    pub(super) fn narinfo(
        &self,
        path: &StorePath,
        near: Option<&Path>,
    ) -> Result<Option<Found>, SourceError> {
        if let Some(herder) = &self.herder {
            return Ok(herder.narinfo(path)?.map(|text| Found { text, file: None }));
        }
        let beside = near.and_then(Path::parent).unwrap_or(Path::new(""));
        let mut folders = vec![beside.to_owned(), PathBuf::new()];
        folders.extend(["zstd", "lzip", "gzip", "none"].map(PathBuf::from));
        for folder in folders {
            for name in [path.hash_part(), path.base_name()] {
                let file = folder.join(format!("{name}.narinfo"));
                if let Some(text) = self.read(&file)? {
                    return Ok(Some(Found { text, file: Some(file) }));
                }
            }
        }
        Ok(None)
    }

    /// The text of a narinfo's file below the folder; none: there is no such file.
    pub(super) fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(whole) = self.within(file)? else { return Ok(None) };
        let failed =
            |error: io::Error| SourceError::Failed(format!("cannot read {}: {error}", file.display()));
        let mut text = Vec::new();
        let limit = NARINFO_LIMIT as u64 + 1;
        File::open(whole).map_err(failed)?.take(limit).read_to_end(&mut text).map_err(failed)?;
        Ok(Some(text))
    }

    /// Those of the forms whose files are there, each with its file and that file's size.
    pub(super) fn offered(
        &self,
        said: &Said,
        narinfo: Option<&Path>,
    ) -> Result<Vec<(Form, PathBuf)>, SourceError> {
        let beside = narinfo.and_then(Path::parent).unwrap_or(Path::new(""));
        let (mut offered, mut other_size) = (Vec::new(), None);
        for form in &said.forms {
            let mut candidates = Vec::new();
            let url = if self.herder.is_some() { path_of(&form.url) } else { &form.url };
            if let Some(below) = relative(url)? {
                candidates.push(beside.join(&below));
                if let Some(above) = beside.parent() {
                    candidates.push(above.join(&below));
                }
                candidates.push(below);
            }
            // `guix publish --cache` has COMPRESSION/BASE.narinfo and COMPRESSION/BASE.nar.
            let cached = format!("{}.nar", said.info.store_path.base_name());
            let compression = form.compression.word();
            if beside.file_name().is_some_and(|name| name == compression) {
                candidates.push(beside.join(&cached));
            }
            if let Some(above) = beside.parent() {
                candidates.push(above.join(compression).join(&cached));
            }
            candidates.push(Path::new(compression).join(&cached));
            for file in candidates {
                let Some(whole) = self.within(&file)? else { continue };
                let size = std::fs::metadata(&whole).map_err(|error| {
                    SourceError::Failed(format!("cannot look at {}: {error}", file.display()))
                })?;
                if let Some(said) = form.size.filter(|said| *said != size.len()) {
                    // Another form may be as it was said.
                    let is = size.len();
                    other_size =
                        Some(format!("the file {} has {is} bytes, and {said} were said", file.display()));
                    break;
                }
                let form = Form { size: Some(size.len()), ..form.clone() };
                offered.push((form, file));
                break;
            }
        }
        if offered.is_empty() {
            let why = || "none of the nars that its narinfo names is there".to_owned();
            return Err(SourceError::Refused(other_size.unwrap_or_else(why)));
        }
        Ok(offered)
    }

    /// Opens a file below the folder.
    pub(super) fn open_file(&self, file: &Path) -> Result<File, SourceError> {
        let failed =
            |error: io::Error| SourceError::Failed(format!("cannot read {}: {error}", file.display()));
        let whole = self.within(file)?;
        let whole = whole.ok_or_else(|| SourceError::Refused(format!("there is no {}", file.display())))?;
        File::open(whole).map_err(failed)
    }

    /// The bytes of a file below the folder.
    pub(super) fn open_nar(&self, file: &Path) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(Box::new(self.open_file(file)?))
    }

    /// Where a file below the folder really is, with all links followed; none: there is no such file.
    ///
    /// # Errors
    /// When it is not below the folder, or nothing that can be read.
    fn within(&self, file: &Path) -> Result<Option<PathBuf>, SourceError> {
        if file.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(SourceError::Refused(format!("{} leads out of the folder", file.display())));
        }
        let whole = match std::fs::canonicalize(self.root.join(file)) {
            Ok(whole) => whole,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => {
                return Err(SourceError::Failed(format!("cannot look at {}: {error}", file.display())));
            }
        };
        if !whole.starts_with(&self.root) {
            let why = format!("{} is a link that leads out of the folder", file.display());
            return Err(SourceError::Refused(why));
        }
        if !whole.is_file() {
            return Ok(None);
        }
        Ok(Some(whole))
    }
}

/// The file that an address names, relative; none if it is no file's name.
fn relative(url: &str) -> Result<Option<PathBuf>, SourceError> {
    check_relative(url)?;
    Ok(decoded(url).and_then(|bytes| String::from_utf8(bytes).ok()).map(PathBuf::from))
}

/// A folder, below the one that is looked through, that cannot be looked through.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) folder: PathBuf,
    pub(super) why: String,
}

/// The files of narinfos below a folder, in no order: there may be millions, so they are given as they are met. What is
/// a link to a folder is not followed.
#[derive(Debug)]
pub(super) struct Narinfos {
    root: PathBuf,
    /// The folders that are being looked through, each within the one before; below the root.
    open: Vec<(PathBuf, std::fs::ReadDir)>,
}

impl Closed {
    fn of(folder: PathBuf, error: &io::Error) -> Self {
        Self { folder, why: format!("it cannot be looked through: {error}") }
    }
}

impl Narinfos {
    /// All of them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn new(folder: &Folder) -> Result<Self, SourceError> {
        let mut all = Self { root: folder.root.clone(), open: Vec::new() };
        all.enter(PathBuf::new()).map_err(|closed| {
            SourceError::Failed(format!("the folder {}: {}", folder.root.display(), closed.why))
        })?;
        Ok(all)
    }

    fn enter(&mut self, folder: PathBuf) -> Result<(), Closed> {
        match std::fs::read_dir(self.root.join(&folder)) {
            Ok(entries) => self.open.push((folder, entries)),
            Err(error) => return Err(Closed::of(folder, &error)),
        }
        Ok(())
    }

    /// The next one.
    ///
    /// # Errors
    /// What cannot be looked through and is passed over: there may be more after it.
    pub(super) fn next(&mut self) -> Result<Option<PathBuf>, Closed> {
        while let Some((folder, entries)) = self.open.last_mut() {
            let Some(entry) = entries.next() else {
                self.open.pop();
                continue;
            };
            let folder = folder.clone();
            let failed = |error: io::Error| Closed::of(folder.clone(), &error);
            let entry = entry.map_err(failed)?;
            let below = folder.join(entry.file_name());
            if entry.file_type().map_err(failed)?.is_dir() {
                if self.open.len() < DEPTH {
                    self.enter(below)?;
                }
            } else if below.extension().is_some_and(|extension| extension == "narinfo") {
                return Ok(Some(below));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["b.narinfo", "a.narinfo", "a/z.narinfo", "a/b/c.narinfo", "zstd/x.narinfo", "zstd/x.nar"]
        {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "text").unwrap();
        }
        let folder = Folder::at(dir.path(), None).unwrap();
        (dir, folder)
    }

    fn all(folder: &Folder) -> Vec<String> {
        let mut narinfos = Narinfos::new(folder).unwrap();
        let mut all: Vec<String> =
            std::iter::from_fn(|| narinfos.next().unwrap()).map(|file| file.display().to_string()).collect();
        all.sort();
        all
    }

    #[test]
    fn narinfos_are_found_in_all_folders() {
        let (_dir, folder) = folder();
        assert_eq!(
            all(&folder),
            ["a.narinfo", "a/b/c.narinfo", "a/z.narinfo", "b.narinfo", "zstd/x.narinfo"]
        );
    }

    #[test]
    fn what_leads_out_of_the_folder_is_not_opened() {
        let (dir, folder) = folder();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("link.narinfo")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("a.narinfo", dir.path().join("inner.narinfo")).unwrap();
        for file in ["../secret", "/etc/passwd", "link.narinfo", "out/secret", "a/../../secret"] {
            assert!(matches!(folder.read(Path::new(file)), Err(SourceError::Refused(_))), "{file}");
        }
        assert_eq!(folder.read(Path::new("inner.narinfo")), Ok(Some(b"text".to_vec())));
        assert_eq!(folder.read(Path::new("none.narinfo")), Ok(None));
        assert!(!all(&folder).contains(&"out/secret".to_owned()));
    }

    #[test]
    fn a_folder_that_cannot_be_looked_through_is_told_of_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["one", "other"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join("x.narinfo"), "text").unwrap();
        }
        let folder = Folder::at(dir.path(), None).unwrap();
        let mut narinfos = Narinfos::new(&folder).unwrap();
        let first = narinfos.next().unwrap().unwrap();
        let gone = if first.starts_with("one") { "other" } else { "one" };
        std::fs::remove_dir_all(dir.path().join(gone)).unwrap();
        let closed = narinfos.next().unwrap_err();
        assert_eq!(closed.folder, Path::new(gone));
        assert!(narinfos.next().unwrap().is_none());
    }
}
