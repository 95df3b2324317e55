//! `drover log …`

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::{Exit, LogArgs};
use crate::client::ClientError;
use crate::client::log::{LogRequest, log};

pub(in crate::cli) fn run(args: &LogArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let request = LogRequest {
        build: args.build,
        attempt: args.attempt,
        offset: args.offset,
        tail: args.tail,
        follow: args.follow,
    };
    log(&args.connection.coordinator()?, &request, out.bytes(), watch)?;
    Ok(Exit::Success)
}
