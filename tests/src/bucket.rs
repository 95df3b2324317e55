//! A server of buckets on the loopback: moto's, which `ci/test` installs.
#![expect(clippy::unwrap_used, reason = "a test's tools fail by failing the test")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use crate::farm::{free_port, wait_listening};
use crate::ground::skipped;
use crate::http::Peer;
use crate::service::{Service, Start};

/// The name of its one bucket.
pub const BUCKET: &str = "nars";

/// A server with a bucket. What it holds is gone with it.
#[derive(Debug)]
pub struct BucketServer {
    /// Where it listens.
    pub address: SocketAddr,
    _server: Service,
}

impl BucketServer {
    /// Starts one; none, said loudly, where there is no moto.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        let program = std::env::var_os("DROVER_MOTO").unwrap_or_else(|| OsString::from("moto_server"));
        let found = Path::new(&program).is_file()
            || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|folder| folder.join(&program).is_file());
        if !found {
            skipped(test, "there is no moto_server; `pip install 'moto[s3,server]'` has it");
            return None;
        }
        let address = free_port();
        let start = Start::new(program).args([
            "-H".to_owned(),
            "127.0.0.1".to_owned(),
            "-p".to_owned(),
            address.port().to_string(),
        ]);
        let mut server = Service::start("moto_server", start);
        wait_listening(&mut server, &[address]);
        let made = Peer::stranger(&format!("http://{address}")).send("PUT", &format!("/{BUCKET}"), b"");
        assert_eq!(made.status, 200, "{}", made.text());
        Some(Self { address, _server: server })
    }
}

/// A place in the configuration, in a bucket that is reached at this address; keys are written beside.
///
/// # Panics
/// When they cannot be.
#[must_use]
pub fn bucket_place(name: &str, address: SocketAddr, folder: &Path) -> String {
    let key = folder.join("key");
    std::fs::write(&key, "drover\n").unwrap();
    let key = key.display();
    format!(
        "[[places]]\nname = '{name}'\nbucket = 's3://{BUCKET}/farm'\nendpoint = 'http://{address}'\n\
         region = 'us-east-1'\naccess-key-file = '{key}'\nsecret-key-file = '{key}'\n"
    )
}
