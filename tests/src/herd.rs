//! A coordinator's database with as many published items as one likes: a plausible graph, the same for the same count.
//!
//! Items come in generations, as the packages of one revision of Guix do: they refer to earlier ones of their
//! generation, those at its bottom most often, and to what all generations have in common. Every second generation is
//! what sets want, with the derivations that made it, what was needed for that, and builds. Files of nars are not made,
//! only their rows; signatures are numbers that nobody checked.

use std::path::Path;

use drover::database::{makers, narinfos};
use drover_store::Sha256Hash;
use drover_store::base32;
use drover_store::key::SecretKey;
use rusqlite::Connection;

use crate::bench::Result;
use crate::random::Random;

/// Which herd this is: another number for another one.
pub const VERSION: u32 = 2;
const SEED: u64 = 20_261_124;
/// The items of a generation, and how many are common to all.
const GENERATION: usize = 30_000;
const COMMON: usize = 2_000;
/// What an item refers to on average.
const REFERENCES: f64 = 11.0;
/// One in so many refers to thousands.
const LARGE_EVERY: usize = 10_000;
/// The most inputs of a derivation that its output refers to.
const INPUTS: usize = 20;
/// In a generation with derivations, one item in so many is a source, and one is a fixed output.
const SOURCE_EVERY: usize = 50;
const FIXED_EVERY: usize = 20;
/// One derivation in so many has a build that is still open, and one has one that succeeded.
const OPEN_EVERY: usize = 2_000;
const BUILT_EVERY: usize = 4;
/// When they came, in milliseconds: long ago.
const ADDED_AT: i64 = 1_760_000_000_000;

const NAMES: [&str; 16] = [
    "python-requests-2.32.3",
    "perl-test-simple-1.302199",
    "r-biocgenerics-0.52.0",
    "rust-serde-derive-1.0.219",
    "emacs-magit-4.3.8",
    "texlive-latex-base-2024.2",
    "ghc-aeson-2.2.3.0",
    "libreoffice-25.2.5.2",
    "glib-2.83.3-bin",
    "go-golang-org-x-crypto-0.40.0",
    "module-import-compiled",
    "kcoreaddons-6.17.0",
    "ocaml-dune-3.19.1",
    "qtbase-6.9.2",
    "gcc-toolchain-15.2.0-static",
    "java-commons-lang-3.12.0",
];

/// The items: their base names and what each refers to.
struct Herd {
    random: Random,
    names: Vec<String>,
}

impl Herd {
    fn new(count: usize) -> Self {
        let mut random = Random::new(SEED);
        let names = (0..count)
            .map(|n| {
                let mut hash = [0; 20];
                for bytes in hash.chunks_mut(8) {
                    let number = random.number().to_le_bytes();
                    bytes.copy_from_slice(&number[..bytes.len()]);
                }
                format!("{}-{}", base32::encode(&hash), NAMES[n % NAMES.len()])
            })
            .collect();
        Self { random, names }
    }

