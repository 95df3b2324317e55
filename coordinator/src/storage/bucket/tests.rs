//! Servers that do not do what they should; a real one is in the tests of the whole farm.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::storage::{Mark, Target};

/// A server whose every answer is made here from the number of the question and its first line. It ends with the test's
/// process.
fn server(
    answer: impl Fn(usize, &str, &mut TcpStream) + Send + Sync + 'static,
) -> (Bucket, Arc<AtomicUsize>) {
    let (port, asked) = reading_server(move |n, first, _, stream| answer(n, first, stream));
    (bucket_at(&format!("http://127.0.0.1:{port}")), asked)
}

/// As [`server`], with what came in the question; the server's port.
fn reading_server(
    answer: impl Fn(usize, &str, &[u8], &mut TcpStream) + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    let lower = line.to_ascii_lowercase();
                    if let Some(said) = lower.strip_prefix("content-length:") {
                        length = said.trim().parse().unwrap();
                    }
                    if lower.starts_with("range:") {
                        first.push_str(lower.trim());
                    } else if first.is_empty() {
                        first.push_str(line.trim());
                    }
                    line.clear();
                }
                let mut body = Vec::new();
                reader.take(length).read_to_end(&mut body).unwrap();
                answer(count.fetch_add(1, Ordering::SeqCst), &first, &body, &mut stream);
            });
        }
    });
    (port, asked)
}

fn bucket_at(endpoint: &str) -> Bucket {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "key\n").unwrap();
    let config = BucketConfig {
        bucket: "nars".to_owned(),
        prefix: "p".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: Some("nowhere".to_owned()),
        access_key_file: Some(key.clone()),
        secret_key_file: Some(key),
    };
    Bucket::new(&config).unwrap()
}

fn head(status: &str, length: usize, more: &str) -> String {
    let date = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"x\"";
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{date}\r\n{more}\r\n")
}

fn read(bucket: &Bucket, range: Range<u64>) -> Result<Vec<u8>, String> {
    let length = range.end - range.start;
    let mut bytes = Vec::new();
    let opened = bucket.open("01/x.nar", 10, range).map_err(|error| error.to_string())?;
    opened.reader(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[test]
fn a_server_that_answers_500_is_asked_a_few_times_and_then_it_is_said() {
    let (bucket, asked) = server(|_, _, stream| {
        stream.write_all(head("500 Internal Server Error", 0, "").as_bytes()).unwrap();
    });
    let error = read(&bucket, 0..10).unwrap_err();
    assert!(error.contains("500") && error.contains("01/x.nar") && error.contains("s3://nars/p"), "{error}");
    assert_eq!(asked.swap(0, Ordering::SeqCst), TRIES as usize);
    bucket.put(&mut &b"0123456789"[..], 10, "01/x.nar").unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), TRIES as usize);
}

