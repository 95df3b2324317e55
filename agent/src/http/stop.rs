//! The end of a client's requests by somebody else's word.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{Entry, Interest, wait, wait_one};

use super::Client;

/// The stack of the thread that waits for the word.
const STACK: usize = 64 * 1024;
/// After the word: how often requests are ended that began just then.
const AGAIN: Duration = Duration::from_millis(200);

impl Client {
    /// Does `work`, during which this client's requests end, the later ones too, once `stop` is readable. Clones of the
    /// client that are used elsewhere suffer the same.
    pub(crate) fn while_wanted<T>(&self, stop: BorrowedFd<'_>, work: impl FnOnce() -> T) -> T {
        let _wanted = self.wanted_until(stop);
        work()
    }

    /// As [`Client::while_wanted`], for as long as what this gives is there.
    pub(crate) fn wanted_until(&self, stop: BorrowedFd<'_>) -> Wanted {
        let watch = || {
            let (done, waits) = UnixStream::pair()?;
            let (client, stop) = (self.clone(), stop.try_clone_to_owned()?);
            let thread = thread::Builder::new().name("http-stop".into()).stack_size(STACK);
            let thread = thread.spawn(move || client.watch(stop.as_fd(), waits.as_fd()))?;
            Ok::<_, io::Error>((done, thread))
        };
        match watch() {
            Ok((done, thread)) => Wanted { done: Some(done), thread: Some(thread) },
            Err(error) => {
                tracing::warn!("watch for the end of downloads, for which a stop waits now: {error}");
                Wanted { done: None, thread: None }
            }
        }
    }

    fn watch(&self, stop: BorrowedFd<'_>, done: BorrowedFd<'_>) {
        let mut entries = [Entry::new(stop, Interest::Readable), Entry::new(done, Interest::Readable)];
        if let Err(error) = wait(&mut entries, Deadline::never()) {
            tracing::warn!("wait for a stop: {error}");
            return;
        }
        while let Ok(false) = wait_one(done, Interest::Readable, Deadline::after(Duration::ZERO)) {
            self.cancel();
            // Its error shows in the next look.
            let _ = wait_one(done, Interest::Readable, Deadline::after(AGAIN));
        }
    }
}

/// That the requests of a client end with somebody's word.
pub(crate) struct Wanted {
    done: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        drop(self.done.take());
        // It does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::Server;
    use crate::http::{Patience, Remote};
    use drover_tls::Trust;
    use std::io::Read;
    use std::sync::{Mutex, mpsc};

    #[test]
    fn a_body_that_stands_still_ends_with_the_word_and_without_it_nothing_does() {
        let (came, coming) = mpsc::channel();
        let (gate, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let server = Server::start(move |mut exchange| {
            if exchange.target.contains("go") {
                return exchange.respond(200, "", b"whole");
            }
            exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nsome");
            came.send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
        });
        let client = Client::new(&Trust::System, Patience::default());
        let (stop, word) = UnixStream::pair().unwrap();
        let read = |path: &str| {
            client.while_wanted(stop.as_fd(), || {
                let url = format!("{}{path}", server.url());
                let mut text = String::new();
                let mut remote = Remote::open(&client, &url, stop.as_fd()).map_err(io::Error::other)?;
                remote.read_to_string(&mut text).map(|_| text)
            })
        };
        assert_eq!(read("/go").unwrap(), "whole");
        thread::scope(|scope| {
            scope.spawn(move || {
                coming.recv().unwrap();
                drop(word);
            });
            assert!(read("/hold").is_err());
        });
        drop(gate);
    }
}
