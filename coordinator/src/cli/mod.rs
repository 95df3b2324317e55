//! The command line: `drover serve` and the operators' commands.
//!
//! What is done is in [`crate::client`]; here is how it is asked for and how it is shown.

mod args;
mod commands;
mod exit;
mod out;
mod progress;
mod shapes;
mod table;
pub(crate) mod text;

use std::ffi::OsString;
use std::io::Write;

use clap::error::ErrorKind;
use clap::parser::ValueSource::CommandLine;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use args::{
    AgentArgs, AgentCommand, BuildArgs, BuildsArgs, CancelArgs, CheckArgs, Connection, DerivationCommand,
    EventsArgs, FetchArgs, Format, HooksArgs, HooksCommand, ImportArgs, ImportCommand, KeyArgs, KeyCommand,
    LogArgs, MirrorArgs, MirrorCommand, PasswordCommand, RetentionArgs, RetentionCommand, SetArgs,
    SetCommand, ShowArgs, SourcesArgs, StorageArgs, StorageCommand, SubmitArgs, TermsArgs, TokenCommand,
};
pub use exit::{EXITS, Exit};

use crate::client::ClientError;
use crate::config::ServeArgs;
use out::Out;
use progress::Progress;

/// A build farm for GNU Guix: the coordinator, and its operators' commands.
#[derive(Debug, Parser)]
#[command(name = "drover", version, after_help = EXITS, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator
    Serve(Box<ServeArgs>),
    /// Create and list agents, make their passwords and tokens
    #[command(after_help = shapes::AGENT)]
    Agent(AgentArgs),
    /// Submit builds of derivations, and what they need
    #[command(after_help = format!("{EXITS}\n\n{}", shapes::BUILD))]
    Build(BuildArgs),
    /// List builds, the newest first
    #[command(after_help = shapes::BUILDS)]
    Builds(BuildsArgs),
    /// Show everything about a build
    #[command(after_help = shapes::SHOW)]
    Show(ShowArgs),
    /// Sets: what a branch, a patch or a release wants, and how it stands
    Set(SetArgs),
    /// Print a build's log, byte for byte
    Log(LogArgs),
    /// Print what happens, as it happens
    #[command(after_help = shapes::EVENTS)]
    Events(EventsArgs),
    /// Cancel builds
    #[command(after_help = shapes::CANCEL)]
    Cancel(CancelArgs),
    /// Download a store item and unpack it, hash and size checked
    #[command(after_help = shapes::FETCH)]
    Fetch(FetchArgs),
    /// Take over store items from a substitute server or a folder
    #[command(after_help = shapes::IMPORT)]
    Import(ImportArgs),
    /// Keep following a substitute server
    #[command(after_help = shapes::IMPORT)]
    Mirror(MirrorArgs),
    /// Work with .drv files on this machine
    #[command(subcommand)]
    Derivation(DerivationCommand),
    /// Hooks: how they do, what they gave up, and another chance for that
    #[command(after_help = shapes::HOOKS)]
    Hooks(HooksArgs),
    /// How full the places are that nars lie in; emptying one
    #[command(after_help = shapes::STORAGE)]
    Storage(StorageArgs),
    /// What is kept for how long: what would go, why something stays, and how far removal has come
    #[command(after_help = format!("{}\n\n{}", args::RETENTION, shapes::RETENTION))]
    Retention(RetentionArgs),
    /// Sources that were fetched, and whether their upstreams vanished or changed
    #[command(after_help = shapes::SOURCES)]
    Sources(SourcesArgs),
    /// The keys that the coordinator signs with
    #[command(after_help = shapes::KEY)]
    Key(KeyArgs),
}

/// Runs the program with these arguments, its own name first, and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    match parse(arguments) {
        Ok(command) => run(command),
        Err(error) => {
            let words = error.render().to_string();
            let clean = text::clean_lines(words.trim_end());
            // Help and version are no errors; nobody reading them is none either.
            let _ = if clean == words.trim_end() {
                error.print()
            } else {
                // A word of the command line has what a terminal would act upon.
                writeln!(std::io::stderr(), "{clean}")
            };
            if error.use_stderr() { Exit::BadInput } else { Exit::Success }
        }
    }
}

