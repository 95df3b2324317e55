//! `drover cancel …`

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::{CancelArgs, Exit};
use crate::client::{ClientError, builds};

pub(in crate::cli) fn run(args: &CancelArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    let mut worst = Exit::Success;
    for build in &args.builds {
        match builds::cancel(&coordinator, *build) {
            Ok(details) => {
                let summary = &details.summary;
                out.value(&details, |out| {
                    out.line(format!("{}  {}  {}", summary.build, summary.state, summary.derivation.name()))
                })?;
            }
            // The others are canceled nevertheless.
            Err(error @ ClientError::Refused { .. }) => {
                watch.say(&format!("drover: {error}"));
                worst = worst.worse(Exit::from(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(worst)
}
