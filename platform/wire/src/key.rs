//! The coordinator's signing keys, for operators.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The longest time, in seconds, after which a new key may begin to sign: ten years.
pub const AFTER_LIMIT: u64 = 10 * 366 * 86_400;

/// A signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its number; the first has 1.
    pub key: u64,
    /// Its public half, an s-expression on one line: what clients and agents authorize.
    pub public_key: String,
    /// What it is for now.
    pub state: KeyState,
    /// When the coordinator made it or was given it.
    pub made_at: Timestamp,
    /// From when on it signs, or signed.
    pub signs_from: Timestamp,
    /// How many published narinfos are signed by it.
    pub signed: u64,
    /// When it may go, if it does not sign any more and nothing that is published is signed by it: clients may have kept
    /// what it signed until then.
    pub may_go_at: Option<Timestamp>,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// It signs.
    Signs,
    /// It will sign: whoever takes substitutes should authorize it before.
    Next,
    /// It signed; what it signed is still about.
    Signed,
    /// It is not the coordinator's any more.
    Retired,
}

impl KeyState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signs => "signs",
            Self::Next => "next",
            Self::Signed => "signed",
            Self::Retired => "retired",
        }
    }
}

/// Another key is to sign.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation {
    /// In how many seconds.
    pub after: u64,
    /// Its secret half, an s-expression as in `/etc/guix/signing-key.sec`; none: the coordinator makes one.
    pub secret: Option<String>,
}

impl std::fmt::Debug for KeyRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = self.secret.as_ref().map(|_| "…");
        f.debug_struct("KeyRotation").field("after", &self.after).field("secret", &secret).finish()
    }
}

/// The answer to [`KeyRotation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// The key that signed until now, and signs until the new one does.
    pub old: KeyInfo,
    /// The new one.
    pub new: KeyInfo,
    /// For how many seconds clients may keep what was signed before.
    pub ttl: u64,
}

/// A key is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRetirement {
    /// Even if something that it signed is still about.
    pub now: bool,
}
