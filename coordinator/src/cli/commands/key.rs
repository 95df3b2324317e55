//! `drover key …`

use drover_tls::Pin;
use serde::Serialize;

use crate::cli::out::Out;
use crate::cli::{Exit, KeyArgs, KeyCommand};
use crate::client::{ClientError, agents};

#[derive(Serialize)]
struct Key<'a> {
    public_key: &'a str,
}

#[derive(Serialize)]
struct TlsKey<'a> {
    key: &'a str,
}

pub(in crate::cli) fn run(args: &KeyArgs, out: &mut Out) -> Result<Exit, ClientError> {
    if let KeyCommand::Tls { certificate } = &args.command {
        let key = Pin::of_file(certificate).map_err(ClientError::Usage)?.to_string();
        out.value(&TlsKey { key: &key }, |out| out.line(&key))?;
        return Ok(Exit::Success);
    }
    let key = agents::key(&args.connection.coordinator()?)?;
    let public_key = key.trim_end();
    out.value(&Key { public_key }, |out| out.line(public_key))?;
    Ok(Exit::Success)
}