    /// What an item refers to, sorted; all that is asked for in order is the same each time.
    fn references(&mut self, item: usize) -> Vec<usize> {
        let start = item - item % GENERATION;
        let own = item - start;
        let many = item % LARGE_EVERY == LARGE_EVERY - 1;
        let count = if many { 1_000 + self.random.number() % 3_000 } else { self.random.number() % 23 };
        let mut found: Vec<usize> = (0..count)
            .map(|n| match own {
                0 => item,
                _ if n % 10 == 9 => self.random.skewed(COMMON.min(item + 1)),
                _ => start + self.random.skewed(own + 1),
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn numbers<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.random.number().to_le_bytes()[..part.len()]);
        }
        bytes
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody knows what made it.
    Alone,
    Source,
    Fixed,
    /// The output of a derivation.
    Made,
}

fn kind(item: usize) -> Kind {
    let (generation, own) = (item / GENERATION, item % GENERATION);
    match generation % 2 {
        1 => Kind::Alone,
        _ if own % SOURCE_EVERY == SOURCE_EVERY - 2 => Kind::Source,
        _ if own % FIXED_EVERY == FIXED_EVERY - 4 => Kind::Fixed,
        _ => Kind::Made,
    }
}

fn has_derivation(item: usize) -> bool {
    matches!(kind(item), Kind::Fixed | Kind::Made)
}

/// Whether a set wants an item.
fn is_wanted(item: usize) -> bool {
    kind(item) == Kind::Made && item % 2 == 1
}

/// What is below a derivation: items with derivations, and a source.
fn needed(item: usize, references: &[usize]) -> (Vec<usize>, Option<usize>) {
    if kind(item) != Kind::Made {
        return (Vec::new(), None);
    }
    let start = item - item % GENERATION;
    let near = |every: usize, place: usize| {
        let near = (item - item % every + place).checked_sub(every)?;
        (near >= start).then_some(near)
    };
    let mut inputs: Vec<usize> = references
        .iter()
        .copied()
        .filter(|input| *input < item && has_derivation(*input))
        .take(INPUTS)
        .collect();
    inputs.extend(near(FIXED_EVERY, FIXED_EVERY - 4).filter(|fixed| kind(*fixed) == Kind::Fixed));
    inputs.sort_unstable();
    inputs.dedup();
    (inputs, near(SOURCE_EVERY, SOURCE_EVERY - 2).filter(|source| kind(*source) == Kind::Source))
}

/// The number of a path in the database.
fn number(item: usize) -> i64 {
    item as i64 + 1
}

/// Fills the fresh database of a coordinator that does not run.
///
/// # Errors
/// When it is no such database, or the disk refuses.
pub fn fill(database: &Path, count: usize) -> Result<()> {
    let mut sql = Connection::open(database)?;
    for (pragma, value) in [("journal_mode", "off"), ("synchronous", "off"), ("cache_size", "-1000000")] {
        sql.pragma_update(None, pragma, value)?;
    }
    let used: i64 = sql.query_row("SELECT count(*) FROM paths", [], |row| row.get(0))?;
    if used != 0 {
        return Err("the database is not fresh".into());
    }
    let mut herd = Herd::new(count);
    let tx = sql.transaction()?;
    fill_paths(&tx, &herd)?;
    fill_items(&tx, &mut herd)?;
    fill_sets(&tx, &herd)?;
    tx.commit()?;
    sql.pragma_update(None, "journal_mode", "wal")?;
    Ok(())
}

fn fill_paths(sql: &Connection, herd: &Herd) -> Result<()> {
    let mut insert = sql.prepare("INSERT INTO paths (id, base, provided) VALUES (?1, ?2, ?3)")?;
    for (item, name) in herd.names.iter().enumerate() {
        insert.execute((number(item), name, 1))?;
    }
    for (item, name) in herd.names.iter().enumerate().filter(|(item, _)| has_derivation(*item)) {
        insert.execute((deriver(herd, item), derivation_name(name), 0))?;
    }
    Ok(())
}

fn deriver(herd: &Herd, item: usize) -> i64 {
    number(herd.names.len() + item)
}

/// The same hash the other way round: as good as any.
fn derivation_name(name: &str) -> String {
    let (hash, name) = name.split_at(32);
    format!("{}{name}.drv", hash.chars().rev().collect::<String>())
}

fn fill_items(sql: &Connection, herd: &mut Herd) -> Result<()> {
    let key: i64 = sql.query_row("SELECT min(id) FROM keys", [], |row| row.get(0))?;
    let public = SecretKey::generate()?.public().to_text();
    let public = public.split('#').nth(1).ok_or("a key without a number")?.to_owned();
    let mut item_insert = sql.prepare(
        "INSERT INTO items (path, kind, nar_hash, nar_size, file_size, deriver, export_hash, added_at) \
         VALUES (?1, ?8, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut reference_insert = sql.prepare("INSERT INTO item_references VALUES (?1, ?2)")?;
    let mut file_insert = sql.prepare(
        "INSERT INTO files (item, compression, place, size, checked_at) VALUES (?1, 3, 1, ?2, ?3)",
    )?;
    let mut publish =
        sql.prepare("INSERT INTO published (path, narinfo, key, published_at) VALUES (?1, ?2, ?3, ?4)")?;
    let mut derivation_insert = sql.prepare(
        "INSERT INTO derivations (id, system, platform, target, modulo, lacking, makers) \
         VALUES (?1, 1, 1, ?2, ?3, 0, ?4)",
    )?;
    let mut output_insert = sql.prepare("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)")?;
    let mut input_insert = sql.prepare("INSERT INTO derivation_inputs VALUES (?1, ?2, ?3)")?;
    let mut source_insert = sql.prepare("INSERT INTO derivation_sources VALUES (?1, ?2)")?;
    let mut fixed_insert = sql.prepare("INSERT INTO fixed_outputs VALUES (?1, 'sha256', 0, ?2)")?;
    let mut build_insert = sql.prepare(
        "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at, ended_at) \
         VALUES (?1, ?2, ?3, 1, ?4, 0, 0, ?5, ?6)",
    )?;
    sql.execute("INSERT INTO platforms (id, name) VALUES (1, 'x86_64-linux')", [])?;
    let mut count = 0;
    for item in 0..herd.names.len() {
        let mut references = herd.references(item);
        if kind(item) == Kind::Source {
            references.clear();
        }
        count += references.len();
        let nar_hash: [u8; 32] = herd.numbers();
        let nar_size = 2_000 + herd.random.number() % 9_000_000;
        let file_size = nar_size / 4;
        let id = number(item);
        let from = has_derivation(item).then(|| deriver(herd, item));
        let export_hash: [u8; 32] = herd.numbers();
        item_insert.execute((
            id,
            nar_hash,
            nar_size as i64,
            file_size as i64,
            from,
            export_hash,
            ADDED_AT,
            if kind(item) == Kind::Source { "source" } else { "output" },
        ))?;
        for reference in &references {
            reference_insert.execute([id, number(*reference)])?;
        }
        file_insert.execute((id, file_size as i64, ADDED_AT))?;
        let signature: [u8; 96] = herd.numbers();
        let text = narinfo(herd, item, &references, (nar_hash, nar_size, file_size), &signature, &public);
        publish.execute((id, narinfos::pack(&text), key, ADDED_AT))?;
        if let Some(from) = from {
            let (inputs, source) = needed(item, &references);
            let below = makers::encode(inputs.iter().map(|input| deriver(herd, *input)).collect());
            derivation_insert.execute((from, id, nar_hash, below))?;
            output_insert.execute((from, id))?;
            for input in inputs {
                input_insert.execute((from, number(input), deriver(herd, input)))?;
            }
            if let Some(source) = source {
                source_insert.execute((from, number(source)))?;
            }
            if kind(item) == Kind::Fixed {
                fixed_insert.execute((id, nar_hash))?;
            }
            let state = match item {
                _ if item % OPEN_EVERY == 1 => Some(("ready", None)),
                _ if item % BUILT_EVERY == 1 => Some(("succeeded", Some(ADDED_AT))),
                _ => None,
            };
            if let Some((state, ended_at)) = state {
                build_insert.execute((&nar_hash[..16], from, id, state, ADDED_AT, ended_at))?;
            }
        }
    }
    let average = count as f64 / herd.names.len() as f64;
    println!("{average:.2} references each on average");
    if (average - REFERENCES).abs() > 0.5 {
        return Err(format!("it should be {REFERENCES} references on average").into());
    }
    Ok(())
}

/// The text, as the coordinator would write it.
fn narinfo(
    herd: &Herd,
    item: usize,
    references: &[usize],
    (nar_hash, nar_size, file_size): ([u8; 32], u64, u64),
    signature: &[u8; 96],
    public: &str,
) -> String {
    let base = &herd.names[item];
    let references: Vec<&str> = references.iter().map(|item| herd.names[*item].as_str()).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let (hash, rest) = signature.split_at(32);
    let (r, s) = rest.split_at(32);
    let signature = format!(
        "(signature (data (flags rfc6979) (hash sha256 #{}#)) (sig-val (ecdsa (r #{}#) (s #{}#))) \
         (public-key (ecc (curve Ed25519) (q #{public}#))))",
        hex(hash),
        hex(r),
        hex(s)
    );
    format!(
        "StorePath: /gnu/store/{base}\nNarHash: sha256:{}\nNarSize: {nar_size}\nReferences: {}\nDeriver: {}\n\
         System: x86_64-linux\nSignature: 1;farm;{}\nURL: nar/zstd/{base}\nCompression: zstd\nFileSize: {file_size}\n",
        Sha256Hash::from_bytes(nar_hash).base32(),
        references.join(" "),
        derivation_name(base),
        crate::http::base64(signature.as_bytes())
    )
}

/// A set for every second generation; what was needed to build it is kept of half of these.
fn fill_sets(sql: &Connection, herd: &Herd) -> Result<()> {
    let mut set = sql.prepare("INSERT INTO sets (id, name, keep, current) VALUES (?1, ?2, 0, ?1)")?;
    let mut revision = sql.prepare(
        "INSERT INTO revisions (id, in_set, name, submitted_at, rows) VALUES (?1, ?1, 'r', ?2, ?3)",
    )?;
    let mut row = sql.prepare(
        "INSERT INTO set_rows (in_set, last, digest, first, derivation, target, package, version, system, priority, \
         publish, wanting) VALUES (?1, 9223372036854775807, ?2, ?1, ?3, ?4, 'package', '1', 'x86_64-linux', 0, 1, 1)",
    )?;
    for generation in (0..herd.names.len().div_ceil(GENERATION)).step_by(2) {
        let id = generation as i64 + 1;
        let all = generation * GENERATION..((generation + 1) * GENERATION).min(herd.names.len());
        let wanted = all.filter(|item| is_wanted(*item));
        let name = if generation % 4 == 0 { "inputs" } else { "kept" };
        set.execute((id, format!("{name}-{id}")))?;
        let mut rows = 0;
        for item in wanted {
            let digest = Sha256Hash::of(&item.to_le_bytes());
            row.execute((id, digest.as_bytes(), deriver(herd, item), number(item)))?;
            rows += 1;
        }
        revision.execute((id, ADDED_AT, rows))?;
    }
    Ok(())
}

/// What is being removed from the database of a coordinator that does not run is due.
///
/// # Errors
/// When the database cannot be written.
pub fn all_is_due(database: &Path) -> Result<()> {
    let sql = Connection::open(database)?;
    sql.execute("UPDATE removals SET due = 0", [])?;
    Ok(())
}

/// The hash part of the name of some item, as one asks for its narinfo.
///
/// # Errors
/// When the database cannot be read.
pub fn keys(database: &Path, count: usize) -> Result<Vec<String>> {
    let sql = Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let most: i64 = sql.query_row("SELECT max(path) FROM items", [], |row| row.get(0))?;
    let mut random = Random::new(SEED + 1);
    let mut select = sql.prepare("SELECT substr(base, 1, 32) FROM paths WHERE id = ?1")?;
    let one = |_| {
        let id = 1 + (random.number() % most as u64) as i64;
        Ok(select.query_row([id], |row| row.get(0))?)
    };
    (0..count).map(one).collect()
}

/// The bytes of each table and index, the largest first, by the pages that they take.
///
/// # Errors
/// When the database cannot be read.
pub fn sizes(database: &Path) -> Result<Vec<(String, u64)>> {
    let sql = Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut select = sql.prepare(
        "SELECT name, sum(pgsize) FROM dbstat WHERE aggregate = TRUE GROUP BY name ORDER BY 2 DESC",
    )?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
