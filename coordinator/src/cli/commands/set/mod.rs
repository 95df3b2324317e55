//! `drover set …`

mod submit;

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::{Exit, SetArgs, SetCommand};
use crate::client::ClientError;

pub(in crate::cli) fn run(args: &SetArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match &args.command {
        SetCommand::Submit(args) => submit::run(args, &coordinator, out, watch),
    }
}
