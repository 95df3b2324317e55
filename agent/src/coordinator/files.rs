//! The files that the coordinator has, for downloads of the sandbox.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use drover_store::Sha256Hash;
use drover_tls::Trust;
use drover_wire::Code;
use drover_wire::route::agents as routes;

use super::call::{Caller, Download};
use crate::config::{BaseUrl, Config, Credentials};
use crate::executor::Files;
use crate::http::{Client, Patience, Wanted};

/// How long it is waited for: others may have the file, too.
const PATIENCE: Patience = Patience {
    resolve: Duration::from_secs(10),
    connect: Duration::from_secs(15),
    answer: Duration::from_secs(60),
    silence: Duration::from_secs(60),
};

/// The files of a coordinator.
#[derive(Debug)]
pub struct FarmFiles {
    trust: Trust,
    base: BaseUrl,
    credentials: Credentials,
}

impl FarmFiles {
    /// Those of the coordinator of a configuration.
    pub fn new(config: &Config) -> Self {
        let (trust, credentials) = (config.trust.clone(), config.credentials.clone());
        Self { trust, base: config.coordinator.clone(), credentials }
    }
}

impl Files for FarmFiles {
    fn open(&self, name: &str, hash: &Sha256Hash, stop: BorrowedFd<'_>) -> io::Result<Option<Box<dyn Read>>> {
        // Of its own: a stop ends all that its client does.
        let client = Client::new(&self.trust, PATIENCE);
        let wanted = client.wanted_until(stop);
        let caller = Caller::new(client, &self.base, &self.credentials);
        match caller.get_stream(&routes::FILE, &[&name, &hash.base32()], "fetch a file by its hash", 0) {
            Ok(file) => Ok(Some(Box::new(WantedFile { file, _wanted: wanted }))),
            // Also what those say that do not know the route yet.
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// A file on its way, which ends when it is not wanted any more.
struct WantedFile {
    file: Download,
    _wanted: Wanted,
}

impl Read for WantedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
