//! Requests for a server of files and texts: as many as it answers, on connections that stay open, from one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::bench::Result;

/// Binds the calling thread to one core.
///
/// # Errors
/// When there is no such core for this process.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The bytes of the answer to one request, which must be a success.
///
/// # Errors
/// When it is none.
pub fn get(server: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut connection = Connection::open(server)?;
    connection.stream.set_nonblocking(false)?;
    connection.ask(path)?;
    loop {
        if connection.take()? {
            let head = connection.head.ok_or("an answer without a head")?;
            return Ok(connection.buffer[head..head + connection.length].to_vec());
        }
    }
}

/// Asks for these paths by turns for so long, on so many connections; says how many answers came a second. Every answer
/// must be a success, and is read to its end.
///
/// # Errors
/// When an answer is none.
pub fn rate(server: SocketAddr, paths: &[String], connections: usize, time: Duration) -> Result<f64> {
    let mut open = (0..connections).map(|_| Connection::open(server)).collect::<Result<Vec<_>>>()?;
    let mut next = paths.iter().cycle();
    let mut path = || next.next().ok_or("there is nothing to ask for");
    for connection in &mut open {
        connection.ask(path()?)?;
    }
    let (start, mut answers) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        let ready: Vec<bool> = {
            let mut waited: Vec<PollFd<'_>> =
                open.iter().map(|one| PollFd::new(one.stream.as_fd(), PollFlags::POLLIN)).collect();
            if poll(&mut waited, PollTimeout::from(10_000_u16))? == 0 {
                return Err("no answer came for ten seconds".into());
            }
            waited.iter().map(|one| one.any().unwrap_or(true)).collect()
        };
        for (connection, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if connection.take()? {
                answers += 1;
                if connection.closes {
                    *connection = Connection::open(server)?;
                }
                connection.ask(path()?)?;
            }
        }
    }
    Ok(answers as f64 / start.elapsed().as_secs_f64())
}

/// A connection with one request at a time.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
    /// Where the body begins, when the head is there.
    head: Option<usize>,
    /// The head of the answer before.
    last: Vec<u8>,
    length: usize,
    closes: bool,
}

impl Connection {
    fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            request: Vec::new(),
            buffer: vec![0; 64 * 1024],
            filled: 0,
            head: None,
            last: Vec::new(),
            length: 0,
            closes: false,
        })
    }

    /// Sends a request. The last answer was read.
    fn ask(&mut self, path: &str) -> Result<()> {
        self.request.clear();
        write!(self.request, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        (self.filled, self.head) = (0, None);
        Ok(self.stream.write_all(&self.request)?)
    }

    /// Reads what is there; true when it is the whole answer.
    fn take(&mut self) -> Result<bool> {
        self.fill()?;
        let Some(head) = self.head else { return Ok(false) };
        let end = head + self.length;
        if end > self.buffer.len() {
            return Err("an answer is larger than texts are".into());
        }
        Ok(self.filled >= end)
    }

    /// Reads what is there, as far as there is room for it, and looks for the end of the head.
    fn fill(&mut self) -> Result<()> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err("a connection ended within an answer".into()),
            Ok(n) => self.filled += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if self.head.is_none() {
            let answer = &self.buffer[..self.filled];
            // The same head says the same: this is not to be the client's bench.
            if !self.last.is_empty() && answer.starts_with(&self.last) {
                self.head = Some(self.last.len());
                return Ok(());
            }
            let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(());
            };
            let head = std::str::from_utf8(&answer[..end])?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(format!("a request was not answered: {head}").into());
            }
            let field = |name: &str| {
                head.lines().find_map(|line| {
                    let (found, value) = line.split_once(':')?;
                    found.eq_ignore_ascii_case(name).then(|| value.trim())
                })
            };
            self.length = field("content-length").ok_or("an answer of unknown length")?.parse()?;
            self.closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            self.head = Some(end + 4);
            self.last.clear();
            self.last.extend_from_slice(&answer[..end + 4]);
        }
        Ok(())
    }
}

/// Reads a large answer to its end and throws it away; says how many bytes it had, and how long it took.
///
/// # Errors
/// When it is no success, or not whole.
pub fn download(server: SocketAddr, path: &str) -> Result<(u64, Duration)> {
    let mut connection = Connection::open(server)?;
    connection.stream.set_nonblocking(false)?;
    let mut buffer = vec![0; 256 * 1024];
    let start = Instant::now();
    connection.ask(path)?;
    let head = loop {
        connection.fill()?;
        if let Some(head) = connection.head {
            break head;
        }
    };
    let length = connection.length;
    let mut left = length.saturating_sub(connection.filled - head);
    while left > 0 {
        match connection.stream.read(&mut buffer)? {
            0 => return Err("a connection ended within an answer".into()),
            n => left = left.checked_sub(n).ok_or("an answer is longer than it said")?,
        }
    }
    Ok((length as u64, start.elapsed()))
}

/// The processor seconds that these processes have used.
///
/// # Errors
/// When one of them is not there.
pub fn processor_seconds(processes: &[u32]) -> Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let mut sum = 0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name is in parentheses, and may have any in it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut numbers = fields.split_ascii_whitespace().skip(11);
        for _ in 0..2 {
            sum += numbers.next().ok_or("a process without times")?.parse::<i64>()?;
        }
    }
    Ok(sum as f64 / ticks as f64)
}
