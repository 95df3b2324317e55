//! `drover key …`

use drover_tls::Pin;
use drover_wire::Timestamp;
use drover_wire::key::{KeyInfo, KeyRotated, KeyState};
use serde::Serialize;

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{count, now, span, thousands, time};
use crate::cli::{Exit, KeyArgs, KeyCommand};
use crate::client::{ClientError, keys};

#[derive(Serialize)]
struct Key<'a> {
    public_key: &'a str,
}

#[derive(Serialize)]
struct TlsKey<'a> {
    key: &'a str,
}

#[derive(Serialize)]
struct Pair<'a> {
    secret: &'a std::path::Path,
    public: &'a std::path::Path,
    public_key: String,
}

pub(in crate::cli) fn run(args: &KeyArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = || args.connection.coordinator();
    match &args.command {
        KeyCommand::Tls { certificate } => {
            let key = Pin::of_file(certificate).map_err(ClientError::Usage)?.to_string();
            out.value(&TlsKey { key: &key }, |out| out.line(&key))?;
        }
        KeyCommand::Show { next: false } => show(&keys::signing(&coordinator()?)?, out)?,
        KeyCommand::Show { next: true } => {
            let all = keys::list(&coordinator()?)?;
            let next = all.iter().find(|key| key.state == KeyState::Next).ok_or_else(|| {
                ClientError::Usage("no key is to sign next; “drover key rotate” makes one".to_owned())
            })?;
            show(&next.public_key, out)?;
        }
        KeyCommand::List => list(&keys::list(&coordinator()?)?, now(), out)?,
        KeyCommand::Generate { secret } => {
            let (public, key) = keys::generate(secret)?;
            let pair = Pair { secret, public: &public, public_key: key.to_text() };
            out.value(&pair, |out| {
                out.line(format!("The secret half is in {}, for you alone.", secret.display()))?;
                out.line(format!("The public half, which others authorize, is in {}.", public.display()))
            })?;
        }
        KeyCommand::Rotate { after, from } => {
            let rotated = keys::rotate(&coordinator()?, after.unwrap_or(0), from.as_deref())?;
            out.value(&rotated, |out| {
                words(&rotated, now()).into_iter().try_for_each(|line| out.line(line))
            })?;
        }
        KeyCommand::Retire { key, now } => {
            let retired = keys::retire(&coordinator()?, *key, *now)?;
            out.value(&retired, |out| {
                out.line(format!("The key {key} is not the coordinator's any more. Whoever has authorized it can take it back:"))?;
                out.line(format!("  {}", retired.public_key))
            })?;
        }
    }
    Ok(Exit::Success)
}

fn show(key: &str, out: &mut Out) -> Result<(), ClientError> {
    let public_key = key.trim_end();
    out.value(&Key { public_key }, |out| out.line(public_key))
}

fn list(all: &[KeyInfo], now: Timestamp, out: &mut Out) -> Result<(), ClientError> {
    if out.is_json() {
        return all.iter().try_for_each(|key| out.json(key));
    }
    let mut table = Table::new(&[
        Column::new("KEY").right(),
        Column::new("STATE"),
        Column::new("SIGNS FROM"),
        Column::new("PUBLISHED").right(),
        Column::new("MAY GO"),
        Column::new("PUBLIC KEY"),
    ]);
    for key in all {
        table.row([
            key.key.to_string(),
            key.state.as_str().to_owned(),
            time(key.signs_from),
            thousands(key.signed),
            may_go(key, now),
            key.public_key.clone(),
        ]);
    }
    out.table(&table)
}

fn may_go(key: &KeyInfo, now: Timestamp) -> String {
    match (key.state, key.may_go_at) {
        (KeyState::Retired, _) => "gone".to_owned(),
        (KeyState::Signs, _) => "no".to_owned(),
        (KeyState::Signed, None) => "when all is signed anew".to_owned(),
        (KeyState::Signed, Some(at)) if at > now => format!("in {}", span(at - now)),
        (KeyState::Next | KeyState::Signed, _) => "yes".to_owned(),
    }
}

/// What is to be done now, and when.
fn words(rotated: &KeyRotated, now: Timestamp) -> Vec<String> {
    let KeyRotated { old, new, ttl } = rotated;
    let (was, is) = (old.key, new.key);
    let mut lines = Vec::new();
    let ahead = new.signs_from.saturating_sub(now);
    let (by, show) = if new.state == KeyState::Next {
        lines.push(format!(
            "The key {is} signs from {} on, in {}; until then the key {was} does.",
            time(new.signs_from),
            span(ahead)
        ));
        ("before that", "drover key show --next")
    } else {
        lines.push(format!("The key {is} signs from now on, and the key {was} does not."));
        ("now", "drover key show")
    };
    lines.push(format!(
        "Whoever takes substitutes from here, and every machine with an agent, must authorize it {by}:"
    ));
    lines.push(format!("  {}", new.public_key));
    lines.push(format!("as with: {show} | guix archive --authorize"));
    lines.push(format!(
        "What is published ({}) is then signed anew. Clients may keep what the key {was} signed for {} after that: then, and \
         not before, “drover key retire {was}” has it go; “drover key list” says when.",
        count(old.signed, "narinfo", "narinfos"),
        span(ttl.saturating_mul(1000))
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(key: u64, state: KeyState, signs_from: Timestamp, may_go_at: Option<Timestamp>) -> KeyInfo {
        KeyInfo {
            key,
            public_key: format!("(public-key {key})"),
            state,
            made_at: 0,
            signs_from,
            signed: 1200,
            may_go_at,
            retired_at: None,
        }
    }

    #[test]
    fn a_rotation_says_what_to_authorize_from_when_it_signs_and_when_the_old_one_may_go() {
        let now = 1_000_000_000;
        let rotated = KeyRotated {
            old: info(1, KeyState::Signs, 0, None),
            new: info(2, KeyState::Next, now + 7 * 86_400_000, None),
            ttl: 86_400,
        };
        let text = words(&rotated, now).join("\n");
        for word in [
            "in 7 d 0 h",
            "(public-key 2)",
            "key show --next | guix archive --authorize",
            "1 d 0 h after",
            "key retire 1",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_key_may_go_when_nobody_keeps_what_it_signed() {
        let words = [
            (KeyState::Signs, None, "no"),
            (KeyState::Signed, None, "when all is signed anew"),
            (KeyState::Signed, Some(60_001), "in 1 min 0 s"),
            (KeyState::Signed, Some(1), "yes"),
        ];
        for (state, at, word) in words {
            assert_eq!(may_go(&info(1, state, 0, at), 1), word);
        }
    }
}
