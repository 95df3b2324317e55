//! `exportReferencesGraph`: what store items refer to, written into files for the builder.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use drover_store::path::{self, StorePath};
use drover_store::{STORE_DIR, derivation::Derivation};

use super::environment::words;
use super::plan;
use super::root::write_file;
use crate::executor::Error;
use crate::store::Store;

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum GraphError {
    /// The derivation asks for something that does not exist: the build fails.
    #[error("{0}")]
    Derivation(String),
    /// The machine's fault.
    #[error(transparent)]
    Step(#[from] Error),
}

/// A file to write, and the item whose closure it describes.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    file: String,
    item: StorePath,
}

/// Writes every graph that the derivation asks for into the build folder.
pub(super) fn write(store: &Store, derivation: &Derivation, folder: &Path) -> Result<(), GraphError> {
    let Some(list) = derivation.env(b"exportReferencesGraph") else { return Ok(()) };
    for Wanted { file, item } in parse(list)? {
        if !store.has(&item) {
            return Err(GraphError::Derivation(format!(
                "exportReferencesGraph names {item}, which is not in the store"
            )));
        }
        let text = describe(store, &closure(store, &item)?)?;
        write_file(&folder.join(&file), text.as_bytes()).map_err(|e| {
            Error::refused(format!("write the references of {item} for the builder: {e}"), &e)
        })?;
    }
    Ok(())
}

fn parse(list: &[u8]) -> Result<Vec<Wanted>, GraphError> {
    let text = std::str::from_utf8(list).map_err(|_| wrong("is not text"))?;
    let words: Vec<&str> = words(text.as_bytes()).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let pairs = words.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(wrong("is not pairs of a file and a store path"));
    }
    pairs
        .filter_map(|pair| <[&str; 2]>::try_from(pair).ok())
        .map(|[file, item]| {
            path::check_name(file)
                .map_err(|error| wrong(&format!("names a file that cannot be: {error}")))?;
            Ok(Wanted { file: file.to_owned(), item: item_of(item)? })
        })
        .collect()
}

/// The item that a path is, or is in.
fn item_of(full: &str) -> Result<StorePath, GraphError> {
    let rest = full.strip_prefix(STORE_DIR).and_then(|rest| rest.strip_prefix('/'));
    let base = rest.map(|rest| rest.split('/').next().unwrap_or(rest));
    base.and_then(|base| StorePath::parse_base(base).ok())
        .ok_or_else(|| wrong(&format!("names {full}, which is not in the store")))
}

fn wrong(what: &str) -> GraphError {
    GraphError::Derivation(format!("the derivation's exportReferencesGraph {what}"))
}

/// The closure of an item; with a derivation in it, also the closures of what that builds, which must be there.
fn closure(store: &Store, item: &StorePath) -> Result<BTreeSet<StorePath>, GraphError> {
    let mut all: BTreeSet<StorePath> =
        store.closure(std::slice::from_ref(item)).map_err(Error::from)?.into_iter().collect();
    let derivations: Vec<StorePath> = all.iter().filter(|path| path.is_derivation()).cloned().collect();
    for derivation in &derivations {
        for output in plan::read(store, derivation)?.outputs {
            if all.contains(&output.path) {
                continue;
            }
            if !store.has(&output.path) {
                return Err(GraphError::Derivation(format!(
                    "exportReferencesGraph names {item}, which refers to {derivation}, whose output {} is not in the store",
                    output.path
                )));
            }
            all.extend(store.closure(std::slice::from_ref(&output.path)).map_err(Error::from)?);
        }
    }
    Ok(all)
}

/// For each item its path, a line for who made it, which stays empty, how many items it refers to, and these.
fn describe(store: &Store, items: &BTreeSet<StorePath>) -> Result<String, Error> {
    let mut text = String::new();
    for path in items {
        let item = store.item(path)?;
        let mut references = item.map(|item| item.references).unwrap_or_default();
        references.sort_unstable();
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{path}\n\n{}", references.len());
        for reference in references {
            let _ = writeln!(text, "{reference}");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use drover_store::derivation::Output;

    use super::*;

    const BASE: &str = "00a3xasf5iyzfv23danwy7pilf2yyxjz-x";

    #[test]
    fn pairs_of_file_and_item_are_read_and_anything_else_is_refused() {
        let item = StorePath::parse_base(BASE).unwrap();
        let list = format!("graph /gnu/store/{BASE}\n other\t/gnu/store/{BASE}/bin/sh ");
        let wanted = |file: &str| Wanted { file: file.into(), item: item.clone() };
        assert_eq!(parse(list.as_bytes()).unwrap(), [wanted("graph"), wanted("other")]);
        assert_eq!(parse(b" ").unwrap(), []);
        for list in [
            "graph",
            "graph /etc/passwd",
            "../graph /gnu/store/x",
            &format!("../x /gnu/store/{BASE}"),
            "a /gnu/store/",
        ] {
            assert!(matches!(parse(list.as_bytes()), Err(GraphError::Derivation(_))), "{list}");
        }
    }

    #[test]
    fn an_absent_output_of_a_derivation_that_is_named_is_the_derivations_fault() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("root"), &folder.path().join("roots")).unwrap();
        let out = path::text("out", b"", &[]).unwrap();
        let mut derivation = Derivation {
            outputs: vec![Output { name: "out".into(), path: out.clone(), fixed: None }],
            inputs: Vec::new(),
            sources: Vec::new(),
            system: "riscv64-linux".into(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: Vec::new(),
        };
        let text = derivation.print();
        let named = path::text("named.drv", &text, &[]).unwrap();
        store.add_text(&named, &text, &[]).unwrap();
        derivation.env = vec![(b"exportReferencesGraph".to_vec(), format!("graph {named}").into_bytes())];
        let error = write(&store, &derivation, folder.path()).unwrap_err();
        assert!(matches!(&error, GraphError::Derivation(why) if why.contains(out.as_str())), "{error:?}");
        store.add_text(&out, b"", &[]).unwrap();
        write(&store, &derivation, folder.path()).unwrap();
    }
}
