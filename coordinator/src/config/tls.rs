//! Which listeners speak TLS.

use serde::Deserialize;

use super::{Config, ConfigError};

/// A listener, as `tls-listeners` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsListener {
    /// Where agents are listened to
    Agents,
    /// Where clients are listened to
    Clients,
    /// Where everybody is listened to
    Public,
}

impl Config {
    /// Whether this listener speaks TLS.
    #[must_use]
    pub fn speaks_tls(&self, listener: TlsListener) -> bool {
        let has_certificate = !self.tls_certificate.as_os_str().is_empty();
        has_certificate && (self.tls_listeners.is_empty() || self.tls_listeners.contains(&listener))
    }

    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let is_given = |path: &std::path::Path| !path.as_os_str().is_empty();
        let (certificate, key) = (is_given(&self.tls_certificate), is_given(&self.tls_key));
        let refuse =
            |option, reason| Err(ConfigError::Value { option, value: "left out".to_owned(), reason });
        if key && !certificate {
            return refuse("tls-certificate", "tls-key is the key of a certificate");
        }
        if certificate && !key {
            return refuse("tls-key", "a certificate can only be shown by who has its private key");
        }
        if !certificate && !self.tls_listeners.is_empty() {
            return refuse("tls-certificate", "tls-listeners says who speaks TLS, which wants a certificate");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn config(certificate: &str, key: &str, listeners: &[TlsListener]) -> Config {
        Options {
            tls_certificate: Some(certificate.into()),
            tls_key: Some(key.into()),
            tls_listeners: Some(listeners.to_vec()),
            ..Options::default()
        }
        .resolve()
    }

    #[test]
    fn all_listeners_speak_tls_with_a_certificate_unless_some_are_named() {
        use TlsListener::{Agents, Clients, Public};
        let all = |config: &Config| [Agents, Clients, Public].map(|listener| config.speaks_tls(listener));
        assert_eq!(all(&config("a", "b", &[])), [true; 3]);
        assert_eq!(all(&config("a", "b", &[Agents, Clients])), [true, true, false]);
        assert_eq!(all(&Config::default()), [false; 3]);
    }

    #[test]
    fn halves_of_a_pair_are_refused_by_the_name_of_the_other_half() {
        for (certificate, key, listeners, missing) in [
            ("a", "", &[][..], "tls-key"),
            ("", "b", &[], "tls-certificate"),
            ("", "", &[TlsListener::Agents], "tls-certificate"),
        ] {
            let error = config(certificate, key, listeners).check_tls().unwrap_err().to_string();
            assert!(error.contains(&format!("the option {missing} ")), "{error}");
        }
        assert!(config("a", "b", &[]).check_tls().is_ok() && config("", "", &[]).check_tls().is_ok());
    }
}
