//! Who speaks: looked at before anything of a request's body is read.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use drover_wire::AGENT_NAME_HEADER;
use drover_wire::route::agents::ENROL;

use super::pages::Viewer;
use super::problem::{Refusal, STRANGE_AGENT, STRANGE_CLIENT, unauthorized};
use crate::farm::Farm;
use crate::farm::secrets::Credentials;

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

/// Lets clients through.
pub(super) async fn clients(State(farm): State<Arc<Farm>>, mut request: Request, next: Next) -> Response {
    let Some(Authorization::Bearer(token)) = authorization(request.headers()) else {
        return unauthorized(STRANGE_CLIENT);
    };
    match farm.check_client(&token).await {
        Ok(true) => {
            request.extensions_mut().insert(Viewer::Client);
            next.run(request).await
        }
        Ok(false) => unauthorized(STRANGE_CLIENT),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Lets everybody through, to look.
pub(super) async fn everybody(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Viewer::Public);
    next.run(request).await
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
    use axum::http::HeaderValue;

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

    #[test]
    fn what_is_neither_is_nobody() {
        for value in ["", "Bearer", "Bearer ", "Bearer\t", "Basic ????", "Basic YQ==", "Digest x"] {
            assert_eq!(read(value), None, "{value:?}");
        }
    }
}
