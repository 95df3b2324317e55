//! Imports and mirrors.

use std::time::Duration;

use drover_wire::import::{ImportDetails, ImportId, ImportState, ImportSummary, NewImport};
use drover_wire::route::clients;

use super::retry::Patience;
use super::{ClientError, Coordinator, Unit, Watch};

/// How often it is looked how far an import is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// All imports, the newest first.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn list(coordinator: &Coordinator) -> Result<Vec<ImportSummary>, ClientError> {
    coordinator.ask("listing imports", &clients::IMPORTS, &[])
}

/// Starts one.
///
/// # Errors
/// As [`list`]; it is not what an import can be.
pub fn start(coordinator: &Coordinator, new: &NewImport) -> Result<ImportSummary, ClientError> {
    coordinator.tell(&format!("importing from {}", new.source), &clients::START_IMPORT, &[], new)
}

/// How one stands.
///
/// # Errors
/// As [`list`]; there is none with this number.
pub fn details(coordinator: &Coordinator, import: ImportId) -> Result<ImportDetails, ClientError> {
    coordinator.ask(&format!("asking about the import {import}"), &clients::IMPORT, &[&import])
}

/// Stops one.
///
/// # Errors
/// As [`details`]; it has ended.
pub fn stop(coordinator: &Coordinator, import: ImportId) -> Result<ImportDetails, ClientError> {
    coordinator.ask(&format!("stopping the import {import}"), &clients::STOP_IMPORT, &[&import])
}

/// Waits until one has ended. A coordinator that is restarted meanwhile goes on with it.
///
/// # Errors
/// As [`details`]; the coordinator stays away.
pub fn wait(
    coordinator: &Coordinator,
    import: ImportId,
    watch: &dyn Watch,
) -> Result<ImportDetails, ClientError> {
    watch.begin("importing", None, Unit::Things);
    let mut patience = Patience::some();
    let mut seen = 0;
    loop {
        match details(coordinator, import) {
            Ok(details) if details.summary.state != ImportState::Running => return Ok(details),
            Ok(details) => {
                patience = Patience::some();
                let ImportSummary { taken, known, refused, waits_for, .. } = details.summary;
                let now = taken + known + refused;
                watch.advance(now.saturating_sub(seen));
                let waits = waits_for.map(|what| format!("; it waits: {what}")).unwrap_or_default();
                watch.note(&format!("{taken} taken, {known} known, {refused} refused{waits}"));
                seen = now;
                std::thread::sleep(LOOK_EVERY);
            }
            Err(error @ ClientError::Unreachable { .. }) => patience.wait_after(error, watch)?,
            Err(error) => return Err(error),
        }
    }
}
