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
fn a_line_may_be_as_long_as_a_row_may_be_and_not_longer() {
    let padded = |length: usize| {
        let bare = line("", None);
        line(&"x".repeat(1000), None) + &" ".repeat(length - bare.len() - 1000)
    };
    for (end, most) in [("\n", ROW_LIMIT), ("", ROW_LIMIT)] {
        assert_eq!(read(padded(most) + end).unwrap().count(), 1);
        assert!(refused(read(padded(most + 1) + end)).contains("row 1 of it: it has more than 65536 bytes"));
    }
}

#[test]
fn a_derivation_is_wanted_once_by_the_first_row_that_names_it() {
    let rows = read(format!("\n{}\n{}\n", line("a", None), line("a", Some("t")))).unwrap();
    assert_eq!((rows.count(), rows.wanted().len()), (2, 1));
    let error = rows.blame(&DRV["/gnu/store/".len()..], |_| "it is odd".to_owned()).unwrap();
    assert!(error.to_string().contains("row 2 of it: it is odd"), "{error}");
}

#[test]
fn a_row_that_is_cut_off_anywhere_is_said_to_be() {
    let whole = format!("{}\n{}", line("a", None), line("gr\u{f6}\u{df}er", Some("t")));
    let first = line("a", None).len() + 1;
    for end in first + 1..whole.len() {
        let error = refused(read(&whole.as_bytes()[..end]));
        assert!(error.contains("row 2") && error.contains("ends in the middle of it"), "{end}: {error}");
    }
    assert_eq!(read(&whole).unwrap().count(), 2);
    assert_eq!(read(&whole[..first]).unwrap().count(), 1);
}

#[test]
fn rows_for_another_system_or_target_are_about_something_else() {
    let other = line("b", None).replace(r#""system":"s""#, r#""system":"t""#);
    let rows = format!("{}\n{}\n{other}\n", line("a", None), line("b", Some("t")));
    assert_eq!(read(rows).unwrap().count(), 3);
    let error = refused(read(format!("{}\n{}\n", line("a", Some("t")), line("b", Some("t")))));
    assert!(error.contains("disagrees with row 1") && error.contains("the target t"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_kept_is_what_was_read(packages in prop::collection::btree_set("[a-z]{1,5}", 1..40)) {
        let lines: String = packages.iter().map(|p| line("hello", Some(p)) + "\n").collect();
        let rows = read(&lines).unwrap();
        prop_assert_eq!(rows.count(), packages.len() as u64);
        prop_assert_eq!(String::from_utf8(zstd::decode_all(rows.body()).unwrap()).unwrap(), lines);
    }
}
