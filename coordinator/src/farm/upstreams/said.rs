//! Where derivations say that a fixed output can be had.

use drover_store::StorePath;
use drover_store::derivation::{Derivation, Fixed};
use rusqlite::Connection;

use crate::farm::error::Error;
use crate::farm::intake;

/// The most derivations of one output that are read, and the most addresses that are taken.
const DERIVATIONS: i64 = 4;
const URLS: usize = 32;

/// What the derivations of an output say.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) fixed: Option<Fixed>,
    pub(super) urls: Vec<String>,
    /// The file in which names of mirrors are resolved.
    pub(super) mirrors: Option<StorePath>,
    /// Whether what is downloaded becomes a program.
    pub(super) executable: bool,
}

impl Said {
    /// Of a path, by its number.
    pub(super) fn of(sql: &Connection, path: i64) -> Result<Self, Error> {
        let mut said = Self::default();
        let makers: Vec<i64> = sql
            .prepare_cached(
                "SELECT derivation FROM derivation_outputs WHERE path = ?1 AND name = 'out' LIMIT ?2",
            )?
            .query_map([path, DERIVATIONS], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for maker in makers {
            let Some(text) = intake::contents(sql, maker)? else { continue };
            let Ok(derivation) = Derivation::parse(&text) else { continue };
            said.add(&derivation);
        }
        Ok(said)
    }

    fn add(&mut self, derivation: &Derivation) {
        if let Some((_, fixed)) = derivation.fixed() {
            self.fixed = Some(fixed.clone());
        }
        // What others do is their affair: only the daemon's own download says in a known way what it fetches.
        if derivation.builtin() != Some("download") {
            return;
        }
        self.executable |= derivation.env(b"executable") == Some(b"1");
        if let Some(mirrors) = derivation.env(b"mirrors") {
            self.mirrors = std::str::from_utf8(mirrors).ok().and_then(|text| StorePath::parse(text).ok());
        }
        for url in strings(derivation.env(b"url").unwrap_or_default()) {
            if self.urls.len() < URLS && !self.urls.contains(&url) {
                self.urls.push(url);
            }
        }
    }

    /// The addresses that can be asked: those of the web, and `mirror://` by way of the file of mirrors.
    pub(super) fn addresses(&self, mirrors: &[u8]) -> Vec<String> {
        let mut addresses = Vec::new();
        for url in &self.urls {
            if url.starts_with("http://") || url.starts_with("https://") {
                addresses.push(url.clone());
            } else if let Some((name, rest)) =
                url.strip_prefix("mirror://").and_then(|url| url.split_once('/'))
            {
                for mirror in mirrors_called(mirrors, name) {
                    if mirror.starts_with("http") {
                        addresses.push(format!("{}/{rest}", mirror.trim_end_matches('/')));
                    }
                }
            }
        }
        addresses.truncate(URLS);
        addresses
    }
}

/// The strings in a Scheme expression: `"a"` or `("a" "b")`.
fn strings(text: &[u8]) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), text.iter());
    while let Some(byte) = rest.next() {
        if *byte != b'"' {
            continue;
        }
        let mut string = Vec::new();
        while let Some(byte) = rest.next() {
            match byte {
                b'"' => break,
                b'\\' => string.extend(rest.next()),
                other => string.push(*other),
            }
        }
        if let Ok(string) = String::from_utf8(string) {
            found.push(string);
        }
    }
    found
}

/// The addresses of a mirror in Guix's list, `((gnu "https://…" "ftp://…") …)`, wherever in these bytes it stands.
fn mirrors_called(list: &[u8], name: &str) -> Vec<String> {
    let start = format!("({name} ");
    let lines = format!("({name}\n");
    let at =
        list.windows(start.len()).position(|window| window == start.as_bytes() || window == lines.as_bytes());
    let Some(from) = at.and_then(|at| list.get(at + start.len()..)) else { return Vec::new() };
    let end = from.iter().position(|byte| *byte == b')').unwrap_or(0);
    strings(from.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_guix_writes_them() {
        assert_eq!(strings(br#""https://a.example/\"x\".tar""#), ["https://a.example/\"x\".tar"]);
        assert_eq!(strings(br#"("http://a/x" "mirror://gnu/x")"#), ["http://a/x", "mirror://gnu/x"]);
        assert_eq!(strings(b"\"cut"), ["cut"]);
        assert_eq!(strings(b"\"cut\\"), ["cut"]);
    }

    #[test]
    fn a_mirror_s_name_stands_for_its_addresses() {
        let list =
            br#"((gnu "https://ftpmirror.gnu.org/gnu/" "ftp://f.gnu.org/") (gnome "https://g.example"))"#;
        let said =
            Said { urls: vec!["mirror://gnu/hello/h.tar".into(), "ftp://x/y".into()], ..Said::default() };
        assert_eq!(said.addresses(list), ["https://ftpmirror.gnu.org/gnu/hello/h.tar"]);
        assert!(said.addresses(b"((gnu").is_empty() && said.addresses(b"").is_empty());
    }
}
