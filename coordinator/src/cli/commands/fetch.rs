//! `drover fetch …`

use serde::Serialize;

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::clean;
use crate::cli::{Exit, FetchArgs};
use crate::client::ClientError;
use crate::client::fetch::fetch;

#[derive(Serialize)]
struct Fetched {
    path: String,
    to: String,
    nar_hash: String,
    nar_size: u64,
}

pub(in crate::cli) fn run(args: &FetchArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let (info, to) = fetch(&args.connection.coordinator()?, &args.output, &args.to, watch)?;
    let fetched = Fetched {
        path: info.path.to_string(),
        to: to.display().to_string(),
        nar_hash: info.nar_hash.to_string(),
        nar_size: info.nar_size,
    };
    watch.aside(|| out.value(&fetched, |out| out.line(clean(&fetched.to))))?;
    Ok(Exit::Success)
}
