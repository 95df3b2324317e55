//! How the coordinator says no.

use std::fmt;

use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success. In it stands `request`, too, for people: the request's name, which who
/// asks has from the header [`crate::REQUEST_HEADER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of refusal it is, for programs.
    pub code: Code,
    /// One sentence for people: what was attempted, on what, and what to do.
    pub message: String,
    /// With [`Code::WrongOffset`]: the bytes that the coordinator has, where the next chunk has to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// The store paths that it is about, at most a hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<StorePath>,
}

impl Problem {
    /// A refusal of this kind with this sentence.
    #[must_use]
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), received: None, paths: Vec::new() }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident => $status:literal),+ $(,)?) => {
        /// The kinds of refusal, each with its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Code { $($(#[$doc])* $code),+ }

        impl Code {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$code => $status),+ }
            }
        }
    };
}

codes! {
    /// The request is not what this route reads.
    BadRequest => 400,
    /// No token or password, or one that the coordinator does not know.
    Unauthorized => 401,
    /// The caller is known, and may not do this.
    Forbidden => 403,
    /// There is no such build, agent, item, or route.
    NotFound => 404,
    /// The route is there, for another method.
    MethodNotAllowed => 405,
    /// The caller took too long to send what it announced.
    RequestTimeout => 408,
    /// The agent does not hold the lease, or no longer.
    LeaseNotHeld => 409,
    /// A chunk that does not start where the coordinator's copy ends.
    WrongOffset => 416,
    /// What is asked for collides with what is there.
    Conflict => 409,
    /// Larger than the coordinator accepts.
    TooLarge => 413,
    /// A derivation that does not parse, or whose name does not belong to its bytes.
    BadDerivation => 422,
    /// A derivation that names another one that the coordinator does not have.
    MissingDerivation => 422,
    /// A source whose contents do not belong to its name.
    BadSource => 422,
    /// A row of a set that cannot be taken.
    BadRow => 422,
    /// An output that is not one of the derivation's, or whose nar, hash, size or references are not what was said.
    BadOutput => 422,
    /// The two programs are of versions that do not work together.
    ProtocolVersion => 426,
    /// Too much at once; try again later.
    TooMany => 429,
    /// Something failed in the coordinator; its log has the cause.
    Internal => 500,
    /// The coordinator is stopping or starting; try again.
    Unavailable => 503,
    /// The coordinator's disk is full; nothing was lost, try again later.
    StorageFull => 507,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown => 500,
}

impl Code {
    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::RequestTimeout | Self::TooMany | Self::Internal | Self::Unavailable | Self::StorageFull
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_from_a_later_version_is_read_as_unknown() {
        let problem: Problem = serde_json::from_str(r#"{"code":"from-the-future","message":"x"}"#).unwrap();
        assert_eq!(problem.code, Code::Unknown);
    }

    #[test]
    fn every_kind_is_an_error_status() {
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }
}
