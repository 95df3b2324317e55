//! `drover key …`

use serde::Serialize;

use crate::cli::out::Out;
use crate::cli::{Exit, KeyArgs, KeyCommand};
use crate::client::{ClientError, agents};

#[derive(Serialize)]
struct Key<'a> {
    public_key: &'a str,
}

pub(in crate::cli) fn run(args: &KeyArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let KeyCommand::Show = args.command;
    let key = agents::key(&args.connection.coordinator()?)?;
    let public_key = key.trim_end();
    out.value(&Key { public_key }, |out| out.line(public_key))?;
    Ok(Exit::Success)
}
