//! Items that are published, made up and written straight into a coordinator's database: what benches of serving ask for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use drover::database::narinfos;
use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::{Sha256Hash, StorePath, base32};

use crate::bench::Result;
use crate::random::Random;

/// A published item.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its path.
    pub path: StorePath,
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// What is sent of it.
    pub narinfo: String,
    /// The bytes of its compressed nar.
    pub file_size: u64,
}

/// So many items with about as many references each as those of Guix have, and real signatures.
///
/// # Errors
/// When there is no key.
pub fn items(count: usize, seed: u64) -> Result<Vec<Item>> {
    let key = SecretKey::from_bytes([7; 32])?;
    let mut random = Random::new(seed);
    let mut paths: Vec<StorePath> = Vec::with_capacity(count);
    let mut items = Vec::with_capacity(count);
    for n in 0..count {
        let hash: Vec<u8> = (0..3).flat_map(|_| random.number().to_le_bytes()).take(20).collect();
        let path = StorePath::parse_base(&format!("{}-package-{n}-1.{}", base32::encode(&hash), n % 10))?;
        let nar_hash = Sha256Hash::of(path.base_name().as_bytes());
        let references = (0..random.skewed(34).min(n)).map(|_| paths[random.skewed(paths.len())].clone());
        let mut references: Vec<StorePath> = references.collect();
        references.sort();
        references.dedup();
        let (nar_size, file_size) = (random.number() % (1 << 24), random.number() % (1 << 22));
        let mut info = NarInfo {
            urls: vec![Url {
                url: format!("nar/zstd/{}", path.base_name()),
                compression: "zstd".to_owned(),
                file_size: Some(file_size),
            }],
            nar_hash,
            nar_size,
            references,
            deriver: Some(StorePath::parse_base(&format!("{}.drv", path.base_name()))?),
            system: Some("x86_64-linux".to_owned()),
            signature: None,
            store_path: path.clone(),
        };
        info.sign("bench", &key);
        items.push(Item { nar_hash, narinfo: info.print(), file_size, path: path.clone() });
        paths.push(path);
    }
    Ok(items)
}

/// Publishes items in the database of a coordinator that does not run.
///
/// # Errors
/// When the `sqlite3` shell fails.
pub fn publish(database: &Path, items: &[Item]) -> Result<()> {
    let mut sql = "BEGIN;\n".to_owned();
    for item in items {
        let (base, nar_hash, size) = (item.path.base_name(), item.nar_hash.hex(), item.file_size);
        let narinfo = hex(&narinfos::pack(&item.narinfo));
        writeln!(sql, "INSERT INTO paths (base, provided) VALUES ('{base}', 1);")?;
        writeln!(
            sql,
            "INSERT INTO items (path, kind, nar_hash, nar_size, file_size, export_hash, added_at) \
             SELECT max(id), 'output', x'{nar_hash}', 0, {size}, x'{nar_hash}', 0 FROM paths;"
        )?;
        writeln!(
            sql,
            "INSERT INTO published (path, narinfo, published_at) SELECT max(id), x'{narinfo}', 0 FROM paths;"
        )?;
        writeln!(
            sql,
            "INSERT INTO files (item, compression, place, size, checked_at) SELECT max(id), 3, 1, {size}, 0 FROM paths;"
        )?;
    }
    sql.push_str("COMMIT;\n");
    let mut shell = Command::new("sqlite3");
    shell.arg("-batch").arg("-bail").arg(database).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut shell = shell.spawn()?;
    shell.stdin.take().ok_or("the shell does not listen")?.write_all(sql.as_bytes())?;
    if shell.wait()?.success() { Ok(()) } else { Err("the sqlite3 shell has failed".into()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
