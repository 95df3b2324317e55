//! Outputs that come whole, and do not have their place at once.

use super::*;
use crate::config::{Gib, PlaceConfig};

/// A farm in which an agent has a build, with its first output and the compressed nar of that.
fn building(places: Vec<PlaceConfig>) -> (World, LeaseId, Output, Vec<u8>) {
    let mut world = World::with(|config| config.places = places);
    // Its time can be made to pass.
    world.runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The one that needs nothing.
    world.submit(0, 0);
    world.give(0, 1);
    let held = world.held.remove(0);
    let (output, bytes) = world.nodes[held.node].built().remove(0);
    (world, held.lease, output, bytes)
}

fn full_state() -> PlaceConfig {
    PlaceConfig { name: "state".to_owned(), capacity_gib: Some(Gib(0)), ..PlaceConfig::default() }
}

#[test]
fn an_agent_is_told_to_wait_before_it_sends_what_there_is_no_room_for() {
    let (world, lease, output, _) = building(vec![full_state()]);
    let declared = world.runtime.block_on(world.farm().declare(&world.agents[0], lease, output));
    assert!(matches!(declared, Err(Error::StorageFull(_))), "{declared:?}");
}

#[cfg(feature = "s3")]
mod slow {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use drover_wire::agent::Received;

    use super::*;
    use crate::config::LocationConfig;

    /// A bucket that keeps the mark of its place, refuses the first file, and takes the second when it is told to.
    struct Bucket {
        puts: Arc<AtomicUsize>,
        go: Sender<()>,
        folder: tempfile::TempDir,
        address: String,
    }

    fn bucket() -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (puts, (go, gone)) = (Arc::new(AtomicUsize::new(0)), channel());
        let (count, gone) = (Arc::clone(&puts), Arc::new(Mutex::new(gone)));
        let (size, mark) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, gone, size) = (Arc::clone(&count), Arc::clone(&gone), Arc::clone(&size));
                let mark = Arc::clone(&mark);
                thread::spawn(move || answer(stream.unwrap(), &count, &gone, &size, &mark));
            }
        });
        Bucket { puts, go, folder: tempfile::tempdir().unwrap(), address }
    }

    fn answer(
        mut stream: TcpStream,
        puts: &AtomicUsize,
        gone: &Mutex<Receiver<()>>,
        size: &AtomicUsize,
        mark: &Mutex<Option<Vec<u8>>>,
    ) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = said.trim().parse().unwrap();
            }
            head.push_str(&std::mem::take(&mut line));
        }
        let mut sent = Vec::new();
        reader.take(length).read_to_end(&mut sent).unwrap();
        let mut status = "200 OK";
        let mut length = if head.starts_with("HEAD") { size.load(Ordering::SeqCst) } else { 0 };
        let mut body = Vec::new();
        if head.lines().next().unwrap_or_default().contains("drover-place") {
            let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            if head.starts_with("PUT") {
                *mark = Some(sent);
            } else {
                let kept = mark.clone();
                status = if kept.is_some() { status } else { "404 Not Found" };
                let kept = kept.unwrap_or_default();
                length = kept.len();
                body = if head.starts_with("HEAD") { body } else { kept };
            }
        } else if head.starts_with("PUT") {
            if puts.fetch_add(1, Ordering::SeqCst) == 0 {
                status = "403 Forbidden";
            } else {
                let _ = gone.lock().unwrap_or_else(PoisonError::into_inner).recv();
                size.store(sent.len(), Ordering::SeqCst);
            }
        }
        let date = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"x\"";
        let text =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{date}\r\n\r\n");
        let _ = stream.write_all(&[text.as_bytes(), &body].concat());
    }

    impl World {
        /// What an agent hears when time passes as fast as it can.
        fn declare_quickly(&self, lease: LeaseId, output: &Output) -> Result<Received, Error> {
            let (farm, agent, output) = (Arc::clone(self.farm()), self.agents[0].clone(), output.clone());
            self.runtime.block_on(async {
                let asked = tokio::spawn(async move { farm.declare(&agent, lease, output).await });
                tokio::time::pause();
                while !asked.is_finished() {
                    tokio::time::advance(Duration::from_secs(1)).await;
                }
                tokio::time::resume();
                asked.await.unwrap()
            })
        }
    }

    #[test]
    fn what_is_here_whole_gets_its_place_without_being_sent_again_however_long_that_takes() {
        let bucket = bucket();
        let key = bucket.folder.path().join("key");
        std::fs::write(&key, "key\n").unwrap();
        let far = PlaceConfig {
            name: "far".to_owned(),
            at: LocationConfig {
                bucket: Some("s3://nars/p".to_owned()),
                endpoint: Some(bucket.address.clone()),
                region: Some("nowhere".to_owned()),
                access_key_file: Some(key.clone()),
                secret_key_file: Some(key),
                ..LocationConfig::default()
            },
            ..PlaceConfig::default()
        };
        let (world, lease, output, bytes) = building(vec![far, full_state()]);
        let (farm, agent) = (world.farm(), &world.agents[0]);
        let sent = world.runtime.block_on(async {
            let declared = farm.declare(agent, lease, output.clone()).await.unwrap();
            assert_eq!(declared, Received { received: 0, complete: false });
            let body = Box::pin(stream::iter([Ok(Bytes::from(bytes.clone()))]));
            farm.upload(agent, lease, output.path.clone(), 0, body).await
        });
        assert!(matches!(sent, Err(Error::Store(_))), "{sent:?}");
        // The next one who asks has it put once more, and does not wait for ever; nor does another.
        for _ in 0..2 {
            let asked = world.declare_quickly(lease, &output);
            assert!(matches!(asked, Err(Error::InHand(_))), "{asked:?}");
        }
        bucket.go.send(()).unwrap();
        let done = loop {
            match world.runtime.block_on(farm.declare(agent, lease, output.clone())) {
                Err(Error::InHand(_)) => {}
                done => break done.unwrap(),
            }
        };
        assert_eq!(done, Received { received: bytes.len() as u64, complete: true });
        assert_eq!(bucket.puts.load(Ordering::SeqCst), 2);
    }
}
