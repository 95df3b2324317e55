//! Who speaks: looked at before anything of a request's body is read.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use drover_wire::route::agents::ENROL;
use drover_wire::{AGENT_NAME_HEADER, Code};

use super::call::to_its_end;
use super::pages::{Viewer, to_login, wants_page};
use super::pass::Pass;
use super::problem::{Refusal, STRANGE_AGENT, STRANGE_CLIENT, unauthorized};
use crate::farm::secrets::Credentials;
use crate::farm::{Farm, Turn};

/// Lets agents through, each with its row in the request.
pub(super) async fn agents(State(farm): State<Arc<Farm>>, mut request: Request, next: Next) -> Response {
    let Some(who) = agent_credentials(request.headers()) else {
        return unauthorized(STRANGE_AGENT);
    };
    let found = match who {
        // A machine that enrols itself is no agent yet.
        Credentials::Token { token, name } if request.uri().path() == ENROL.pattern => {
            let found = farm.check_enroller(&token, name).await;
            found.map(|machine| machine.map(|machine| drop(request.extensions_mut().insert(machine))))
        }
        _ if request.uri().path() == ENROL.pattern => Ok(None),
        who => {
            let found = farm.check_agent(who).await;
            found.map(|agent| agent.map(|agent| drop(request.extensions_mut().insert(agent))))
        }
    };
    match found {
        Ok(Some(())) => next.run(request).await,
        Ok(None) => unauthorized(STRANGE_AGENT),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Lets clients through: by a token, or by the cookie of a browser that somebody logged in.
pub(super) async fn clients(State(farm): State<Arc<Farm>>, mut request: Request, next: Next) -> Response {
    let only_looks = matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    let found = match (headers.contains_key(AUTHORIZATION), authorization(headers), session_of(headers)) {
        (_, Some(Authorization::Bearer(token)), _) => {
            farm.check_client(&token).await.map(|found| found.map(|standing| (Viewer::Client, standing)))
        }
        (false, None, Some(session)) => {
            farm.check_session(session).await.map(|found| found.map(|standing| (Viewer::Session, standing)))
        }
        _ => Ok(None),
    };
    match found {
        Ok(Some((Viewer::Session, _))) if !only_looks && !is_by_script(headers) => {
            Refusal::new(Code::Forbidden, FOREIGN).into_response()
        }
        Ok(Some((viewer, standing))) => {
            request.extensions_mut().insert(viewer);
            request.extensions_mut().insert(Pass::new(standing));
            next.run(request).await
        }
        Ok(None) if only_looks && wants_page(headers) => to_login(request.uri()),
        Ok(None) => unauthorized(STRANGE_CLIENT),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// What the request of a browser is told that may come from anywhere.
const FOREIGN: &str = "a browser that is logged in changes something only with the header X-Drover: 1, which no page of \
                       another site can send; nothing was done";

/// The name of the cookie of a session.
pub(super) const COOKIE_NAME: &str = "drover-session";

/// What a browser keeps of its session.
pub(super) fn session_of(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE_NAME && !value.is_empty()).then_some(value)
    })
}

/// Whether a request was made by our own script: others could only send this header if we said that they may.
fn is_by_script(headers: &HeaderMap) -> bool {
    headers.get("x-drover").is_some_and(|value| value.as_bytes() == b"1") && is_from_here(headers)
}

/// Whether a request was not made by a page of another site, as far as browsers say: newer ones say so themselves over
/// TLS, all say which site a form is from. What is no browser says neither.
pub(super) fn is_from_here(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return [b"same-origin".as_slice(), b"none"].contains(&site.as_bytes());
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let origin = origin.as_bytes();
    let site = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    matches!((site, host), (Some(site), Some(host)) if site.eq_ignore_ascii_case(host))
}

/// Lets everybody through, to look, a few at a time.
pub(super) async fn everybody(State(farm): State<Arc<Farm>>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Viewer::Public);
    in_turn(&farm.turns().public_page, next.run(request)).await
}

