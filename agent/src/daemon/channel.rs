//! Integers, byte strings and log messages over a socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use drover_os::net::Stream;
use drover_store::framing;

use super::error::Fault;

/// Bytes that are collected before they are read or written.
const BUFFER: usize = 16 * 1024;
/// The most bytes of a store path, a name or a number in text.
const WORD_LIMIT: u64 = 4096;
/// The most bytes of the daemon's words that are kept when it says no; the rest is skipped.
const WORDS_KEPT: u64 = 16 * 1024;
/// The most items of a list in a reply.
const LIST_LIMIT: u64 = 4_000_000;

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;

/// What the daemon says before its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A piece of log follows: see [`Channel::body`].
    Text,
    /// It wants up to this many bytes.
    Wanted(u64),
    /// Bytes for us follow: see [`Channel::body`].
    Data,
    /// The reply follows.
    Last,
}

/// Both directions of a connection, buffered. Nothing is sent before [`Channel::flush`] or a full buffer.
#[derive(Debug)]
pub(super) struct Channel<S: Read + Write = Stream> {
    stream: BufReader<S>,
    output: Vec<u8>,
    /// Bytes of the current message's body that were not read yet, and its padding.
    body: u64,
    padding: u64,
}

impl<S: Read + Write> Channel<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER, stream), output: Vec::new(), body: 0, padding: 0 }
    }

    pub(super) fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// Whether bytes wait in our buffer that nobody has asked for.
    pub(super) fn has_unread(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        self.stream.get_mut().write_all(&self.output)?;
        self.output.clear();
        // An idle connection keeps no large buffer.
        self.output.shrink_to(BUFFER);
        Ok(self.stream.get_mut().flush()?)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.output.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            self.stream.get_mut().write_all(bytes)?;
        } else {
            self.output.extend_from_slice(bytes);
        }
        Ok(())
    }

    pub(super) fn write_u64(&mut self, number: u64) -> Result<(), Fault> {
        self.write(&number.to_le_bytes())
    }

    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.write_u64(bytes.len() as u64)?;
        self.write(bytes)?;
        self.write(&[0; 8][..framing::padding(bytes.len() as u64)])
    }

    pub(super) fn write_list<T: AsRef<[u8]>>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
    ) -> Result<(), Fault> {
        self.write_u64(items.len() as u64)?;
        for item in items {
            self.write_bytes(item.as_ref())?;
        }
        Ok(())
    }

    pub(super) fn read_u64(&mut self) -> Result<u64, Fault> {
        Ok(framing::read_u64(&mut self.stream, "a number")?)
    }

    /// A short byte string: a path, a name, a hash.
    pub(super) fn read_word(&mut self) -> Result<String, Fault> {
        let word = framing::read_bytes(&mut self.stream, WORD_LIMIT, "a word")?;
        String::from_utf8(word).map_err(|e| Fault::Protocol(format!("a word that is not text ({e})")))
    }

    pub(super) fn read_words(&mut self) -> Result<Vec<String>, Fault> {
        let count = self.read_u64()?;
        if count > LIST_LIMIT {
            return Err(Fault::Protocol(format!("a list of {count} items")));
        }
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(self.read_word()?);
        }
        Ok(words)
    }

    /// Reads over a list that may be long: it is not kept.
    pub(super) fn skip_words(&mut self) -> Result<(), Fault> {
        let count = self.read_u64()?;
        if count > LIST_LIMIT {
            return Err(Fault::Protocol(format!("a list of {count} items")));
        }
        for _ in 0..count {
            self.read_word()?;
        }
        Ok(())
    }

    /// The next message; what was not read of the one before is skipped. The daemon's “no” is an error.
    pub(super) fn message(&mut self) -> Result<Message, Fault> {
        self.skip(self.body.saturating_add(self.padding))?;
        (self.body, self.padding) = (0, 0);
        match self.read_u64()? {
            NEXT => self.begin_body().map(|()| Message::Text),
            WRITE => self.begin_body().map(|()| Message::Data),
            READ => Ok(Message::Wanted(self.read_u64()?)),
            LAST => Ok(Message::Last),
            ERROR => Err(self.refusal()?),
            other => Err(Fault::Protocol(format!("the unknown message {other:#x}"))),
        }
    }

    /// Reads from the body of the current [`Message::Text`] or [`Message::Data`]; 0 at its end.
    pub(super) fn body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.body).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.stream.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.body -= n as u64;
        Ok(n)
    }

    /// Gives the body of the current message piece by piece, each as it came.
    pub(super) fn take_body(&mut self, mut taker: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Fault> {
        while self.body > 0 {
            let piece = self.stream.fill_buf()?;
            if piece.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let most = usize::try_from(self.body).unwrap_or(usize::MAX).min(piece.len());
            taker(&piece[..most]).map_err(Fault::Ours)?;
            self.stream.consume(most);
            self.body -= most as u64;
        }
        Ok(())
    }

    /// Sends what was asked and waits for the reply, leaving out what the daemon logs meanwhile.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.flush()?;
        loop {
            match self.message()? {
                Message::Last => return Ok(()),
                Message::Text => {}
                Message::Wanted(_) => return Err(Fault::Protocol("a request for data".to_owned())),
                Message::Data => return Err(Fault::Protocol("unexpected data".to_owned())),
            }
        }
    }

    fn begin_body(&mut self) -> Result<(), Fault> {
        self.body = self.read_u64()?;
        self.padding = framing::padding(self.body) as u64;
        Ok(())
    }

    fn refusal(&mut self) -> Result<Fault, Fault> {
        self.begin_body()?;
        let mut words = Vec::new();
        let kept = self.body.min(WORDS_KEPT);
        self.read_some(kept, &mut words)?;
        self.skip((self.body - kept).saturating_add(self.padding))?;
        (self.body, self.padding) = (0, 0);
        let status = self.read_u64()?;
        Ok(Fault::Refused { message: String::from_utf8_lossy(&words).trim_end().to_owned(), status })
    }

    /// Appends `count` bytes; memory grows with what arrives, not with what was announced.
    fn read_some(&mut self, count: u64, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let read = (&mut self.stream).take(count).read_to_end(bytes)?;
        if read as u64 == count { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }

    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        let skipped = io::copy(&mut (&mut self.stream).take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }
}

