//! `drover import …` and `drover mirror …`

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use drover_store::path::StorePath;
use drover_wire::import::{ImportDetails, ImportState, ImportSummary, NewImport};

use crate::cli::args::{TermsArgs, parse_item};
use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::table::{Column, Table};
use crate::cli::text::{age, clean, count, now, size, thousands};
use crate::cli::{Exit, ImportArgs, ImportCommand, MirrorArgs, MirrorCommand};
use crate::client::{ClientError, imports};

/// How many refusals are shown.
const SHOWN: usize = 20;

pub(in crate::cli) fn import(
    args: &ImportArgs,
    out: &mut Out,
    watch: &Progress,
) -> Result<Exit, ClientError> {
    let source = match (&args.command, &args.source) {
        (None, Some(source)) => source,
        (command, _) => return other(command.unwrap_or(ImportCommand::List), args, out),
    };
    let mut paths = args.paths.clone();
    if let Some(file) = &args.paths_from {
        read_paths(file, &mut paths)?;
        if paths.is_empty() {
            return Err(ClientError::Usage(format!("{} names no store items", file.display())));
        }
    }
    let herder = args.herder.as_deref().map(absolute).transpose()?;
    let new = NewImport { paths, in_place: args.in_place, herder, ..start(source, &args.terms)? };
    let coordinator = args.connection.coordinator()?;
    let started = imports::start(&coordinator, &new)?;
    if args.detach {
        out.value(&started, |out| out.line(format!("import {} goes on", started.import)))?;
        return Ok(Exit::Success);
    }
    let ended = imports::wait(&coordinator, started.import, watch)?;
    watch.aside(|| out.value(&ended, |out| show(&ended, out)))?;
    Ok(exit(&ended.summary))
}

pub(in crate::cli) fn mirror(args: &MirrorArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match (&args.command, &args.source) {
        (None, Some(source)) => {
            let new = NewImport { every_minutes: Some(args.every), ..start(source, &args.terms)? };
            let started = imports::start(&coordinator, &new)?;
            out.value(&started, |out| {
                let (import, source) = (started.import, clean(&started.source).into_owned());
                out.line(format!("mirror {import} follows {source}"))
            })?;
        }
        (Some(MirrorCommand::Stop { mirror }), _) => {
            let stopped = imports::stop(&coordinator, *mirror)?;
            out.value(&stopped, |out| show(&stopped, out))?;
        }
        _ => {
            let mut all = imports::list(&coordinator)?;
            all.retain(|import| import.every_minutes.is_some());
            list(&all, out)?;
        }
    }
    Ok(Exit::Success)
}

fn other(command: ImportCommand, args: &ImportArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match command {
        ImportCommand::List => list(&imports::list(&coordinator)?, out)?,
        ImportCommand::Show { import } => {
            let details = imports::details(&coordinator, import)?;
            out.value(&details, |out| show(&details, out))?;
        }
        ImportCommand::Stop { import } => {
            let stopped = imports::stop(&coordinator, import)?;
            out.value(&stopped, |out| show(&stopped, out))?;
        }
    }
    Ok(Exit::Success)
}

/// What is common to imports and mirrors.
fn start(source: &str, terms: &TermsArgs) -> Result<NewImport, ClientError> {
    let keys = terms.keys.iter().map(|file| {
        std::fs::read_to_string(file)
            .map_err(|error| ClientError::Usage(format!("cannot read the key {}: {error}", file.display())))
    });
    let source = if source.contains("://") { source.to_owned() } else { absolute(source)? };
    Ok(NewImport {
        source,
        keys: keys.collect::<Result<_, _>>()?,
        unsigned: terms.unsigned,
        server_keys: terms.server_keys.iter().map(ToString::to_string).collect(),
        sign: terms.sign,
        ..NewImport::default()
    })
}

/// A folder or file as the coordinator is to find it.
fn absolute(path: &str) -> Result<String, ClientError> {
    let bad = |why: &str| ClientError::Usage(format!("“{path}” cannot be imported: {why}"));
    let whole = std::path::absolute(path).map_err(|error| bad(&error.to_string()))?;
    whole.to_str().map(str::to_owned).ok_or_else(|| bad("its path is not text"))
}

