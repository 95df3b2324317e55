//! The coordinator's listeners.

use crate::config::{ConfigError, ServeArgs};

/// Why the coordinator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no valid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Runs the coordinator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: a bad configuration, a state folder that cannot be used or is in use, an address that
/// cannot be listened to.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    let _config = args.resolve()?;
    Ok(())
}
