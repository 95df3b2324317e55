//! Where things are taken from: a server or a folder.

use std::io::Read;
use std::path::PathBuf;

use drover_store::StorePath;

use super::folder::Folder;
use super::said::{Form, Said};
use super::server::Server;

/// Why something was not had from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceError {
    /// It is not what it must be: that will not change.
    Refused(String),
    /// The source did not do its part, also when it was tried again.
    Failed(String),
    /// The import was stopped meanwhile.
    Stopped,
}

/// A narinfo as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) text: Vec<u8>,
    /// Its file, below the folder.
    pub(super) file: Option<PathBuf>,
}

/// Where things are taken from.
#[derive(Debug)]
pub(super) enum Source {
    Server(Server),
    Folder(Folder),
}

impl Source {
    /// The narinfo of an item; none: it does not have the item. `near`: the file of a narinfo that refers to it.
    pub(super) fn narinfo(
        &self,
        path: &StorePath,
        near: Option<&std::path::Path>,
    ) -> Result<Option<Found>, SourceError> {
        match self {
            Self::Server(server) => Ok(server.narinfo(path)?.map(|text| Found { text, file: None })),
            Self::Folder(folder) => folder.narinfo(path, near),
        }
    }

    /// Those of the forms that can be had, each with its file if that is in a folder; the first is liked best.
    pub(super) fn offered(
        &self,
        said: &Said,
        narinfo: Option<&std::path::Path>,
    ) -> Result<Vec<(Form, Option<PathBuf>)>, SourceError> {
        match self {
            Self::Server(server) => {
                let forms = said.forms.iter().map(|form| {
                    server.address(&form.url)?;
                    Ok((form.clone(), None))
                });
                forms.collect()
            }
            Self::Folder(folder) => {
                let forms = folder.offered(said, narinfo)?;
                Ok(forms.into_iter().map(|(form, file)| (form, Some(file))).collect())
            }
        }
    }

    /// The bytes of a form.
    pub(super) fn nar(
        &self,
        form: &Form,
        file: Option<&std::path::Path>,
    ) -> Result<Box<dyn Read + Send>, SourceError> {
        match (self, file) {
            (Self::Server(server), _) => server.nar(&form.url),
            (Self::Folder(folder), Some(file)) => folder.open_nar(file),
            (Self::Folder(_), None) => Err(SourceError::Refused("its nar is not there".to_owned())),
        }
    }
}
