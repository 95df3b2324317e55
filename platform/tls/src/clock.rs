//! Whether it is the clock that is wrong, and not the certificate: what the server's own clock says.
//!
//! It is asked without TLS, on a connection of its own, with a request that has nothing of ours in it. What it answers is
//! nobody's word: it goes into a sentence for people, and nothing is decided by it. Coordinators and web servers answer so
//! on a port that speaks TLS, with the field `Date` (RFC 9110, section 6.6.1).

use std::io::{Read, Write};
use std::sync::Arc;

use ureq::unversioned::transport::{ConnectionDetails, TransportAdapter};

use crate::date;

/// The most bytes of an answer's head that are read.
const HEAD_LIMIT: usize = 8 << 10;

/// What the clock of a server says, in seconds since 1970; none if it does not.
pub(crate) fn of_server(details: &ConnectionDetails<'_>) -> Option<u64> {
    if details.config.proxy().is_some() {
        return None;
    }
    // Not the whole authority: a password may be in it.
    let host = details.uri.host()?;
    let port = details.uri.port_u16().unwrap_or(443);
    let plain = format!("http://{host}:{port}/").parse().ok()?;
    let details = ConnectionDetails {
        uri: &plain,
        addrs: details.addrs.clone(),
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: details.now,
        timeout: details.timeout,
        current_time: Arc::clone(&details.current_time),
        run_connector: Arc::clone(&details.run_connector),
        register_shutdown: Arc::clone(&details.register_shutdown),
    };
    let transport = (details.run_connector)(&details).ok()?;
    let mut socket = TransportAdapter::new(transport, Arc::clone(&details.current_time));
    socket.set_timeout(details.timeout);
    let request = format!("HEAD / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    socket.flush().ok()?;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while head.len() < HEAD_LIMIT && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => head.extend_from_slice(buffer.get(..read)?),
        }
    }
    date_of(&head)
}

/// The field `Date` of an answer's head.
fn date_of(head: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head);
    let mut fields = head.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    fields.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| date::of_http(value.trim()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_found_in_the_head_of_an_answer_and_nowhere_else() {
        let head =
            |fields: &str| format!("HTTP/1.1 400 Bad Request\r\nServer: x\r\n{fields}\r\n\r\nDate: none");
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(date_of(head(&format!("dAte:  {date} \r\nA: b")).as_bytes()), Some(784_111_777));
        for none in ["", "Date: yesterday", "Date: Sun, 31 Feb 1994 08:49:37 GMT", "X: Date", "\r\nDate: x"] {
            assert_eq!(date_of(head(none).as_bytes()), None, "{none}");
        }
        assert_eq!(date_of(b"\xff\x00"), None);
    }
}
