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
        let server = Self { address, _server: server };
        server.put("", b"");
        Some(server)
    }

    /// Lets everybody read what is in the bucket, as somebody sets it up who has its server serve it.
    ///
    /// # Panics
    /// When it refuses.
    pub fn open_to_all(&self) {
        let policy = serde_json::json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:HeadObject"],
                "Resource": format!("arn:aws:s3:::{BUCKET}/*"),
            }],
        });
        self.put("?policy", policy.to_string().as_bytes());
    }

    fn put(&self, what: &str, bytes: &[u8]) {
        let length = bytes.len().to_string();
        let peer = Peer::stranger(&format!("http://{}", self.address)).header("content-length", &length);
        let answer = peer.send("PUT", &format!("/{BUCKET}{what}"), bytes);
        assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
    }
}

/// A place in the configuration, in a bucket that is reached at this address; keys are written beside.
///
/// # Panics
/// When they cannot be.
#[must_use]
pub fn bucket_place(name: &str, address: SocketAddr, folder: &Path) -> String {
    format!("[[places]]\nname = '{name}'\n{}", bucket_options("farm", address, folder))
}

/// The options of a place, or a hook that pushes, in a bucket with this prefix that is reached at this address; keys are
/// written beside.
///
/// # Panics
/// When they cannot be.
#[must_use]
pub fn bucket_options(prefix: &str, address: SocketAddr, folder: &Path) -> String {
    let key = folder.join("key");
    std::fs::write(&key, "drover\n").unwrap();
    let key = key.display();
    format!(
        "bucket = 's3://{BUCKET}/{prefix}'\nendpoint = 'http://{address}'\nregion = 'us-east-1'\n\
         access-key-file = '{key}'\nsecret-key-file = '{key}'\n"
    )
}
