//! A look at an upstream: what its addresses give now.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use drover_store::derivation::Fixed;
use drover_store::nar::{self, Visitor as _};
use drover_tls::Trust;
use drover_wire::source::SourceState;
use ureq::Agent;

use crate::storage::Algorithm;
use crate::web;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long it may take to find out whether our own network is away.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// The most bytes that are fetched of one address.
const MOST: u64 = 16 << 30;
const BUFFER: usize = 64 * 1024;

/// What was found, and more about it in words.
pub(super) type Found = (SourceState, String);

/// What one address gave.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Right,
    Other(String),
    /// The server says that it has no such thing.
    Gone(String),
    /// There is no such server, says the name service, or who pretends to be one.
    NoHost,
    Trouble(String),
}

/// Asks upstreams.
#[derive(Debug)]
pub(super) struct Looker(Agent);

impl Looker {
    /// `everywhere`: in private networks, too.
    pub(super) fn new(everywhere: bool) -> Self {
        let settings = web::settings()
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self(if everywhere {
            web::client(settings, Trust::System)
        } else {
            web::client_for_strangers(settings)
        })
    }

    /// Looks at these addresses until one gives what it should. `elsewhere` is an address that has answered before:
    /// where it does not, it is our own network that is away. It takes no longer than `time` and a few seconds. Blocks.
    pub(super) fn look(
        &self,
        addresses: &[String],
        fixed: &Fixed,
        executable: bool,
        elsewhere: Option<&str>,
        time: Duration,
    ) -> Found {
        let end = Instant::now() + time;
        let mut answers = Vec::new();
        for address in addresses {
            let answer = match end.checked_duration_since(Instant::now()) {
                Some(left) => self.ask(address, fixed, executable, (end, left)),
                None => Answer::Trouble("there was no time left".to_owned()),
            };
            if answer == Answer::Right {
                return (SourceState::There, address.clone());
            }
            answers.push((address, answer));
        }
        self.judge(&answers, elsewhere)
    }

    fn judge(&self, answers: &[(&String, Answer)], elsewhere: Option<&str>) -> Found {
        if let Some((address, Answer::Other(what))) =
            answers.iter().find(|(_, a)| matches!(a, Answer::Other(_)))
        {
            return (SourceState::Changed, format!("{address}: {what}"));
        }
        let words = |(address, answer): &(&String, Answer)| match answer {
            Answer::Gone(why) | Answer::Other(why) | Answer::Trouble(why) => format!("{address}: {why}"),
            Answer::NoHost => format!("{address}: there is no such host"),
            Answer::Right => String::new(),
        };
        let trouble = answers.iter().find(|(_, answer)| matches!(answer, Answer::Trouble(_)));
        let (Some(first), None) = (answers.first(), trouble) else {
            let why = trouble.map_or_else(|| "it has no address of the web".to_owned(), words);
            return (SourceState::Unknown, why);
        };
        let answered = answers.iter().any(|(_, answer)| matches!(answer, Answer::Gone(_)));
        if answered || elsewhere.is_some_and(|address| self.answers(address)) {
            return (SourceState::Vanished, words(first));
        }
        (SourceState::Unknown, format!("{}, and nothing else can be reached either", words(first)))
    }

    fn answers(&self, address: &str) -> bool {
        let request = self.0.head(address).config().timeout_global(Some(ELSEWHERE)).build();
        request.call().is_ok()
    }

    fn ask(
        &self,
        address: &str,
        fixed: &Fixed,
        executable: bool,
        (end, left): (Instant, Duration),
    ) -> Answer {
        let request = self.0.get(address).config().timeout_global(Some(left)).build();
        let mut answer = match request.call() {
            Ok(answer) => answer,
            Err(error) if is_no_host(&error) => return Answer::NoHost,
            Err(error) => return Answer::Trouble(web::words(&error)),
        };
        match answer.status().as_u16() {
            200 => {}
            status @ (404 | 410) => return Answer::Gone(format!("HTTP {status}")),
            status => return Answer::Trouble(format!("HTTP {status}")),
        }
        let size = answer.body().content_length();
        if size.is_some_and(|size| size > MOST) {
            return Answer::Trouble(format!("it has more than {MOST} bytes"));
        }
        let body = answer.body_mut().with_config().limit(MOST).reader();
        match digest(body, fixed, executable, size, end) {
            Ok(hash) if hash == fixed.hash => Answer::Right,
            Ok(hash) => Answer::Other(format!("its contents have the {} {}", fixed.algorithm, hex(&hash))),
            Err(error) => Answer::Trouble(web::io_words(&error)),
        }
    }
}