/// Makes a command of the words, or an error that says what is wrong with them.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let mut grammar = Cli::command();
    let matches = grammar.try_get_matches_from_mut(arguments)?;
    if let Some(sentence) = out_of_place(&grammar, &matches) {
        return Err(grammar.error(ErrorKind::ArgumentConflict, sentence));
    }
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// Some commands do one thing by themselves and others with a word, such as `import URL` and `import list`: options that
/// only belong to the first are refused where there is a word. clap's own `args_conflicts_with_subcommands` would take the
/// word for a value of the first as soon as any option stands before it, even one of both.
fn out_of_place(grammar: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let (name, of_command) = matches.subcommand()?;
    let (word, _) = of_command.subcommand()?;
    let command = grammar.find_subcommand(name)?;
    if command.is_subcommand_required_set() {
        return None;
    }
    let given = |argument: &&clap::Arg| {
        !argument.is_global_set() && of_command.value_source(argument.get_id().as_str()) == Some(CommandLine)
    };
    let argument = command.get_arguments().find(given)?;
    let folder = match command.get_positionals().next() {
        Some(_) => format!("; a folder of that name is './{word}'"),
        None => String::new(),
    };
    Some(format!(
        "'drover {name} {word}' takes no '{argument}': leave out that, or the word '{word}'{folder}"
    ))
}

fn run(command: Command) -> Exit {
    match command {
        Command::Serve(args) => match crate::serve::run(*args) {
            Ok(()) => Exit::Success,
            Err(error) => {
                complain(&error.to_string());
                Exit::from(&error)
            }
        },
        Command::Agent(args) => with(args.format.json, |out, _| commands::agent::run(&args, out)),
        Command::Build(args) => with(args.format.json, |out, watch| commands::build::run(&args, out, watch)),
        Command::Builds(args) => with(args.format.json, |out, _| commands::builds::run(&args, out)),
        Command::Show(args) => with(args.format.json, |out, _| commands::show::run(&args, out)),
        Command::Set(args) => with(args.format.json, |out, watch| commands::set::run(&args, out, watch)),
        Command::Log(args) => with(false, |out, watch| commands::log::run(&args, out, watch)),
        Command::Events(args) => {
            with(args.format.json, |out, watch| commands::events::run(&args, out, watch))
        }
        Command::Cancel(args) => {
            with(args.format.json, |out, watch| commands::cancel::run(&args, out, watch))
        }
        Command::Fetch(args) => with(args.format.json, |out, watch| commands::fetch::run(&args, out, watch)),
        Command::Import(args) => {
            with(args.format.json, |out, watch| commands::import::import(&args, out, watch))
        }
        Command::Mirror(args) => with(args.format.json, |out, _| commands::import::mirror(&args, out)),
        Command::Derivation(DerivationCommand::Check(args)) => {
            with(args.format.json, |out, watch| commands::check::run(&args, out, watch))
        }
        Command::Hooks(args) => with(args.format.json, |out, _| commands::hooks::run(&args, out)),
        Command::Storage(args) => with(args.format.json, |out, _| commands::storage::run(&args, out)),
        Command::Retention(args) => {
            with(args.format.json, |out, watch| commands::retention::run(&args, out, watch))
        }
        Command::Sources(args) => {
            with(args.format.json, |out, watch| commands::sources::run(&args, out, watch))
        }
        Command::Key(args) => with(args.format.json, |out, _| commands::key::run(&args, out)),
    }
}

/// Runs a command, sees that all of its output is out, and says in a sentence what went wrong.
fn with(json: bool, command: impl FnOnce(&mut Out, &Progress) -> Result<Exit, ClientError>) -> Exit {
    let mut out = Out::standard(json);
    let progress = Progress::standard();
    let result = command(&mut out, &progress);
    crate::client::Watch::end(&progress);
    // What was printed before an error counts, too. That nobody reads it does not change how the command ended.
    let flushed = match out.flush() {
        Err(ClientError::OutputClosed) => Ok(()),
        flushed => flushed,
    };
    match result.and_then(|exit| flushed.map(|()| exit)) {
        Ok(exit) => exit,
        Err(error) => {
            if !matches!(error, ClientError::OutputClosed) {
                complain(&error.to_string());
            }
            Exit::from(&error)
        }
    }
}

fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "drover: {}", text::clean_lines(sentence));
}

#[cfg(test)]
mod tests;
