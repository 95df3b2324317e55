//! Where options come from: the command line and a file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use lexopt::Arg;

use super::{ConfigError, Place};
use crate::options::{self, Definition};

/// A configuration file is read whole; more than this is none.
const FILE_LIMIT: u64 = 1 << 20;

/// An option with its value, as somebody gave it.
pub(super) struct Given {
    pub(super) option: &'static Definition,
    pub(super) value: String,
    pub(super) place: Place,
}

/// What the command line says.
pub(super) enum CommandLine {
    /// To print this.
    Print(String),
    /// To work, with these.
    Options(Line),
}

/// The options of a command line.
pub(super) struct Line {
    pub(super) given: Vec<Given>,
    pub(super) config: Option<PathBuf>,
}

pub(super) fn command_line(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<CommandLine, ConfigError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut line = Line { given: Vec::new(), config: None };
    let place = Place::Nowhere;
    while let Some(argument) = parser.next().map_err(|error| place.error(error.to_string()))? {
        let name = match argument {
            Arg::Long(name) => name.to_owned(),
            Arg::Short(letter) => return Err(unknown(&Place::Nowhere, &format!("-{letter}"))),
            Arg::Value(value) => {
                let reason = format!("“{}” is not an option; see --help", value.to_string_lossy());
                return Err(Place::Nowhere.error(reason));
            }
        };
        let place = Place::Option(name.clone());
        match name.as_str() {
            "help" => return Ok(CommandLine::Print(options::help())),
            "version" => {
                return Ok(CommandLine::Print(format!("drover-agent {}\n", env!("CARGO_PKG_VERSION"))));
            }
            "config" => {
                if line.config.is_some() {
                    return Err(place.error("given twice"));
                }
                line.config = Some(value(&mut parser, &place)?.into());
            }
            _ => {
                let Some(option) = options::find(&name) else {
                    return Err(unknown(&Place::Nowhere, &format!("--{name}")));
                };
                let given = if option.switch {
                    parser.optional_value().unwrap_or_else(|| "true".into())
                } else {
                    value(&mut parser, &place)?
                };
                let given = given.into_string().map_err(|_| place.error("its value is not UTF-8"))?;
                line.given.push(Given { option, value: given, place });
            }
        }
    }
    Ok(CommandLine::Options(line))
}

fn value(parser: &mut lexopt::Parser, place: &Place) -> Result<OsString, ConfigError> {
    parser.value().map_err(|_| place.error("needs a value; see --help"))
}

fn unknown(place: &Place, name: &str) -> ConfigError {
    place.error(format!("there is no option {name}; see --help"))
}

/// Reads `name = value` lines; empty ones and those that begin with `#` say nothing.
pub(super) fn file(path: &Path, named_by: &Place) -> Result<Vec<Given>, ConfigError> {
    let unreadable = |reason: String| named_by.error(format!("cannot read {}: {reason}", path.display()));
    let size = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_LIMIT {
        return Err(unreadable(format!("{size} bytes are no configuration")));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let mut given = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let place = Place::Line { file: path.to_owned(), line: index + 1 };
        let line = std::str::from_utf8(line).map_err(|_| place.error("this line is not UTF-8"))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(place.error(format!("“{line}” is not of the form “name = value”")));
        };
        let (name, value) = (name.trim(), value.trim());
        let Some(option) = options::find(name) else {
            return Err(unknown(&place, name));
        };
        given.push(Given { option, value: value.to_owned(), place });
    }
    Ok(given)
}

/// What counts: of each group what the command line says, else what the file says.
pub(super) fn merge(line: Vec<Given>, file: Vec<Given>) -> Result<Vec<Given>, ConfigError> {
    for given in [&line, &file] {
        for (index, later) in given.iter().enumerate() {
            let same_group = |earlier: &&Given| earlier.option.group == later.option.group;
            let Some(earlier) = given[..index].iter().find(same_group) else { continue };
            if earlier.option.name != later.option.name {
                let reason =
                    format!("{} and {} cannot both be given", earlier.option.name, later.option.name);
                return Err(later.place.error(reason));
            }
            if !later.option.repeatable {
                return Err(later.place.error(format!("{} is given twice", later.option.name)));
            }
        }
    }
    let mut merged = line;
    let said: Vec<&str> = merged.iter().map(|given| given.option.group).collect();
    let rest: Vec<Given> = file.into_iter().filter(|given| !said.contains(&given.option.group)).collect();
    merged.extend(rest);
    Ok(merged)
}
