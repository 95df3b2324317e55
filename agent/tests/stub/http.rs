//! As much of an HTTP server as the stub needs.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A request whose body was not read yet.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    headers: HashMap<String, String>,
}

/// Reads the head of a request; none at the end of the connection.
pub fn head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(Request { method, path, query, headers }));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The `offset` of the query.
    pub fn offset(&self) -> u64 {
        self.query.strip_prefix("offset=").and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Reads the body piece by piece until `taker` says no.
    pub fn body(
        &self,
        stream: &mut BufReader<TcpStream>,
        mut taker: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.header("expect").is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut piece = vec![0; 4096];
        let mut copy = |stream: &mut BufReader<TcpStream>, mut left: u64| -> io::Result<()> {
            while left > 0 {
                let most = usize::try_from(left.min(piece.len() as u64)).map_err(io::Error::other)?;
                let n = stream.read(&mut piece[..most])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                taker(&piece[..n])?;
                left -= n as u64;
            }
            Ok(())
        };
        if self.header("transfer-encoding") != Some("chunked") {
            let size = self.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            return copy(stream, size);
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            copy(stream, size)?;
            stream.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Reads the whole body.
    pub fn bytes(&self, stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body(stream, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// Answers.
pub fn answer(stream: &mut BufReader<TcpStream>, status: u16, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n", body.len());
    let stream = stream.get_mut();
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()
}
