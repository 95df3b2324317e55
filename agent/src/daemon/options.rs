//! What a connection asks of the daemon's way to work.

use super::Connection;
use super::channel::Channel;
use super::error::{Error, Fault};

/// The daemon keeps log lines as they are, without indentation.
const LOG_FLAT: u64 = 2;
const SET_OPTIONS: u64 = 19;

/// Settings of one connection. Never with a build hook: a build that is offloaded was not built here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the daemon may fetch substitutes, and where from; none: it may not.
    pub substitute_urls: Option<Vec<String>>,
    /// Seconds after which the daemon ends a build; none: its own default.
    pub timeout: Option<u64>,
    /// Seconds of silence after which the daemon ends a build; none: its own default.
    pub max_silent_time: Option<u64>,
}

impl Connection {
    /// Sets the options of this connection.
    ///
    /// # Errors
    /// When the daemon is away or refuses.
    pub fn set_options(&mut self, options: &Options) -> Result<(), Error> {
        write(&mut self.channel, options)
            .and_then(|()| self.channel.finish())
            .map_err(|fault| fault.during("set the connection's options"))
    }
}

fn write(channel: &mut Channel, options: &Options) -> Result<(), Fault> {
    channel.write_u64(SET_OPTIONS)?;
    let (keep_failed, keep_going, fallback, verbosity) = (0, 0, 0, 0);
    let (build_hook, build_verbosity, print_trace) = (0, 0, 1);
    let substitutes = u64::from(options.substitute_urls.is_some());
    for number in [
        keep_failed,
        keep_going,
        fallback,
        verbosity,
        build_hook,
        build_verbosity,
        LOG_FLAT,
        print_trace,
        substitutes,
    ] {
        channel.write_u64(number)?;
    }
    let mut pairs = vec![("multiplexed-build-output", "true".to_owned())];
    if let Some(seconds) = options.timeout {
        pairs.push(("build-timeout", seconds.to_string()));
    }
    if let Some(seconds) = options.max_silent_time {
        pairs.push(("build-max-silent-time", seconds.to_string()));
    }
    if let Some(urls) = &options.substitute_urls {
        pairs.push(("substitute-urls", urls.join(" ")));
    }
    channel.write_u64(pairs.len() as u64)?;
    for (key, value) in pairs {
        channel.write_bytes(key.as_bytes())?;
        channel.write_bytes(value.as_bytes())?;
    }
    Ok(())
}