#[test]
fn what_passes_is_not_noticed() {
    let (bucket, _) = server(|n, _, stream| {
        let answer = if n < 2 { head("503 Slow Down", 0, "") } else { head("200 OK", 10, "") + "0123456789" };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    assert_eq!(read(&bucket, 0..10).unwrap(), b"0123456789");
}

#[test]
fn a_wrong_key_is_said_at_once() {
    let (bucket, asked) = server(|_, _, stream| {
        stream.write_all(head("403 Forbidden", 0, "").as_bytes()).unwrap();
    });
    let error = read(&bucket, 0..10).unwrap_err();
    assert!(error.contains("403") || error.contains("permission") || error.contains("Forbidden"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_of_another_length_is_not_read() {
    let (bucket, _) =
        server(|_, _, stream| stream.write_all((head("200 OK", 9, "") + "012345678").as_bytes()).unwrap());
    let error = read(&bucket, 0..10).unwrap_err();
    assert!(error.contains("has 9 bytes, and should have 10"), "{error}");
    let (bucket, _) = server(|_, _, stream| {
        let part = head("206 Partial Content", 4, "Content-Range: bytes 2-5/12\r\n") + "2345";
        stream.write_all(part.as_bytes()).unwrap();
    });
    let error = read(&bucket, 2..6).unwrap_err();
    assert!(error.contains("has 12 bytes"), "{error}");
}

#[test]
fn what_breaks_off_goes_on_where_it_did() {
    let (bucket, asked) = server(|_, first, stream| {
        let from: usize = match first.split_once("bytes=") {
            Some((_, range)) => range.split('-').next().unwrap().parse().unwrap(),
            None => 0,
        };
        let rest = &b"0123456789"[from..];
        let answer = match from {
            0 => head("200 OK", 10, ""),
            _ => head("206 Partial Content", rest.len(), &format!("Content-Range: bytes {from}-9/10\r\n")),
        };
        stream.write_all(answer.as_bytes()).unwrap();
        // Less than was said, and the end of the connection.
        stream.write_all(&rest[..rest.len().min(4)]).unwrap();
    });
    assert_eq!(read(&bucket, 0..10).unwrap(), b"0123456789");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn what_breaks_off_for_ever_is_an_error_and_no_end() {
    let (bucket, _) = server(|n, _, stream| {
        let answer = if n == 0 { head("200 OK", 10, "") + "01" } else { head("500 Oh", 0, "") };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    assert!(read(&bucket, 0..10).is_err());
}

#[test]
fn a_server_that_stands_still_is_left_for_another_try_and_given_up_in_the_end() {
    let stand_still = |stream: &mut TcpStream| {
        // Until the other side has had enough of it.
        let _ = stream.read(&mut [0]);
    };
    let (bucket, asked) = server(move |n, _, stream| {
        if n == 0 {
            stream.write_all((head("200 OK", 10, "") + "01").as_bytes()).unwrap();
        } else if n == 2 {
            let rest = head("206 Partial Content", 8, "Content-Range: bytes 2-9/10\r\n") + "23456789";
            return stream.write_all(rest.as_bytes()).unwrap();
        }
        stand_still(stream);
    });
    assert_eq!(read(&bucket, 0..10).unwrap(), b"0123456789");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let (bucket, asked) = server(move |_, _, stream| stand_still(stream));
    let error = read(&bucket, 0..10).unwrap_err();
    assert!(error.contains("nothing came"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), TRIES as usize);
}

#[test]
fn a_server_that_stands_still_is_not_waited_for_beyond_the_deadline() {
    let stand_still = |stream: &mut TcpStream| {
        // Until the other side has had enough of it.
        let _ = stream.read(&mut [0]);
    };
    let soon = || Deadline::after(Duration::from_secs(1));
    let (bucket, asked) = server(move |_, _, stream| stand_still(stream));
    let error = bucket.within(soon()).put(&mut &b"0123456789"[..], 10, "01/x.nar").unwrap_err();
    assert!(error.to_string().contains("as long as there was time"), "{error}");
    assert!(asked.swap(0, Ordering::SeqCst) <= 1);
    bucket.within(soon()).size("01/x.nar").unwrap_err();
    bucket.within(soon()).read("01/x.nar", 10).unwrap_err();
    bucket.within(soon()).remove("01/x.nar").unwrap_err();
    assert!(asked.load(Ordering::SeqCst) <= 3);

    let (bucket, asked) = server(move |_, first, stream| {
        if first.starts_with("POST") {
            let id = "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>";
            return stream.write_all((head("200 OK", id.len(), "") + id).as_bytes()).unwrap();
        }
        stand_still(stream);
    });
    let many = vec![0; PART as usize + 1];
    bucket.within(soon()).put(&mut &many[..], many.len() as u64, "01/x.nar").unwrap_err();
    // It begins; two parts, and that they are to be forgotten.
    assert!(asked.load(Ordering::SeqCst) <= 4);
}

#[test]
fn of_a_small_file_no_more_is_read_than_was_asked_for() {
    let (bucket, _) = server(|n, _, stream| {
        let answer =
            if n == 0 { head("404 Not Found", 0, "") } else { head("200 OK", 10, "") + "0123456789" };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    assert_eq!(bucket.read("x.narinfo", 4).unwrap(), None);
    assert_eq!(bucket.read("x.narinfo", 4).unwrap().unwrap(), b"0123");
    assert_eq!(bucket.read("x.narinfo", 40).unwrap().unwrap(), b"0123456789");
}

#[test]
fn a_put_that_the_server_did_not_keep_whole_is_an_error() {
    let (bucket, _) = server(|_, first, stream| {
        let answer = if first.starts_with("HEAD") { head("200 OK", 7, "") } else { head("200 OK", 0, "") };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let error = bucket.put(&mut &b"0123456789"[..], 10, "01/x.nar").unwrap_err();
    assert!(matches!(error, StoreError::Length { found: 7, expected: 10, .. }), "{error}");
}

#[test]
fn nothing_is_put_that_ends_too_early_or_goes_on() {
    let (bucket, asked) = server(|_, _, stream| stream.write_all(head("200 OK", 0, "").as_bytes()).unwrap());
    for size in [9, 11] {
        assert!(bucket.put(&mut &b"0123456789"[..], size, "01/x.nar").is_err());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// Answers what is asked when a file of so many bytes is put, in parts if need be.
fn keep(first: &str, size: usize, stream: &mut TcpStream) {
    let xml = |root: &str| {
        let text = format!("<{root}><UploadId>u</UploadId><ETag>x</ETag></{root}>");
        head("200 OK", text.len(), "") + &text
    };
    let answer = match first {
        _ if first.starts_with("HEAD") => head("200 OK", size, ""),
        _ if first.contains("?uploads") => xml("InitiateMultipartUploadResult"),
        _ if first.starts_with("POST") => xml("CompleteMultipartUploadResult"),
        _ => head("200 OK", 0, ""),
    };
    stream.write_all(answer.as_bytes()).unwrap();
}

/// A server that does not answer the first time that it is asked for what is asked so, and does otherwise what it should.
fn deaf_once(to: &'static str, size: usize) -> (Bucket, Arc<AtomicUsize>) {
    let heard = AtomicUsize::new(0);
    server(move |_, first, stream| {
        if first.contains(to) && heard.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = stream.read(&mut [0]);
        } else {
            keep(first, size, stream);
        }
    })
}

#[test]
fn a_file_is_sent_again_whose_server_stands_still() {
    let (bucket, asked) = deaf_once("PUT", 10);
    bucket.put(&mut &b"0123456789"[..], 10, "01/x.nar").unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn a_part_is_sent_again_whose_server_stands_still() {
    let large = vec![7; PART as usize * 2 + 1];
    let (bucket, asked) = deaf_once("partNumber=2", large.len());
    bucket.put(&mut &large[..], large.len() as u64, "01/x.nar").unwrap();
    // It is begun, three parts of which one comes twice, it is put together, and looked for.
    assert_eq!(asked.load(Ordering::SeqCst), 7);
    assert_eq!(bucket.line.sent.load(Ordering::SeqCst), 3);
}

#[test]
fn parts_that_never_come_through_are_given_up_and_taken_back() {
    let large = vec![7; PART as usize + 1];
    let taken_back = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken_back);
    let (bucket, _) = server(move |_, first, stream| {
        if first.starts_with("PUT") {
            let _ = stream.read(&mut [0]);
        } else {
            count.fetch_add(usize::from(first.starts_with("DELETE")), Ordering::SeqCst);
            keep(first, 0, stream);
        }
    });
    let error = bucket.put(&mut &large[..], large.len() as u64, "01/x.nar").unwrap_err();
    assert!(error.to_string().contains("nothing came"), "{error}");
    assert_eq!(taken_back.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_is_there_when_only_the_answer_about_it_was_lost() {
    let large = vec![7; PART as usize + 1];
    let size = large.len();
    for there in [true, false] {
        let heard = AtomicUsize::new(0);
        let (bucket, _) = server(move |_, first, stream| {
            if first.starts_with("POST") && !first.contains("?uploads") {
                if heard.fetch_add(1, Ordering::SeqCst) > 0 {
                    let text = "<Error><Code>NoSuchUpload</Code></Error>";
                    stream.write_all((head("404 Not Found", text.len(), "") + text).as_bytes()).unwrap();
                }
            } else if first.starts_with("HEAD") && !there {
                stream.write_all(head("404 Not Found", 0, "").as_bytes()).unwrap();
            } else {
                keep(first, size, stream);
            }
        });
        assert_eq!(bucket.put(&mut &large[..], size as u64, "01/x.nar").is_ok(), there);
    }
}

/// A server that keeps one file, and how its bucket is reached by two addresses.
fn honest() -> [Target; 2] {
    let kept: Mutex<Option<Vec<u8>>> = Mutex::default();
    let (port, _) = reading_server(move |_, first, body, stream| {
        let mut kept = kept.lock().unwrap();
        let answer = match &*kept {
            _ if first.starts_with("PUT") => {
                *kept = Some(body.to_vec());
                head("200 OK", 0, "")
            }
            None => head("404 Not Found", 0, ""),
            Some(kept) if first.starts_with("HEAD") => head("200 OK", kept.len(), ""),
            Some(kept) => head("200 OK", kept.len(), "") + &String::from_utf8_lossy(kept),
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    ["127.0.0.1", "localhost"].map(|host| Target::Bucket(bucket_at(&format!("http://{host}:{port}"))))
}

#[test]
fn a_bucket_is_one_place_by_whatever_address_it_is_reached() {
    let [one, other] = honest();
    let mark = |text: &str, is_new| Mark::new(text.to_owned(), is_new);
    let error = mark("first 1234", false).check(&one).unwrap_err();
    assert!(
        matches!(&error, StoreError::Foreign { .. }) && error.to_string().contains("drover-place"),
        "{error}"
    );
    let first = mark("first 1234", true);
    first.check(&one).unwrap();
    first.check(&one).unwrap();
    mark("first 1234", false).check(&other).unwrap();
    // That of another place, and that of another coordinator.
    for text in ["second 1234", "first 5678"] {
        let error = mark(text, true).check(&other).unwrap_err();
        assert!(matches!(&error, StoreError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("first 1234"), "{error}");
    }
}

#[test]
fn a_bucket_that_does_not_answer_is_asked_again_later_whose_it_is_and_not_by_everybody() {
    let (bucket, asked) = server(|_, _, stream| {
        stream.write_all(head("500 Oh", 0, "").as_bytes()).unwrap();
    });
    let (target, mark) = (Target::Bucket(bucket), Mark::new("first 1234".to_owned(), true));
    for _ in 0..3 {
        let error = mark.check(&target).unwrap_err();
        assert!(error.is_outage() && error.to_string().contains("500"), "{error}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), TRIES as usize);
}
