//! The substitute servers that the configuration names: what they have need not be built here.

use std::sync::Arc;
use std::time::Duration;

use drover_store::StorePath;
use drover_tls::Trust;

use crate::config::Config;
use crate::web;

/// The most bytes of a narinfo that are looked at.
const NARINFO_LIMIT: u64 = 1 << 20;

/// Asks substitute servers.
#[derive(Debug, Clone)]
pub(crate) struct Substitutes {
    servers: Arc<[String]>,
    agent: ureq::Agent,
}

/// Why a server did not answer the question.
#[derive(Debug, thiserror::Error)]
#[error("the substitute server {server} did not say whether it has {path}: {reason}")]
pub(crate) struct AskError {
    server: String,
    path: StorePath,
    reason: String,
}

impl Substitutes {
    pub(crate) fn new(config: &Config) -> Self {
        // For clients that have no trust of their own. An error when somebody has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let limit = Duration::from_secs(config.substitute_seconds.max(1));
        let agent = web::client(web::settings().timeout_global(Some(limit)), Trust::System);
        Self {
            servers: config.substitute_servers.iter().map(|s| s.trim_end_matches('/').to_owned()).collect(),
            agent,
        }
    }

    /// The servers, in the order of the configuration.
    pub(crate) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Whether a server has a store item: its narinfo is there and speaks of that path. Blocks.
    pub(crate) fn has(&self, server: &str, path: &StorePath) -> Result<bool, AskError> {
        let failed = |reason: String| AskError { server: server.to_owned(), path: path.clone(), reason };
        let url = format!("{server}/{}.narinfo", path.hash_part());
        let mut answer = self.agent.get(&url).call().map_err(|error| failed(web::words(&error)))?;
        match answer.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(false),
            status => return Err(failed(format!("it answered {status}"))),
        }
        let body = answer.body_mut().with_config().limit(NARINFO_LIMIT).read_to_vec();
        let body = body.map_err(|error| failed(error.to_string()))?;
        let said = format!("StorePath: {path}");
        Ok(body.split(|byte| *byte == b'\n').any(|line| line == said.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn server(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}")
    }

    fn ask(answer: String) -> Result<bool, AskError> {
        let path = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-hello").unwrap();
        let server = server(answer);
        let config = Config { substitute_servers: vec![server.clone()], ..Config::default() };
        Substitutes::new(&config).has(&server, &path)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_server_has_what_its_narinfo_speaks_of() {
        assert!(
            ask(ok("StorePath: /gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello\nNarSize: 1\n")).unwrap()
        );
        assert!(!ask(ok("StorePath: /gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-other\n")).unwrap());
    }

    #[test]
    fn a_miss_is_told_from_a_server_that_is_broken() {
        let answer =
            |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert!(!ask(answer("404 Not Found")).unwrap());
        assert!(ask(answer("500 Oops")).is_err());
    }
}
