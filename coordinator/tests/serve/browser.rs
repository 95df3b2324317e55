//! A browser without a screen: it keeps cookies, says that it wants pages, and does not follow redirections.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Request};

use crate::house::House;

/// What came.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Shown {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }

    /// The text of a page that must be one, without its tags, a space for each.
    #[track_caller]
    pub(crate) fn page(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.words()
    }

    /// Its text without tags, a space for each.
    #[track_caller]
    pub(crate) fn words(&self) -> String {
        assert_eq!(self.header("content-type"), "text/html; charset=utf-8");
        let mut words = String::new();
        let mut inside = false;
        for c in self.text().chars() {
            match c {
                '<' => (inside, words) = (true, words + " "),
                '>' if inside => inside = false,
                c if !inside => words.push(c),
                _ => {}
            }
        }
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A browser that looks at one listener.
pub(crate) struct Browser {
    agent: Agent,
    pub(crate) address: SocketAddr,
    pub(crate) cookie: Option<String>,
}

impl Browser {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(60)));
        Self { agent: config.build().new_agent(), address, cookie: None }
    }

    /// One that somebody logged in with the operator's token.
    #[track_caller]
    pub(crate) fn logged_in(house: &House) -> Self {
        let mut browser = Self::new(house.clients);
        let answer = browser.log_in(&house.token(), "/", &[]);
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.text());
        browser
    }

    pub(crate) fn get(&self, path: &str) -> Shown {
        self.send("GET", path, &[], "")
    }

    pub(crate) fn log_in(&mut self, token: &str, to: &str, headers: &[(&str, &str)]) -> Shown {
        let answer = self.send("POST", "/login", headers, &form(&[("token", token), ("to", to)]));
        self.keep(&answer);
        answer
    }

    /// Keeps the cookie that came, or forgets the one that is to go.
    pub(crate) fn keep(&mut self, answer: &Shown) {
        if let Some(cookie) = answer.headers.get("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let pair = cookie.split(';').next().unwrap().to_owned();
            self.cookie = Some(pair).filter(|_| !cookie.contains("Max-Age=0"));
        }
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Shown {
        let mut all = BTreeMap::from([("accept", "text/html,application/xhtml+xml,*/*;q=0.8")]);
        all.insert("accept-encoding", "identity");
        if method == "POST" {
            all.insert("content-type", "application/x-www-form-urlencoded");
        }
        all.extend(self.cookie.as_deref().map(|cookie| ("cookie", cookie)));
        all.extend(headers.iter().copied());
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in all {
            request = request.header(name, value);
        }
        let response = match method {
            "POST" => self.agent.run(request.body(body).unwrap()),
            _ => self.agent.run(request.body(()).unwrap()),
        };
        let (parts, body) = response.unwrap().into_parts();
        let mut bytes = Vec::new();
        body.into_with_config().limit(u64::MAX).reader().read_to_end(&mut bytes).unwrap();
        Shown { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }
}

/// A form as browsers send it.
fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}
