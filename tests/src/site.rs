//! A small web server whose files come, go and change while a test looks on.
#![expect(clippy::unwrap_used, reason = "a test's tools fail by failing the test")]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on the loopback. It ends with the test's process.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its address, without a slash at the end.
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    /// Answered to everything, if there is one.
    status: Option<&'static str>,
    asked: Vec<String>,
}

impl Site {
    /// A server without files.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Mutex<Shared>>::default();
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                // Whoever hangs up has seen enough.
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { url, shared }
    }

    /// A file is there, or another one in its place; its address.
    ///
    /// # Panics
    /// Only after another panic, here and below.
    pub fn put(&self, name: &str, contents: &[u8]) -> String {
        self.shared.lock().unwrap().files.insert(format!("/{name}"), contents.to_vec());
        format!("{}/{name}", self.url)
    }

    /// A file is not there any more.
    ///
    /// # Panics
    /// See [`Site::put`].
    pub fn remove(&self, name: &str) {
        self.shared.lock().unwrap().files.remove(&format!("/{name}"));
    }

    /// Everything is answered with this, such as `500 Oops`; none: as it should be.
    ///
    /// # Panics
    /// See [`Site::put`].
    pub fn answer_all(&self, status: Option<&'static str>) {
        self.shared.lock().unwrap().status = status;
    }

    /// How many requests came for a file.
    ///
    /// # Panics
    /// See [`Site::put`].
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        self.shared.lock().unwrap().asked.iter().filter(|path| path.strip_prefix('/') == Some(name)).count()
    }
}

fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    // The head of a request ends with an empty line.
    let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = {
        let mut shared = shared.lock().unwrap();
        shared.asked.push(path.to_owned());
        match (shared.status, shared.files.get(path)) {
            (Some(status), _) => (status, Vec::new()),
            (None, Some(contents)) => ("200 OK", contents.clone()),
            (None, None) => ("404 Not Found", Vec::new()),
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}
