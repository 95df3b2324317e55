//! What is beyond the machine, and how to get there.

use std::io;
use std::time::Duration;

use drover_os::net::{self, Deadline};

use super::{Finding, Glance, Outcome};
use crate::coordinator::{Coordinator, Error};
use crate::http::Patience;

/// For a name, a connection, an answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn names(glance: &Glance) -> Outcome {
    let host = if glance.has_coordinator { glance.config.coordinator.host() } else { "localhost" };
    match net::resolve(host, 80, Deadline::after(PATIENCE)) {
        Ok(found) => {
            let addresses: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
            Ok(Finding::Works(format!("{host} is {}", addresses.join(", "))))
        }
        // A board may know no names, and need none.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !glance.has_coordinator => {
            Ok(Finding::Unknown(format!("{error}; there is no coordinator to look up")))
        }
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn tls(glance: &Glance) -> Outcome {
    glance.config.trust.examine().map(Finding::Works)
}

pub(super) fn identity(glance: &Glance) -> Outcome {
    Ok(match &glance.nobody {
        None => Finding::Works("it has what proves who this agent is".into()),
        Some(reason) => Finding::Unknown(reason.clone()),
    })
}

pub(super) fn coordinator(glance: &Glance) -> Outcome {
    if !glance.has_coordinator {
        return Ok(Finding::Unknown("none is configured; see --coordinator".into()));
    }
    let patience = Patience { resolve: PATIENCE, connect: PATIENCE, answer: PATIENCE, silence: PATIENCE };
    let url = &glance.config.coordinator;
    match Coordinator::with_patience(&glance.config, patience).key() {
        Ok(_) => Ok(Finding::Works(format!("{url} knows this agent"))),
        // It was not asked as anybody.
        Err(Error::Refused { .. }) if glance.nobody.is_some() => {
            Ok(Finding::Works(format!("{url} answers; whether it takes this agent is not known")))
        }
        Err(error) => Err(error.to_string()),
    }
}