/// The hash of a body as it fixes an output.
fn digest(
    mut body: impl Read,
    fixed: &Fixed,
    executable: bool,
    size: Option<u64>,
    end: Instant,
) -> io::Result<Vec<u8>> {
    let mut hash = Algorithm::named(&fixed.algorithm)
        .ok_or_else(|| io::Error::other(format!("the hash {} is not known here", fixed.algorithm)))?;
    let mut buffer = vec![0; BUFFER];
    let mut next = |buffer: &mut [u8]| {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        body.read(buffer)
    };
    if !fixed.recursive {
        loop {
            match next(&mut buffer)? {
                0 => return Ok(hash.finish()),
                read => hash.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    }
    // Before the contents a nar says how many there are.
    let size = size.ok_or_else(|| io::Error::other("its server does not say how long it is"))?;
    let mut nar = nar::Writer::new(hash);
    nar.regular(executable, size).map_err(io::Error::other)?;
    loop {
        match next(&mut buffer)? {
            0 => break,
            read => nar.contents(buffer.get(..read).unwrap_or_default()).map_err(io::Error::other)?,
        }
    }
    nar.end_regular().map_err(io::Error::other)?;
    Ok(nar.finish().map_err(io::Error::other)?.finish())
}

pub(super) fn hex(hash: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

/// The system has no number for it that the standard library gives away, only words.
fn is_no_host(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound => true,
        ureq::Error::Io(error) => {
            let words = error.to_string();
            words.contains("Name or service not known") || words.contains("No address associated")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use drover_store::Sha256Hash;
    use drover_store::nar::Node;

    use super::*;

    /// Answers every request so.
    fn server(status: &'static str, body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.tar", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        url
    }

    fn fixed(recursive: bool, hash: Sha256Hash) -> Fixed {
        Fixed { recursive, algorithm: "sha256".to_owned(), hash: hash.as_bytes().to_vec() }
    }

    fn state(addresses: &[&str], elsewhere: Option<&str>) -> SourceState {
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let fixed = fixed(false, Sha256Hash::of(b"right"));
        Looker::new(true).look(&addresses, &fixed, false, elsewhere, Duration::from_secs(60)).0
    }

    #[test]
    fn an_upstream_is_there_changed_vanished_or_in_trouble() {
        let (right, other) = (server("200 OK", "right"), server("200 OK", "other"));
        let (gone, broken) = (server("404 Not Found", ""), server("500 Oops", ""));
        assert_eq!(state(&[&gone, &other, &right], None), SourceState::There);
        assert_eq!(state(&[&gone, &other], None), SourceState::Changed);
        assert_eq!(state(&[&gone], None), SourceState::Vanished);
        assert_eq!(state(&[&gone, &broken], None), SourceState::Unknown);
        assert_eq!(state(&["http://127.0.0.1:9/x"], None), SourceState::Unknown);
        assert_eq!(state(&[], None), SourceState::Unknown);
    }

    #[test]
    fn a_host_that_is_nowhere_has_vanished_only_if_something_else_can_be_reached() {
        let right = server("200 OK", "right");
        let address = "http://none.invalid/x".to_owned();
        let judge = |elsewhere| Looker::new(true).judge(&[(&address, Answer::NoHost)], elsewhere).0;
        assert_eq!(judge(Some(right.as_str())), SourceState::Vanished);
        assert_eq!(judge(Some("http://127.0.0.1:9/")), SourceState::Unknown);
        assert_eq!(judge(None), SourceState::Unknown);
    }

    #[test]
    fn other_hashes_are_made_too_and_what_cannot_be_hashed_is_not_said_to_be_there() {
        let address = [server("200 OK", "right")];
        let look = |algorithm: &str, hash: &str| {
            let hash = data_encoding::HEXLOWER.decode(hash.as_bytes()).unwrap();
            let fixed = Fixed { recursive: false, algorithm: algorithm.to_owned(), hash };
            Looker::new(true).look(&address, &fixed, false, None, Duration::from_secs(60))
        };
        // By sha1sum and sha512sum.
        assert_eq!(look("sha1", "d27a1f11771200949714b1af99f048a416f5d6f4").0, SourceState::There);
        assert_eq!(look("sha512", "55c972106a0b3267b1e1fa7af7d584ddcf6051ee51630da49cce80d953992390cd6e4c718adc852beb7618a7221b7e3a03eeae6c6fb52d3a8805665c357f6b1f").0, SourceState::There);
        assert_eq!(look("sha1", &"00".repeat(20)).0, SourceState::Changed);
        let (state, detail) = look("md5", &"00".repeat(16));
        assert_eq!(state, SourceState::Unknown);
        assert!(detail.contains("md5"), "{detail}");
    }

    #[test]
    fn nobody_in_a_private_network_is_asked_unless_that_is_allowed() {
        let right = [server("200 OK", "right")];
        let fixed = fixed(false, Sha256Hash::of(b"right"));
        let look =
            |everywhere| Looker::new(everywhere).look(&right, &fixed, false, None, Duration::from_secs(60));
        let (state, detail) = look(false);
        assert_eq!(state, SourceState::Unknown);
        assert!(detail.contains("sources-check-private"), "{detail}");
        assert_eq!(look(true).0, SourceState::There);
    }

    #[test]
    fn a_program_is_fixed_by_its_nar() {
        let hash = Sha256Hash::of(&Node::program(&b"right"[..]).to_nar());
        let address = [server("200 OK", "right")];
        let looker = Looker::new(true);
        let look = |executable| {
            looker.look(&address, &fixed(true, hash), executable, None, Duration::from_secs(60)).0
        };
        assert_eq!((look(true), look(false)), (SourceState::There, SourceState::Changed));
    }
}
