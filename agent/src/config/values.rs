//! The values of options.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ureq::http::Uri;

use super::ExecutorKind;

/// The port of a guix-daemon that listens on TCP, where none is named.
const DAEMON_PORT: u16 = 44146;
/// A secret's file is read whole; more than this is none.
const SECRET_LIMIT: u64 = 4096;

/// A password or token: never shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret as given. Control characters and emptiness are a mistake of whoever gave it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".into());
        }
        if text.chars().any(char::is_control) {
            return Err("it holds a control character".into());
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a secret from the first line of a file; nothing may follow.
    pub(crate) fn from_file(path: &str) -> Result<Self, String> {
        let wrong = |reason: String| format!("{path}: {reason}");
        let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if size > SECRET_LIMIT {
            return Err(wrong(format!("{size} bytes are no secret")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Self::new(text.strip_suffix('\r').unwrap_or(text)).map_err(wrong)
    }

    /// The secret itself, for sending it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The address that all of a listener's routes begin with: scheme, host, port and perhaps the beginning of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Without a slash at the end.
    text: String,
    host: String,
    https: bool,
}

impl BaseUrl {
    /// The address of a route, which begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }

    /// The host, by name or address, in brackets where IPv6 has them.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether connections are encrypted.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Whether it names this very machine, so that nobody else sees what is sent unencrypted.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // There may be a password in it, which is not shown then.
        let shown = if text.contains('@') { "it".to_owned() } else { format!("“{text}”") };
        let wrong = |why: &str| format!("{shown} is not an address such as http://coordinator:8745: {why}");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password have options of their own"));
        }
        if authority.host().is_empty() || authority.host() == "[]" {
            return Err(wrong("the host is missing"));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(wrong("there can be no “?” or “#” in it"));
        }
        // What follows the host, brackets and all, is nothing or a colon and the port.
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
            return Err(wrong("the port is not a number below 65536"));
        }
        Ok(Self { text: text.trim_end_matches('/').to_owned(), host: authority.host().to_owned(), https })
    }
}

/// What tells a machine from others: 1 to 128 visible ASCII characters.
pub(crate) fn hardware(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("“{text}” is not 1 to 128 visible ASCII characters, such as serial:4711"))
}

/// Where guix-daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonSocket {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On TCP.
    Tcp {
        /// The host's name or address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl DaemonSocket {
    /// Guix's own place for it.
    pub fn usual() -> Self {
        Self::Unix("/var/guix/daemon-socket/socket".into())
    }
}

impl fmt::Display for DaemonSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp { host, port } => write!(f, "guix://{host}:{port}"),
        }
    }
}

impl FromStr for DaemonSocket {
    type Err = String;

    /// Reads what Guix itself reads from `GUIX_DAEMON_SOCKET`, but no `ssh://`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("“{text}” is not an absolute path, file:///PATH, unix:///PATH or guix://HOST[:PORT]");
        if let Some(address) = text.strip_prefix("guix://") {
            let address = address.trim_end_matches('/');
            // A colon within brackets, or one of several, belongs to an IPv6 address.
            let (host, port) = match address.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => {
                    (host, port.parse().map_err(|_| wrong())?)
                }
                _ => (address, DAEMON_PORT),
            };
            if host.is_empty() || host.contains('/') {
                return Err(wrong());
            }
            return Ok(Self::Tcp { host: host.to_owned(), port });
        }
        let path = text.strip_prefix("file://").or_else(|| text.strip_prefix("unix://")).unwrap_or(text);
        if Path::new(path).is_absolute() { Ok(Self::Unix(path.into())) } else { Err(wrong()) }
    }
}

/// Which lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What an operator must see to.
    Error,
    /// What went wrong and is dealt with.
    Warn,
    /// What the agent does.
    Info,
    /// How it does it.
    Debug,
    /// Everything.
    Trace,
}

impl FromStr for LogLevel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(()),
        }
    }
}

/// Which lines are logged, by the part of the program that they come from: as the option says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevels(String);

impl LogLevels {
    /// That of a module. Of parts that are named, such as `drover_agent::store`, the last that it is in counts.
    pub fn of(&self, module: &str) -> LogLevel {
        let (mut others, mut named) = (LogLevel::Info, None);
        for (part, level) in self.all() {
            match module.strip_prefix(part) {
                _ if part.is_empty() => others = level,
                Some(rest) if rest.is_empty() || rest.starts_with("::") => named = Some(level),
                _ => {}
            }
        }
        named.unwrap_or(others)
    }

    fn all(&self) -> impl Iterator<Item = (&str, LogLevel)> {
        let words = self.0.split(',').map(|word| word.split_once('=').unwrap_or(("", word)));
        words.filter_map(|(part, level)| Some((part, level.parse().ok()?)))
    }
}

impl Default for LogLevels {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let levels = Self(text.to_owned());
        if levels.all().count() == text.split(',').count() {
            return Ok(levels);
        }
        Err(format!(
            "“{text}” is none of error, warn, info, debug, trace, or such as warn,drover_agent::store=debug"
        ))
    }
}

/// A duration: a whole number of seconds, or with `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("“{text}” is not a time such as 90, 90s, 10m or 2h");
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
    // Longer than any clock counts, and than any build takes.
    if seconds > 10 * 365 * 24 * 3600 {
        return Err(format!("“{text}” is more than ten years"));
    }
    Ok(Duration::from_secs(seconds))
}

/// A number from 1 on.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if number >= 1 => Ok(number),
        _ => Err(format!("“{text}” is not a whole number from 1 on")),
    }
}

/// A number from 0 on.
pub(crate) fn count_or_none(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("“{text}” is not a whole number from 0 on"))
}

