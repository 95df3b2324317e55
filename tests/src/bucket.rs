//! A server of buckets on the loopback: moto's, which `ci/test` installs.
#![expect(clippy::unwrap_used, reason = "a test's tools fail by failing the test")]

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

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

/// What becomes of the answers to those who read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// They pass as they are.
    Honest,
    /// They are 500.
    Fails,
    /// They have the length that they should, and end after a thousand bytes.
    Short,
    /// They say another length.
    Lies,
    /// They stand still in their middle, until the manner is another.
    Stalls,
}

/// Stands before a server of buckets, and does what no server should with the answers about some of the files. It ends
/// with the test's process.
#[derive(Debug)]
pub struct CrookedServer {
    /// Where it listens.
    pub address: SocketAddr,
    manner: Arc<(Mutex<Manner>, Condvar)>,
}

impl CrookedServer {
    /// One that is honest for now, and about files whose names do not contain `part` always.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn before(target: SocketAddr, part: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let manner = Arc::new((Mutex::new(Manner::Honest), Condvar::new()));
        let (part, shared) = (part.to_owned(), Arc::clone(&manner));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (part, manner) = (part.clone(), Arc::clone(&shared));
                // Whoever hangs up has had enough.
                thread::spawn(move || answer(client, target, &part, &manner));
            }
        });
        Self { address, manner }
    }

    /// Changes its manner.
    ///
    /// # Panics
    /// When one of its threads has.
    pub fn be(&self, manner: Manner) {
        *self.manner.0.lock().unwrap() = manner;
        self.manner.1.notify_all();
    }
}

/// One request, and one answer.
fn answer(
    client: TcpStream,
    target: SocketAddr,
    part: &str,
    (manner, changed): &(Mutex<Manner>, Condvar),
) -> io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while from.read_line(&mut head)? > 2 {}
    let first = head.lines().next().unwrap_or_default().to_owned();
    let is_about = first.starts_with("GET ") && first.contains(part);
    let how = if is_about { *manner.lock().unwrap() } else { Manner::Honest };
    let mut server = TcpStream::connect(target)?;
    server.write_all(head.trim_end().as_bytes())?;
    server.write_all(b"\r\nConnection: close\r\n\r\n")?;
    let mut client = client;
    if how == Manner::Honest {
        // What comes after a request without a body is the next one. moto would swallow it, and wait for more of it for ever.
        if !first.starts_with("GET ") && !first.starts_with("HEAD ") {
            let mut up = server.try_clone()?;
            thread::spawn(move || io::copy(&mut from, &mut up));
        }
        io::copy(&mut server, &mut client)?;
        return client.shutdown(std::net::Shutdown::Both);
    }
    let mut whole = Vec::new();
    server.read_to_end(&mut whole)?;
    let end = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (head, body) = whole.split_at(end);
    match how {
        Manner::Honest => {}
        Manner::Fails => {
            client.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
        Manner::Short => {
            client.write_all(head)?;
            client.write_all(&body[..body.len().min(1000)])?;
        }
        Manner::Lies => {
            let (said, lie) = (body.len().to_string(), (body.len() + 9).to_string());
            let head = String::from_utf8_lossy(head).replace(&said, &lie);
            client.write_all(head.as_bytes())?;
            client.write_all(body)?;
            client.write_all(b"and a bit")?;
        }
        Manner::Stalls => {
            client.write_all(head)?;
            client.write_all(&body[..body.len() / 2])?;
            let stalls = |manner: &mut Manner| *manner == Manner::Stalls;
            drop(changed.wait_while(manner.lock().unwrap(), stalls).unwrap());
        }
    }
    client.shutdown(std::net::Shutdown::Both)
}