/// Does something when it has its turn, to its end: what was begun in the database goes on there when who asked for it has hung
/// up, and who does so again and again is not to have it do more than a few things at a time.
async fn in_turn(turn: &Turn, work: impl Future<Output = Response> + Send + 'static) -> Response {
    let taken = match turn.take().await {
        Ok(taken) => taken,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let done = to_its_end(async move {
        let answer = work.await;
        drop(taken);
        Ok(answer)
    });
    done.await.unwrap_or_else(IntoResponse::into_response)
}

/// What an `Authorization` header says.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
enum Authorization {
    Bearer(String),
    Basic { user: String, password: String },
}

fn authorization(headers: &HeaderMap) -> Option<Authorization> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = text.split_once(' ')?;
    let secret = secret.trim();
    if secret.is_empty() {
        return None;
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Authorization::Bearer(secret.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64.decode(secret.as_bytes()).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Authorization::Basic { user: user.to_owned(), password: password.to_owned() })
}

fn agent_credentials(headers: &HeaderMap) -> Option<Credentials> {
    match authorization(headers)? {
        Authorization::Basic { user, password } => {
            Some(Credentials::Password { uuid: user.parse().ok()?, password })
        }
        Authorization::Bearer(token) => {
            let name = headers.get(AGENT_NAME_HEADER);
            // Bytes that are no text are no name either, and are refused as one.
            let name = name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
            Some(Credentials::Token { token, name })
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn read(value: &str) -> Option<Authorization> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        authorization(&headers)
    }

    #[test]
    fn both_schemes_are_read_whatever_their_case() {
        assert_eq!(read("bearer abc"), Some(Authorization::Bearer("abc".to_owned())));
        // The example of RFC 7617.
        let basic = read("BASIC QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let expected = Authorization::Basic { user: "Aladdin".into(), password: "open sesame".into() };
        assert_eq!(basic, Some(expected));
    }

    #[test]
    fn a_password_may_have_colons() {
        let pair = BASE64.encode(b"a:b:c");
        let expected = Authorization::Basic { user: "a".into(), password: "b:c".into() };
        assert_eq!(read(&format!("Basic {pair}")), Some(expected));
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let all = all.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        all.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_does_not_free_the_place_of_what_goes_on_for_them() {
        let turns = crate::farm::Turns::default();
        let release = Arc::new(tokio::sync::Semaphore::new(0));
        let work = || {
            let release = Arc::clone(&release);
            async move {
                let _ = release.acquire().await;
                StatusCode::OK.into_response()
            }
        };
        for _ in 0..4 {
            let asked = in_turn(&turns.public_page, work());
            let gone = tokio::time::timeout(std::time::Duration::from_secs(1), asked).await;
            assert!(gone.is_err(), "it was to wait");
        }
        let answer = in_turn(&turns.public_page, work()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        release.add_permits(1);
        let answer = in_turn(&turns.public_page, work()).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let find = |value| session_of(&headers(&[("cookie", value)])).map(str::to_owned);
        assert_eq!(find("a=b; drover-session=abc; c=d"), Some("abc".to_owned()));
        for none in ["", "drover-session=", "xdrover-session=a", "drover-session", "a=drover-session=b"] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    #[test]
    fn another_site_is_told_from_this_one() {
        let host = ("host", "farm.example:8746");
        for here in [
            vec![host],
            vec![host, ("origin", "http://farm.example:8746")],
            vec![host, ("origin", "https://FARM.example:8746")],
            vec![("host", "inner"), ("origin", "https://farm.example"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(is_from_here(&headers(&here)), "{here:?}");
        }
        for other in [
            vec![host, ("origin", "http://farm.example")],
            vec![host, ("origin", "http://evil.example")],
            vec![host, ("origin", "null")],
            vec![host, ("origin", "farm.example:8746")],
            vec![("origin", "http://farm.example")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site"), ("origin", "http://farm.example:8746")],
        ] {
            assert!(!is_from_here(&headers(&other)), "{other:?}");
        }
    }

    #[test]
    fn what_is_neither_is_nobody() {
        for value in ["", "Bearer", "Bearer ", "Bearer\t", "Basic ????", "Basic YQ==", "Digest x"] {
            assert_eq!(read(value), None, "{value:?}");
        }
    }
}
