//! What is taken as rows, and what is kept of them.

use proptest::prelude::*;

use super::*;
use crate::client::Nobody;

const DRV: &str = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello-2.12.2.drv";

fn read(text: impl AsRef<[u8]>) -> Result<Rows, ClientError> {
    Rows::read(text.as_ref(), "it", &Nobody)
}

fn line(package: &str, target: Option<&str>) -> String {
    let target = target.map(|target| format!(r#","target":"{target}""#)).unwrap_or_default();
    format!(r#"{{"derivation":"{DRV}","package":"{package}","version":"1","system":"s"{target}}}"#)
}

#[track_caller]
fn refused(result: Result<Rows, ClientError>) -> String {
    match result {
        Ok(rows) => panic!("{} rows were taken", rows.count()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn one_row_too_many_is_refused_by_its_number_and_not_before() {
    let limits = Limits { rows: 2, ..LIMITS };
    let rows = |targets: &[&str]| targets.iter().map(|t| line("a", Some(t)) + "\n").collect::<String>();
    assert_eq!(Rows::read_within(limits, rows(&["a", "b"]).as_bytes(), "it", &Nobody).unwrap().count(), 2);
    let error = refused(Rows::read_within(limits, rows(&["a", "b", "c"]).as_bytes(), "it", &Nobody));
    assert!(error.contains("row 3 of it: a revision has at most 2 rows"), "{error}");
}

#[test]
fn rows_that_do_not_compress_end_before_memory_does() {
    let noise = |n: u64| drover_store::Sha256Hash::of(&n.to_le_bytes()).to_string();
    let rows: String = (0..2000).map(|n| line("a", Some(&noise(n))) + "\n").collect();
    let limits = Limits { bytes: 20_000, ..LIMITS };
    let error = refused(Rows::read_within(limits, rows.as_bytes(), "it", &Nobody));
    assert!(error.contains("the rows in it are too large"), "{error}");
}

#[test]
fn a_derivation_is_wanted_once_by_the_first_row_that_names_it() {
    let rows = read(format!("\n{}\n{}\n", line("a", None), line("a", Some("t")))).unwrap();
    assert_eq!((rows.count(), rows.wanted().len()), (2, 1));
    let error = rows.blame(&DRV["/gnu/store/".len()..], |_| "it is odd".to_owned()).unwrap();
    assert!(error.to_string().contains("row 2 of it: it is odd"), "{error}");
}

proptest! {
    #[test]
    fn what_is_kept_is_what_was_read(packages in prop::collection::btree_set("[a-z]{1,5}", 1..40)) {
        let lines: String = packages.iter().map(|p| "\n".repeat(p.len()) + &line("hello", Some(p)) + "\n").collect();
        let rows = read(&lines).unwrap();
        prop_assert_eq!(rows.count(), packages.len() as u64);
        prop_assert_eq!(String::from_utf8(zstd::decode_all(rows.body()).unwrap()).unwrap(), lines);
    }
}