fn read_paths(file: &Path, paths: &mut Vec<StorePath>) -> Result<(), ClientError> {
    let failed = |error| ClientError::local(format!("reading {}", file.display()), error);
    let from: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let bad = |error| ClientError::Usage(format!("cannot read {}: {error}", file.display()));
        Box::new(BufReader::new(File::open(file).map_err(bad)?))
    };
    for (n, line) in (1..).zip(from.lines()) {
        let line = line.map_err(failed)?;
        let word = line.trim();
        if !word.is_empty() {
            let bad = |error| ClientError::Usage(format!("line {n} of {}: {error}", file.display()));
            paths.push(parse_item(word).map_err(bad)?);
        }
    }
    Ok(())
}

fn exit(import: &ImportSummary) -> Exit {
    match import.state {
        ImportState::Stopped => Exit::Canceled,
        ImportState::Done | ImportState::Running if import.refused == 0 => Exit::Success,
        _ => Exit::Failed,
    }
}

fn list(all: &[ImportSummary], out: &mut Out) -> Result<(), ClientError> {
    if out.is_json() {
        return all.iter().try_for_each(|import| out.json(import));
    }
    let mut table = Table::new(&[
        Column::new("IMPORT").right(),
        Column::new("STATE"),
        Column::new("EVERY").dispensable(3),
        Column::new("TAKEN").right(),
        Column::new("BYTES").right().dispensable(2),
        Column::new("REFUSED").right(),
        Column::new("AGE").right().dispensable(1),
        Column::new("SOURCE"),
    ]);
    let now = now();
    for import in all {
        table.row([
            import.import.to_string(),
            import.state.to_string(),
            import.every_minutes.map_or_else(|| "-".to_owned(), |minutes| format!("{minutes} min")),
            thousands(import.taken),
            size(import.bytes),
            thousands(import.refused),
            age(import.started_at, now),
            clean(&import.source).into_owned(),
        ]);
    }
    out.table(&table)
}

fn show(details: &ImportDetails, out: &mut Out) -> Result<(), ClientError> {
    let import = &details.summary;
    out.line(format!(
        "import {} from {}: {}; {} taken ({}), {} known, {} refused",
        import.import,
        clean(&import.source),
        import.state,
        count(import.taken, "item", "items"),
        size(import.bytes),
        thousands(import.known),
        thousands(import.refused)
    ))?;
    if let Some(what) = &import.waits_for {
        out.line(format!("  it waits: {}", clean(what)))?;
    }
    if let Some(error) = &import.error {
        out.line(format!("  {}", clean(error)))?;
    }
    for refusal in details.refusals.iter().take(SHOWN) {
        out.line(format!("  {}: {}", clean(&refusal.item), clean(&refusal.why)))?;
    }
    let more = import.refused.saturating_sub(SHOWN as u64);
    if more > 0 {
        out.line(format!("  and {}; --json has more of them", count(more, "more", "more")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_lines_and_a_bad_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let base = "00a3xasf5iyzfv23danwy7pilf2yyxjz-hello";
        std::fs::write(file.path(), format!("/gnu/store/{base}\n\n  {base}\n")).unwrap();
        let mut paths = Vec::new();
        read_paths(file.path(), &mut paths).unwrap();
        assert_eq!(paths.len(), 2);
        std::fs::write(file.path(), format!("{base}\n/etc/passwd\n")).unwrap();
        let error = read_paths(file.path(), &mut paths).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn an_import_that_refused_something_has_not_gone_well() {
        let summary = |state, refused| ImportSummary {
            import: 1,
            source: "/srv".into(),
            state,
            in_place: false,
            every_minutes: None,
            taken: 1,
            bytes: 1,
            known: 0,
            refused,
            waits_for: None,
            error: None,
            started_at: 0,
            ended_at: None,
        };
        assert_eq!(exit(&summary(ImportState::Done, 0)), Exit::Success);
        assert_eq!(exit(&summary(ImportState::Done, 1)), Exit::Failed);
        assert_eq!(exit(&summary(ImportState::Failed, 0)), Exit::Failed);
        assert_eq!(exit(&summary(ImportState::Stopped, 0)), Exit::Canceled);
    }
}