/// Bytes: a whole number from 1 on, or with `K`, `M`, `G` or `T`, which are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("“{text}” is not a size such as 1048576, 512M or 20G");
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let with_unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(*unit)?, *bits)));
    let (number, bits) = with_unit.unwrap_or((text, 0));
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << bits));
    // The daemon and the kernel count in signed numbers.
    match bytes.ok_or_else(wrong)? {
        0 => Err(format!("“{text}” leaves nothing; “none” is for no limit")),
        bytes if i64::try_from(bytes).is_err() => Err(format!("“{text}” is more than there is")),
        bytes => Ok(bytes),
    }
}

/// Bytes, or that there is no limit.
pub(crate) fn size_or_none(text: &str) -> Result<Option<u64>, String> {
    if text == "none" { Ok(None) } else { size(text).map(Some) }
}

/// The beginnings of addresses, with blanks between them, each without a slash at its end.
pub(crate) fn prefixes(text: &str) -> Result<Vec<String>, String> {
    text.split_ascii_whitespace().map(|url| url.parse::<BaseUrl>().map(|url| url.to_string())).collect()
}

/// A folder's name; the folder need not be there.
pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    if Path::new(text).is_absolute() {
        Ok(text.into())
    } else {
        Err(format!("“{text}” is not an absolute path"))
    }
}

/// Who builds, by name.
impl FromStr for ExecutorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "daemon" => Ok(Self::Daemon),
            "sandbox" => Ok(Self::Sandbox),
            _ => Err(format!("“{text}” is neither daemon nor sandbox")),
        }
    }
}

/// A load average.
pub(crate) fn load(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("“{text}” is not a number above 0")),
    }
}

/// True or false.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(format!("“{text}” is neither true nor false")),
    }
}

/// Addresses of substitute servers, with blanks between them.
pub(crate) fn urls(text: &str) -> Result<Vec<String>, String> {
    text.split_ascii_whitespace()
        .map(|url| match url.parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => {
                Ok(url.to_owned())
            }
            _ if url.starts_with("file:///") => Ok(url.to_owned()),
            _ => Err(format!("“{url}” is not an address such as https://ci.guix.gnu.org")),
        })
        .collect()
}

/// A system's name. Systems are open strings; what is no name at all is a mistake.
pub(crate) fn system(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.contains('-') && text.bytes().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err(format!("“{text}” is not a system such as x86_64-linux"))
    }
}

/// An agent's name: it goes into a header and into lists.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic();
    if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("“{text}” is not a name: 1 to 64 letters, digits and signs without blanks"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1", "1.5h", "1d", "m10", "+5", "99999999999999999999", "99999999h", "5é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("3K"), Ok(3 << 10));
        assert_eq!(size("20G"), Ok(20 << 30));
        assert_eq!(size("1T"), Ok(1 << 40));
        assert_eq!(size_or_none("none"), Ok(None));
        assert_eq!(size_or_none("1M"), Ok(Some(1 << 20)));
        for wrong in
            ["", "G", "0", "0G", "-1", "+1", "1.5G", "1g", "1GB", "none", "9999999T", "16777216T", "5é"]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn daemon_sockets_are_paths_or_addresses() {
        let unix = |path: &str| Ok(DaemonSocket::Unix(path.into()));
        let tcp = |host: &str, port| Ok(DaemonSocket::Tcp { host: host.into(), port });
        assert_eq!("/a/b".parse(), unix("/a/b"));
        assert_eq!("file:///a/b".parse(), unix("/a/b"));
        assert_eq!("unix:///a/b".parse(), unix("/a/b"));
        assert_eq!("guix://host".parse(), tcp("host", 44146));
        assert_eq!("guix://host:1".parse(), tcp("host", 1));
        assert_eq!("guix://[::1]".parse(), tcp("[::1]", 44146));
        assert_eq!("guix://[::1]:5".parse(), tcp("[::1]", 5));
        for wrong in ["a/b", "", "guix://", "guix://host:x", "guix://host:", "ssh://host", "unix://a"] {
            assert!(wrong.parse::<DaemonSocket>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_base_url_joins_with_routes() {
        let url: BaseUrl = "http://farm.example:8745/".parse().unwrap();
        assert_eq!(url.join("/v1/hello"), "http://farm.example:8745/v1/hello");
        assert!(!url.is_https() && !url.is_loopback());
        let url: BaseUrl = "https://farm.example/agents".parse().unwrap();
        assert_eq!(url.join("/v1/hello"), "https://farm.example/agents/v1/hello");
        assert!(url.is_https());
        assert!("http://127.0.0.1:8745".parse::<BaseUrl>().unwrap().is_loopback());
        assert!("http://[::1]:8745".parse::<BaseUrl>().unwrap().is_loopback());
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for wrong in [
            "",
            "farm:8745",
            "farm",
            "ftp://farm",
            "http://",
            "http://a@b",
            "http://a?b",
            "http://a#b",
            "http://a:b",
            "http://a:99999",
            "http://a b",
            "http://a:",
        ] {
            assert!(wrong.parse::<BaseUrl>().is_err(), "{wrong}");
        }
        for wrong in ["http://user:hidden@farm", "user:hidden@farm", "http://user:hid den@farm"] {
            let refused = wrong.parse::<BaseUrl>().unwrap_err();
            assert!(!refused.contains("hid"), "{refused}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert!(!format!("{:?}", Secret::new("hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn substitute_servers_are_split_at_blanks_and_checked() {
        assert_eq!(urls(" https://a  http://b ").unwrap(), ["https://a", "http://b"]);
        assert_eq!(urls("").unwrap(), Vec::<String>::new());
        assert!(urls("https://a b").is_err());
    }
}
