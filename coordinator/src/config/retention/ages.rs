//! The table `[retention.ages]`: after how many days what was noted goes.

use serde::Deserialize;

/// The table `[retention.ages]`: after how many days what was noted goes. 0: never.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ages {
    /// Logs of tries, from their end on.
    pub logs_days: u32,
    /// Logs of tries whose builder failed or took too long.
    pub failed_logs_days: u32,
    /// Builds that ended, with their tries, but for the newest of what a set still has.
    pub history_days: u32,
    /// Events that the hooks have seen.
    pub events_days: u32,
    /// Derivations, and the sources that only they name, from when nothing needed them any more.
    pub derivations_days: u32,
    /// Runs of hooks that were given up, or wait for a hook that is not configured any more.
    pub hook_runs_days: u32,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            logs_days: 90,
            failed_logs_days: 180,
            history_days: 180,
            events_days: 14,
            derivations_days: 30,
            hook_runs_days: 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_what_is_not_known_is_refused() {
        let ages: Ages = toml::from_str("logs-days = 7\n").unwrap();
        assert_eq!(ages, Ages { logs_days: 7, ..Ages::default() });
        let error = toml::from_str::<Ages>("log-days = 7\n").unwrap_err().to_string();
        assert!(error.contains("log-days"), "{error}");
        assert!(toml::from_str::<Ages>("logs-days = -1\n").is_err());
    }
}
