//! What the system tells of itself; an agent works without.

use drover_os::machine;

use super::{Finding, Glance, Outcome};

pub(super) fn load(_: &Glance) -> Outcome {
    Ok(match machine::load() {
        Some(load) => Finding::Works(format!("{:.2} over the last minute", load.one)),
        None => Finding::Unknown("the system does not tell it: builds start whatever runs besides".into()),
    })
}

pub(super) fn memory(_: &Glance) -> Outcome {
    Ok(match machine::memory() {
        Some(memory) => Finding::Works(format!(
            "{} MiB, of which {} are available",
            memory.total >> 20,
            memory.available >> 20
        )),
        None => Finding::Unknown("the system does not tell it".into()),
    })
}
