//! A derivation, with what it needs and what needs it.

use std::sync::Arc;

use drover_store::StorePath;
use drover_store::derivation::Derivation;
use drover_wire::client::{BuildOutput, BuildSummary};
use rusqlite::{Connection, OptionalExtension};

use crate::farm::error::Error;
use crate::farm::list::{self, Phases};
use crate::farm::{Farm, intake, paths, show, unsql};

/// The most builds, derivations that need it, and sources that are named.
const BUILDS: i64 = 20;
const NEEDED_BY: i64 = 50;
const SOURCES: usize = 200;
/// The most inputs and variables that are named.
const NAMED: usize = 500;

/// A derivation.
#[derive(Debug, Clone)]
pub struct DerivationDetails {
    /// Its path.
    pub path: StorePath,
    /// Its system.
    pub system: String,
    /// Its builder.
    pub builder: String,
    /// How many arguments the builder gets.
    pub arguments: usize,
    /// Its environment: names, and the bytes of their values; the first of them.
    pub variables: Vec<(String, usize)>,
    /// How many variables there are.
    pub variables_count: usize,
    /// What fixes its output, if it does: `sha256:…`.
    pub fixed: Option<String>,
    /// Its outputs.
    pub outputs: Vec<BuildOutput>,
    /// The derivations whose outputs it takes; the first of them.
    pub inputs: Vec<InputDerivation>,
    /// How many there are.
    pub inputs_count: usize,
    /// Its sources, the first of them.
    pub sources: Vec<Source>,
    /// How many there are.
    pub sources_count: usize,
    /// Its builds, the newest first; the first of them.
    pub builds: Vec<BuildSummary>,
    /// Derivations that take its outputs, the first of them.
    pub needed_by: Vec<StorePath>,
    /// How many there are.
    pub needed_by_count: u64,
}

/// A derivation whose outputs another one takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDerivation {
    /// It.
    pub derivation: StorePath,
    /// The names of the outputs.
    pub outputs: Vec<String>,
    /// Whether nobody has one of these, and the builds that need it wait for it.
    pub missing: bool,
}

/// A source of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// It.
    pub path: StorePath,
    /// Whether it is here.
    pub held: bool,
}

impl Farm {
    /// A derivation. One of its outputs stands for it, too.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn derivation(self: &Arc<Self>, named: StorePath) -> Result<DerivationDetails, Error> {
        let live = Arc::clone(&self.live);
        self.database.read(move |sql| derivation(sql, &Phases::of(&live), &named)).await
    }
}

fn find(sql: &Connection, named: &StorePath) -> Result<i64, Error> {
    let found = paths::find(sql, named)?;
    let select = if named.is_derivation() {
        "SELECT id FROM derivations WHERE id = ?1"
    } else {
        "SELECT derivation FROM derivation_outputs WHERE path = ?1 ORDER BY derivation DESC LIMIT 1"
    };
    let found = match found {
        Some(id) => sql.prepare_cached(select)?.query_row([id], |row| row.get(0)).optional()?,
        None => None,
    };
    found.ok_or_else(|| Error::NotFound { what: "derivation", name: named.to_string() })
}

fn derivation(sql: &Connection, phases: &Phases, named: &StorePath) -> Result<DerivationDetails, Error> {
    let id = find(sql, named)?;
    let path = paths::path(sql, id)?;
    let text = intake::text(sql, &path)?;
    let parsed = Derivation::parse(&text)
        .map_err(|error| Error::Damaged(format!("the text of {path} is no derivation: {error}")))?;
    let builds = format!(
        "SELECT id FROM builds WHERE target = (SELECT target FROM derivations WHERE id = ?1) \
         ORDER BY id DESC LIMIT {BUILDS}"
    );
    let builds = paths::numbers(sql, &builds, id)?;
    let (needed_by, needed_by_count) = needed_by(sql, id)?;
    let fixed = parsed.fixed().map(|(_, fixed)| {
        let recursive = if fixed.recursive { "r:" } else { "" };
        format!("{recursive}{}:{}", fixed.algorithm, data_encoding::HEXLOWER.encode(&fixed.hash))
    });
    let inputs = parsed.inputs.iter().take(NAMED).map(|input| {
        let missing = is_missing(sql, &input.derivation, &input.outputs)?;
        Ok(InputDerivation { derivation: input.derivation.clone(), outputs: input.outputs.clone(), missing })
    });
    let sources = parsed.sources.iter().take(SOURCES).map(|path| {
        let held = match paths::find(sql, path)? {
            Some(id) => {
                sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1 AND kind = 'source'")?.exists([id])?
            }
            None => false,
        };
        Ok(Source { path: path.clone(), held })
    });
    Ok(DerivationDetails {
        path,
        builder: String::from_utf8_lossy(&parsed.builder).into_owned(),
        arguments: parsed.args.len(),
        variables: parsed
            .env
            .iter()
            .take(NAMED)
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.len()))
            .collect(),
        variables_count: parsed.env.len(),
        fixed,
        outputs: show::outputs(sql, id)?,
        inputs: inputs.collect::<Result<_, Error>>()?,
        inputs_count: parsed.inputs.len(),
        sources: sources.collect::<Result<_, Error>>()?,
        sources_count: parsed.sources.len(),
        builds: builds
            .into_iter()
            .map(|build| list::summary(sql, phases, build))
            .collect::<Result<_, _>>()?,
        needed_by,
        needed_by_count,
        system: parsed.system,
    })
}

/// Whether nobody has one of these outputs of a derivation.
fn is_missing(sql: &Connection, derivation: &StorePath, outputs: &[String]) -> Result<bool, Error> {
    let select = "SELECT o.name FROM paths d CROSS JOIN derivation_outputs o ON o.derivation = d.id \
                  CROSS JOIN paths p ON p.id = o.path WHERE d.base = ?1 AND p.provided = 0";
    let mut statement = sql.prepare_cached(select)?;
    let mut rows = statement.query([derivation.base_name()])?;
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        if outputs.iter().any(|output| output == name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn needed_by(sql: &Connection, id: i64) -> Result<(Vec<StorePath>, u64), Error> {
    const OF: &str = "FROM derivation_outputs o \
         CROSS JOIN derivation_inputs i ON i.output = o.path AND i.maker = o.derivation WHERE o.derivation = ?1";
    let count = format!("SELECT count(DISTINCT i.derivation) {OF}");
    let count: i64 = sql.prepare_cached(&count)?.query_row([id], |row| row.get(0))?;
    let some = format!(
        "SELECT p.base FROM (SELECT DISTINCT i.derivation AS needs {OF} LIMIT {NEEDED_BY}) \
         CROSS JOIN paths p ON p.id = needs ORDER BY substr(p.base, 34)"
    );
    Ok((paths::bases(sql, &some, id)?, unsql(count)))
}
