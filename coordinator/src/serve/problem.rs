//! What a refusal is over HTTP: the one place where the farm's errors become statuses and sentences.

use std::io;

use axum::Json;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drover_wire::bundle::BundleError;
use drover_wire::{Code, Problem};
use serde::Serialize;

use super::observe;
use crate::farm::Error;

/// The most store paths that a refusal names.
const PATHS_LIMIT: usize = 100;

/// After how many seconds who cannot be served now may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("10");

/// A [`Problem`] on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Problem);

impl Refusal {
    pub(super) fn new(code: Code, message: impl std::fmt::Display) -> Self {
        Self(Problem::new(code, message))
    }

    /// Something that must not happen did: the log gets the cause, the caller does not.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request could not be answered");
        Self::new(
            Code::Internal,
            "the coordinator could not do it, for a reason of its own; its log has the cause; try again later",
        )
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let with = |code| Problem::new(code, &message);
        Self(match error {
            Error::BadRequest(_) => with(Code::BadRequest),
            Error::NotFound { .. } | Error::LogRemoved { .. } => with(Code::NotFound),
            Error::Forbidden(_) => with(Code::Forbidden),
            Error::Conflict(_) => with(Code::Conflict),
            Error::Protocol { .. } => with(Code::ProtocolVersion),
            Error::LeaseNotHeld(_) => with(Code::LeaseNotHeld),
            Error::WrongOffset { received, .. } => {
                Problem { received: Some(received), ..with(Code::WrongOffset) }
            }
            Error::TooLarge { .. } => with(Code::TooLarge),
            Error::BadDerivation { path, .. } => Problem { paths: vec![path], ..with(Code::BadDerivation) },
            Error::MissingDerivation { mut inputs, .. } => {
                inputs.truncate(PATHS_LIMIT);
                Problem { paths: inputs, ..with(Code::MissingDerivation) }
            }
            Error::UnknownDerivation(path) => Problem { paths: vec![path], ..with(Code::MissingDerivation) },
            Error::BadSource { path, .. } => Problem { paths: vec![path], ..with(Code::BadSource) },
            Error::BadRow { .. } => with(Code::BadRow),
            Error::BadOutput { path, .. } => Problem { paths: vec![path], ..with(Code::BadOutput) },
            Error::Bundle(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {
                with(Code::RequestTimeout)
            }
            Error::Bundle(_) => with(Code::BadRequest),
            Error::CutOff { received } => Problem { received: Some(received), ..with(Code::RequestTimeout) },
            Error::StorageFull(_) => with(Code::StorageFull),
            Error::Busy(_) | Error::InHand(_) | Error::NotYet(_) | Error::Stopping => with(Code::Unavailable),
            Error::Store(error) if error.is_outage() => {
                tracing::error!(cause = message, "a place of nars does not do what it should");
                let said = "one of the coordinator's places for nars does not answer as it should; its log has the \
                            cause; try again later";
                Problem::new(Code::Unavailable, said)
            }
            Error::Database(_) | Error::Io { .. } | Error::Store(_) | Error::Damaged(_) => {
                return Self::internal(&message);
            }
        })
    }
}

/// A problem as it goes out.
#[derive(Debug, Serialize)]
struct Said {
    #[serde(flatten)]
    problem: Problem,
    /// Under this name the log may have more of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // For those who want it as a page.
        let for_page = self.0.clone();
        let mut response =
            (status, Json(Said { problem: self.0, request: observe::request_id() })).into_response();
        response.extensions_mut().insert(for_page);
        // What was refused may be had a moment later.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if code == Code::Unavailable {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

/// Who is not known: what they are told, and how they could say who they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stranger {
    message: &'static str,
    scheme: &'static str,
}

/// An agent that is not known.
pub(super) const STRANGE_AGENT: Stranger = Stranger {
    message: "the coordinator does not know this agent: it wants a UUID with one of its passwords, or a token for \
              agents; `drover agent` makes them",
    scheme: "Basic realm=\"drover agents\", Bearer realm=\"drover agents\"",
};

/// A client that is not known.
pub(super) const STRANGE_CLIENT: Stranger = Stranger {
    message: "the coordinator does not know this token: it wants a client's token, such as the one in the file \
              client-token of its state folder",
    scheme: "Bearer realm=\"drover clients\"",
};

/// The answer to those who are not known; unknown and wrong look the same.
pub(super) fn unauthorized(stranger: Stranger) -> Response {
    let mut response = Refusal::new(Code::Unauthorized, stranger.message).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(stranger.scheme));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_inside_stays_inside() {
        let error = Error::io("write /srv/farm/nars/x", io::Error::other("controller on fire"));
        let Refusal(problem) = error.into();
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.message.contains("/srv") && !problem.message.contains("fire"), "{problem}");
    }

    #[test]
    fn a_refusal_names_what_it_is_about() {
        let Refusal(offset) = Error::WrongOffset { what: "the log", offset: 9, received: 7 }.into();
        assert_eq!((offset.code, offset.received), (Code::WrongOffset, Some(7)));
        let path = drover_store::StorePath::parse_base("00000000000000000000000000000000-x.drv").unwrap();
        let inputs = vec![path.clone(); 101];
        let Refusal(missing) = Error::MissingDerivation { path, inputs }.into();
        assert_eq!((missing.code, missing.paths.len()), (Code::MissingDerivation, PATHS_LIMIT));
    }
}
