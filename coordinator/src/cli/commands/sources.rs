//! `drover sources …`

use drover_wire::source::{Source, SourceQuestion};

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::table::{Column, Table};
use crate::cli::text::{age, clean, now};
use crate::cli::{Exit, SourcesArgs};
use crate::client::{ClientError, Unit, Watch, sources};

pub(in crate::cli) fn run(args: &SourcesArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    if !args.check.is_empty() {
        // Each may take a minute or two.
        watch.begin("looking at upstreams", Some(args.check.len() as u64), Unit::Things);
        for path in &args.check {
            watch.note(path.name());
            let found = sources::check(&coordinator, path)?;
            watch.aside(|| show(out, &[found]))?;
            watch.advance(1);
        }
        return Ok(Exit::Success);
    }
    let question = SourceQuestion { vanished: args.vanished, changed: args.changed, after: None };
    sources::list(&coordinator, question, |page| show(out, page))?;
    Ok(Exit::Success)
}

fn show(out: &mut Out, page: &[Source]) -> Result<(), ClientError> {
    if out.is_json() {
        page.iter().try_for_each(|source| out.json(source))?;
        return out.flush();
    }
    let mut table = Table::new(&[
        Column::new("STATE"),
        Column::new("SEEN").right().dispensable(1),
        Column::new("HELD").dispensable(2),
        Column::new("PATH"),
        Column::new("DETAIL"),
    ]);
    let now = now();
    for source in page {
        let shown = source.detail.as_deref().or(source.urls.first().map(String::as_str)).unwrap_or("-");
        table.row([
            source.state.as_str().to_owned(),
            source.checked_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
            if source.held { "yes" } else { "no" }.to_owned(),
            source.path.to_string(),
            clean(shown).into_owned(),
        ]);
    }
    out.table(&table)?;
    out.flush()
}
