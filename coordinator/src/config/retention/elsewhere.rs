//! The table `[retention.elsewhere]`: servers that may have things in our stead.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, DAYS};

/// The most servers: each is asked for each item that none before it has.
const SERVERS: usize = 16;

/// The table `[retention.elsewhere]`: which servers are asked for what only rules with `unless-elsewhere` keep. What one
/// of them has goes here, and who asks for it is sent there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ElsewhereConfig {
    /// The servers, those that are liked best first.
    pub servers: Vec<String>,
    /// Files with the keys that their narinfos must be signed with: public keys, or lists such as `/etc/guix/acl`.
    pub keys: Vec<PathBuf>,
    /// How many days something has to have been here before they are asked for it.
    pub after_days: u64,
    /// After how many days it is looked again whether a server has something, or still has it.
    pub check_days: u64,
}

impl Default for ElsewhereConfig {
    fn default() -> Self {
        Self { servers: Vec::new(), keys: Vec::new(), after_days: 7, check_days: 7 }
    }
}

impl ElsewhereConfig {
    /// # Errors
    /// The first value that cannot be.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |option, value: String, reason| Err(ConfigError::Value { option, value, reason });
        if self.servers.len() > SERVERS {
            let count = format!("{} servers", self.servers.len());
            return bad("retention.elsewhere.servers", count, "there may be 16 servers at most");
        }
        for server in &self.servers {
            let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://"));
            let plain = host.is_some_and(|host| !host.is_empty() && !host.contains(['?', '#', '@']));
            if !plain || server.parse::<axum::http::Uri>().is_err() {
                let reason = "each must be an address such as https://bordeaux.guix.gnu.org";
                return bad("retention.elsewhere.servers", server.clone(), reason);
            }
        }
        if !self.servers.is_empty() && self.keys.is_empty() {
            let reason =
                "what the servers say must be signed: name files with their keys, such as /etc/guix/acl";
            return bad("retention.elsewhere.keys", "empty".to_owned(), reason);
        }
        if self.after_days > DAYS {
            let reason = "it must be at most 365000, which is a thousand years";
            return bad("retention.elsewhere.after-days", self.after_days.to_string(), reason);
        }
        if self.check_days == 0 || self.check_days > DAYS {
            let reason = "it must be at least 1, and at most 365000, which is a thousand years";
            return bad("retention.elsewhere.check-days", self.check_days.to_string(), reason);
        }
        Ok(())
    }
}
