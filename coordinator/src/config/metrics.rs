//! Where numbers can be read without a token.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;

/// A loopback address, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MetricsListen(pub Option<SocketAddr>);

impl FromStr for MetricsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address: SocketAddr =
            text.parse().map_err(|error| format!("{error}; it looks like 127.0.0.1:8748, or is none"))?;
        if !address.ip().is_loopback() {
            let reason = "it must be a loopback address such as 127.0.0.1:8748, for no token is asked for there; from other \
                          machines /metrics is read on the clients' listener, with a token";
            return Err(reason.to_owned());
        }
        Ok(Self(Some(address)))
    }
}

impl TryFrom<String> for MetricsListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_reach_is_refused() {
        assert_eq!("none".parse(), Ok(MetricsListen(None)));
        assert!("127.0.0.1:8748".parse::<MetricsListen>().unwrap().0.is_some());
        assert!("[::1]:8748".parse::<MetricsListen>().is_ok());
        for text in ["0.0.0.0:8748", "10.0.0.1:8748", "[::]:8748"] {
            let error = text.parse::<MetricsListen>().unwrap_err();
            assert!(error.contains("loopback"), "{error}");
        }
        assert!("8748".parse::<MetricsListen>().is_err());
    }
}
