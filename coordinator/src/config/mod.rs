//! The configuration of `drover serve`: from a file (TOML), from flags, and from the defaults in `options`.
//!
//! Every option has one definition, which makes the flag, the name in the file and the default. A flag goes
//! before the file, the file before the default. An unknown name or a bad value is refused at start.

mod hooks;
mod location;
mod metrics;
mod options;
mod places;
mod retention;
mod tls;

use std::path::{Path, PathBuf};

pub use hooks::{Hook, HookConfig, Task};
pub use location::{BucketConfig, Location, LocationConfig};
pub use metrics::MetricsListen;
pub use options::{Config, Options};
pub use places::{Gib, PlaceConfig, Placement, STATE_PLACE, is_place_name};
pub use retention::{Ages, ElsewhereConfig, Pattern, RetentionConfig, Rule, SetRule};
pub use tls::TlsListener;

/// What `drover serve` reads from its command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// A configuration file (TOML) with the names of these options; flags go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The options that the file has, too.
    #[command(flatten)]
    pub options: Options,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {} is not valid: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there.
        source: Box<toml::de::Error>,
    },
    /// A hook that cannot be.
    #[error("the hook “{hook}” cannot be: {reason}")]
    Hook {
        /// Its name.
        hook: String,
        /// Why not, and what can be.
        reason: String,
    },
    /// A file with keys of others.
    #[error("cannot use the keys in {}, which retention.elsewhere.keys names: {reason}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that cannot be used.
    #[error("the option {option} cannot be {}: {reason}", crate::web::shown(value))]
    Value {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// Why not, and what can be given.
        reason: &'static str,
    },
}

impl ServeArgs {
    /// The configuration that these flags, their file and the defaults make together.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown name in it, or a value cannot be used.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Options::default(),
        };
        let config = self.options.over(file).resolve();
        config.check()?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("lease-seconds", self.lease_seconds),
            ("heartbeat-seconds", self.heartbeat_seconds),
            ("poll-seconds", self.poll_seconds),
            ("max-nar-mib", self.max_nar_mib),
            ("max-log-mib", self.max_log_mib),
            ("import-silence-seconds", self.import_silence_seconds),
            ("public-connections", self.public_connections.into()),
        ];
        for (option, value) in positive {
            if value == 0 || value > MOST {
                return Err(ConfigError::Value {
                    option,
                    value: value.to_string(),
                    reason: "it must be more than 0 and less than a thousand million",
                });
            }
        }
        if !(1..=64).contains(&self.import_parallel) {
            return Err(ConfigError::Value {
                option: "import-parallel",
                value: self.import_parallel.to_string(),
                reason: "it must be 1 to 64",
            });
        }
        if self.heartbeat_seconds >= self.lease_seconds {
            return Err(ConfigError::Value {
                option: "heartbeat-seconds",
                value: self.heartbeat_seconds.to_string(),
                reason: "it must be less than lease-seconds, or every lease runs out between two heartbeats",
            });
        }
        places::check(&self.places, &self.state)?;
        self.all_hooks()?;
        for server in &self.substitute_servers {
            let known = server.starts_with("http://") || server.starts_with("https://");
            if !known || crate::web::has_user(server) || server.parse::<axum::http::Uri>().is_err() {
                return Err(ConfigError::Value {
                    option: "substitute-servers",
                    value: server.clone(),
                    reason: "each must be an address such as https://bordeaux.guix.gnu.org",
                });
            }
        }
        self.retention.check()?;
        self.check_tls()
    }
}

const MOST: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn resolve(flags: &[&str]) -> Result<Config, ConfigError> {
        Command::try_parse_from(std::iter::once("drover").chain(flags.iter().copied()))
            .unwrap()
            .serve
            .resolve()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let file =
            file("lease-seconds = 700\npoll-seconds = 7\nsubstitute-servers = [\"https://a.example\"]\n");
        let path = file.path().to_str().unwrap();
        let config = resolve(&["--config", path, "--poll-seconds", "8"]).unwrap();
        assert_eq!((config.lease_seconds, config.poll_seconds), (700, 8));
        assert_eq!(config.heartbeat_seconds, Config::default().heartbeat_seconds);
        assert_eq!(config.substitute_servers, ["https://a.example"]);
    }

    #[test]
    fn an_unknown_name_in_the_file_is_refused_with_the_name() {
        let file = file("lease-second = 700\n");
        let error = resolve(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("lease-second"), "{error}");
    }

    #[test]
    fn heartbeats_rarer_than_leases_are_refused() {
        let error = resolve(&["--lease-seconds", "10", "--heartbeat-seconds", "10"]).unwrap_err().to_string();
        assert!(error.contains("heartbeat-seconds"), "{error}");
    }

    #[test]
    fn an_import_takes_at_least_one_item_at_a_time_and_not_hundreds() {
        for (option, value) in
            [("import-parallel", "0"), ("import-parallel", "65"), ("import-silence-seconds", "0")]
        {
            let error = resolve(&[&format!("--{option}"), value]).unwrap_err().to_string();
            assert!(error.contains(option), "{error}");
        }
        assert_eq!(resolve(&["--import-parallel", "64"]).unwrap().import_parallel, 64);
    }

    #[test]
    fn a_substitute_server_without_a_scheme_is_refused() {
        assert!(resolve(&["--substitute-servers", "ci.guix.gnu.org"]).is_err());
        let refused = resolve(&["--substitute-servers", "https://user:hidden@host"]).unwrap_err().to_string();
        assert!(refused.contains("https://…@host") && !refused.contains("hidden"), "{refused}");
    }
}