impl Channel<Stream> {
    /// How long a single read may take; none: as long as it wants.
    pub(super) fn set_patience(&mut self, patience: Option<Duration>) {
        self.stream.get_mut().set_read_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that says what is given and takes everything.
    struct Recorded<'a>(&'a [u8]);

    impl Read for Recorded<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Recorded<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn string(text: &[u8]) -> Vec<u8> {
        let mut bytes = numbers(&[text.len() as u64]);
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_log_that_nobody_reads_is_skipped_before_the_reply() {
        let bytes =
            [numbers(&[NEXT]), string(b"some log"), numbers(&[NEXT]), string(b"more"), numbers(&[LAST, 7])]
                .concat();
        let mut channel = Channel::new(Recorded(&bytes));
        channel.finish().unwrap();
        assert_eq!(channel.read_u64().unwrap(), 7);
    }

    #[test]
    fn a_refusal_keeps_its_words_and_status_and_the_connection_goes_on() {
        let long = vec![b'x'; 40_000];
        let bytes = [numbers(&[ERROR]), string(&long), numbers(&[100, LAST])].concat();
        let mut channel = Channel::new(Recorded(&bytes));
        match channel.finish() {
            Err(Fault::Refused { message, status: 100 }) => assert_eq!(message.len(), 16 * 1024),
            other => panic!("{other:?}"),
        }
        channel.finish().unwrap();
    }

    #[test]
    fn a_reply_that_is_cut_off_anywhere_is_an_error() {
        let bytes =
            [numbers(&[NEXT]), string(b"log"), numbers(&[LAST, 2]), string(b"/gnu"), string(b"/store")]
                .concat();
        for length in 0..bytes.len() {
            let mut channel = Channel::new(Recorded(&bytes[..length]));
            assert!(channel.finish().and_then(|()| channel.read_words()).is_err(), "cut at {length}");
        }
        let mut channel = Channel::new(Recorded(&bytes));
        channel.finish().unwrap();
        assert_eq!(channel.read_words().unwrap(), ["/gnu", "/store"]);
    }

    #[test]
    fn announced_lengths_are_never_allocated() {
        for head in [vec![NEXT, u64::MAX], vec![WRITE, u64::MAX], vec![ERROR, u64::MAX], vec![12345]] {
            let bytes = numbers(&head);
            assert!(Channel::new(Recorded(&bytes)).finish().is_err());
        }
        assert!(Channel::new(Recorded(&numbers(&[u64::MAX]))).read_word().is_err());
        assert!(Channel::new(Recorded(&numbers(&[u64::MAX]))).read_words().is_err());
        assert!(Channel::new(Recorded(&numbers(&[LIST_LIMIT]))).read_words().is_err());
    }

    #[test]
    fn a_body_is_given_in_pieces_up_to_its_end_and_no_further() {
        let bytes = [numbers(&[NEXT]), string(b"log"), numbers(&[LAST])].concat();
        let mut channel = Channel::new(Recorded(&bytes));
        assert_eq!(channel.message().unwrap(), Message::Text);
        let mut buffer = [0; 2];
        assert_eq!(channel.body(&mut buffer).unwrap(), 2);
        let mut rest = Vec::new();
        channel
            .take_body(|piece| {
                rest.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!((&buffer, &rest[..]), (b"lo", &b"g"[..]));
        assert_eq!(channel.body(&mut buffer).unwrap(), 0);
        assert_eq!(channel.message().unwrap(), Message::Last);
    }
}
