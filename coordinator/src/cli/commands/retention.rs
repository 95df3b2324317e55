//! `drover retention`

use super::estimate;
use crate::cli::out::Out;
use crate::cli::{Exit, RetentionArgs};
use crate::client::ClientError;

pub(in crate::cli) fn run(args: &RetentionArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    estimate::run(&coordinator, out)
}
