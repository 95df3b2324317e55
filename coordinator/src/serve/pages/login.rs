//! The way in and out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use drover_wire::Code;
use drover_wire::route::pages::{ACTIVITY, LOG_IN, LOGIN};
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::{Look, Page};
use super::words;
use crate::config::TlsListener;
use crate::farm::Farm;
use crate::farm::browsers::SESSION_SECONDS;
use crate::serve::auth::{COOKIE_NAME, is_from_here, session_of};
use crate::serve::call::{Answer, Call, to_its_end};
use crate::serve::problem::Refusal;

/// The most bytes of the form.
const FORM_LIMIT: usize = 16 << 10;
/// How long who was wrong waits for the answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What the form says, and the address of it.
#[derive(Default, Deserialize)]
struct Form {
    #[serde(default)]
    token: String,
    #[serde(default)]
    to: String,
}

pub(super) async fn form(call: Call) -> Answer {
    let Form { to, .. } = call.query()?;
    Ok(Page::new("Log in", ask(local(&to), false)).answer(&call))
}

fn ask(to: &str, was_wrong: bool) -> Markup {
    html! {
        h1 { "Log in" }
        @if was_wrong {
            p .alert role="alert" { "The coordinator does not know this token." }
        }
        form .login method="post" action=(LOG_IN.pattern) {
            input type="hidden" name="to" value=(to);
            label for="token" { "A client’s token" }
            input #token type="password" name="token" required autocomplete="current-password" autofocus
                aria-describedby="token-hint";
            p #token-hint .hint {
                "Such as the one in the file " code { "client-token" } " of the coordinator’s state folder. "
                "This browser then stays logged in for " (SESSION_SECONDS / 86_400) " days."
            }
            button .main { "Log in" }
        }
        @if to != ACTIVITY.pattern && !was_wrong {
            p .hint {
                "A link from another site does not carry a login with it. If this browser has one: "
                a href=(to) { "go on to " (words::foreign(to)) } "."
            }
        }
    }
}

pub(super) async fn log_in(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let Call { parts, body, .. } = call;
    check_origin(&parts.headers)?;
    let body = body.bytes(FORM_LIMIT).await?;
    let Form { token, to } = read(&body)?;
    let to = local(&to).to_owned();
    let session = {
        let _turn = farm.turns().log_in.take().await?;
        let farm = Arc::clone(&farm);
        to_its_end(async move { farm.log_in(token.trim()).await }).await?
    };
    let Some(session) = session else {
        tokio::time::sleep(PAUSE).await;
        // Strangers do not fill the log; how often it happens is counted with all other answers.
        tracing::debug!("somebody tried to log in with a token that is none");
        let page = Page::new("Log in", ask(&to, true)).status(StatusCode::FORBIDDEN);
        return Ok(page.send(&Look::of(&parts.headers, &parts.extensions)));
    };
    if let Some(before) = session_of(&parts.headers) {
        let before = before.to_owned();
        to_its_end({
            let farm = Arc::clone(&farm);
            async move { farm.log_out(&before).await }
        })
        .await?;
    }
    go(&to, &cookie(&session, SESSION_SECONDS, is_secure(&farm, &parts.headers)))
}

pub(super) async fn log_out(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    check_origin(&call.parts.headers)?;
    let secure = is_secure(&farm, &call.parts.headers);
    if let Some(session) = session_of(&call.parts.headers) {
        let session = session.to_owned();
        to_its_end(async move { farm.log_out(&session).await }).await?;
    }
    go(LOGIN.pattern, &cookie("", 0, secure))
}

/// Sends a browser without a login to where it can log in, and from there to where it wanted to go.
pub(in crate::serve) fn to_login(uri: &Uri) -> Response {
    let wanted = uri.path_and_query().map_or(ACTIVITY.pattern, |wanted| wanted.as_str());
    let to = if local(wanted) == ACTIVITY.pattern { "" } else { wanted };
    see(&words::question(&LOGIN, &[("to", to)])).unwrap_or_else(IntoResponse::into_response)
}

fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    if is_from_here(headers) {
        return Ok(());
    }
    Err(Refusal::new(Code::Forbidden, "this form was sent by a page of another site, and nothing was done"))
}

fn read(body: &[u8]) -> Result<Form, Refusal> {
    let bad = || Refusal::new(Code::BadRequest, "the body of the request is not what the form sends");
    let text = std::str::from_utf8(body).map_err(|_| bad())?;
    // What a form sends has the same shape as the query of an address.
    let address: Uri = format!("/?{text}").parse().map_err(|_| bad())?;
    Query::try_from_uri(&address).map(|Query(form)| form).map_err(|_| bad())
}

/// Where to go on to: that address if it is one of this coordinator, else the first page. A browser takes `//other` and
/// `/\other` for another site, and does not see control characters.
fn local(to: &str) -> &str {
    let is_local = to.starts_with('/')
        && !to.starts_with("//")
        && to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !to.starts_with(LOGIN.pattern);
    if is_local { to } else { ACTIVITY.pattern }
}

/// The cookie: no script reads it, no other site's page sends it.
fn cookie(session: &str, seconds: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={session}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser speaks TLS, with this listener or with a proxy in front of it. Who lies about that only gets a cookie
/// that its browser does not send.
fn is_secure(farm: &Farm, headers: &HeaderMap) -> bool {
    let proxy = headers.get("x-forwarded-proto");
    farm.config().speaks_tls(TlsListener::Clients)
        || proxy.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn go(to: &str, cookie: &str) -> Answer {
    let mut response = see(to)?;
    let cookie = HeaderValue::from_str(cookie).map_err(|error| Refusal::internal(&error))?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// Sends a browser to another page.
pub(super) fn see(to: &str) -> Answer {
    let to = HeaderValue::from_str(to).map_err(|error| Refusal::internal(&error))?;
    let mut response = (StatusCode::SEE_OTHER, super::frame::HEAD).into_response();
    response.headers_mut().insert(LOCATION, to);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_coordinator_are_gone_on_to() {
        for to in ["/", "/queue?system=x86_64-linux&tag=a%3Db", "/builds/1/log#L5"] {
            assert_eq!(local(to), to);
        }
        for to in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/ü",
            "\\",
            "x",
            "/a b",
            "/login?to=/login",
        ] {
            assert_eq!(local(to), "/", "{to}");
        }
    }

    #[test]
    fn a_form_is_read_as_browsers_send_it() {
        let form = read(b"to=%2Fqueue%3Fa%3D1&token=a%2Bb+c").unwrap();
        assert_eq!((form.to.as_str(), form.token.as_str()), ("/queue?a=1", "a+b c"));
        assert!(read(b"\xff").is_err());
        assert!(read(b"").is_ok());
    }
}
