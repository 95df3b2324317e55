//! What a nar-herder has: narinfos in its database, and nars below its storage folder.

use rusqlite::Connection;

use super::rows::{Cursor, Kind};
use super::*;

/// As nar-herder/database.scm makes it.
const TABLES: &str = "
    CREATE TABLE narinfos (id INTEGER PRIMARY KEY ASC, store_path TEXT, nar_hash TEXT, nar_size INTEGER, deriver TEXT,
                           system TEXT, contents NOT NULL, added_at TEXT);
    CREATE TABLE narinfo_files (narinfo_id INTEGER, size INTEGER, compression TEXT, url TEXT);
    CREATE TABLE narinfo_references (store_path TEXT, narinfo_id INTEGER);";
/// Of which it has the first.
const INDICES: [&str; 3] = [
    "CREATE UNIQUE INDEX narinfos_store_hash ON narinfos (substr(store_path, 12, 32));",
    "CREATE UNIQUE INDEX narinfos_store_path ON narinfos (store_path);",
    "",
];

struct Herder {
    sql: Connection,
    file: String,
    _dir: tempfile::TempDir,
}

impl Herder {
    fn new(index: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nar herder?.db");
        let sql = Connection::open(&file).unwrap();
        sql.pragma_update(None, "journal_mode", "wal").unwrap();
        sql.execute_batch(TABLES).unwrap();
        sql.execute_batch(index).unwrap();
        Self { sql, file: file.to_str().unwrap().to_owned(), _dir: dir }
    }

    /// Has an item, and its lzip file in the folder.
    fn has(&self, ground: &Ground, made: &Made) {
        let bytes = packed(Compression::Lzip, &made.nar);
        let base = made.info.store_path.base_name();
        ground.write(&format!("nar/lzip/{base}"), &bytes);
        let mut info = made.info.clone();
        let url = format!("nar/lzip/{}", base.replace('-', "%2D"));
        info.urls = vec![Url { url, compression: "lzip".into(), file_size: Some(bytes.len() as u64) }];
        info.sign("elsewhere", &ground.key);
        let insert = "INSERT INTO narinfos (store_path, contents) VALUES (?1, ?2)";
        self.sql.execute(insert, (made.info.store_path.as_str(), info.print())).unwrap();
    }

    fn of(&self, new: NewImport) -> NewImport {
        NewImport { herder: Some(self.file.clone()), ..new }
    }
}

#[test]
fn what_a_nar_herder_has_is_used_where_it_lies_or_copied_whatever_its_database_has_an_index_for() {
    for index in INDICES {
        let ground = Ground::new();
        let herder = Herder::new(index);
        let below = made("below", &[]);
        let all: Vec<Made> = (0..120).map(|n| made(&format!("item-{n}"), &[&below])).collect();
        // What refers to something comes before it.
        for made in all.iter().chain([&below]) {
            herder.has(&ground, made);
        }
        let copied = ground
            .import(NewImport { paths: vec![all[0].info.store_path.clone()], ..herder.of(ground.terms()) });
        assert_eq!((copied.summary.taken, copied.summary.refused), (2, 0), "{copied:?}");
        let import = ground.import(herder.of(ground.in_place()));
        assert_eq!(import.refusals, []);
        let summary = &import.summary;
        assert_eq!((summary.state, summary.taken, summary.known), (ImportState::Done, 119, 2), "{import:?}");
        assert!(all.iter().all(|made| ground.is_published(made)));
        ground.read_all();
        assert!(all.iter().all(|made| ground.is_published(made) && !ground.is_unread(made)));
        let cursor = ground.farm.database.read_blocking(|sql| rows::cursor(sql, sql_id(&import))).unwrap();
        assert_eq!(cursor, Cursor::at(Kind::Kept, 121));
    }
}

fn sql_id(import: &ImportDetails) -> i64 {
    sql(import.summary.import)
}

#[test]
fn an_import_from_a_nar_herder_goes_on_where_it_was() {
    let ground = Ground::new();
    let herder = Herder::new(INDICES[0]);
    let [first, last] = ["first", "last"].map(|name| made(name, &[]));
    herder.has(&ground, &first);
    herder.has(&ground, &last);
    let id = ground.begin(herder.of(ground.in_place()));
    let reached = move |tx: &mut Tx<'_>| rows::advance(tx, id, Cursor::at(Kind::Kept, 1), 0);
    ground.farm.database.write_blocking::<_, Error>(reached).unwrap();
    ground.go_on(id, &ground.halt());
    assert!(ground.is_published(&last) && !ground.is_held(&first));
}

#[test]
fn what_is_wrong_with_a_nar_herder_is_said() {
    let ground = Ground::new();
    let of = |herder: &Herder| {
        let import = ground.import(herder.of(ground.in_place()));
        assert_eq!(import.summary.state, ImportState::Failed, "{import:?}");
        import.summary.error.unwrap()
    };
    let herder = Herder::new("");
    let is = |why: String, wanted: &str| assert!(why.contains(wanted), "{why}");
    is(of(&herder), "there is no narinfo in");
    herder.sql.execute_batch("ALTER TABLE narinfos RENAME COLUMN contents TO text").unwrap();
    is(of(&herder), "no column “contents”");
    herder.sql.execute_batch("DROP TABLE narinfos").unwrap();
    is(of(&herder), "no table “narinfos”");
    ground.write("text", b"no database, and long enough to be seen to be none");
    let file = ground.folder.path().join("text").to_str().unwrap().to_owned();
    let import = ground.import(NewImport { herder: Some(file), ..ground.in_place() });
    is(import.summary.error.unwrap(), "cannot read the nar-herder's database");
    let import = ground.import(ground.in_place());
    assert_eq!(import.summary.state, ImportState::Failed);
    is(import.summary.error.unwrap(), "--herder");
    let new = herder.of(ground.terms());
    assert!(check(NewImport { source: "http://farm".into(), ..new.clone() }).is_err());
    assert!(check(NewImport { herder: Some("relative.db".into()), ..new.clone() }).is_err());
    assert!(check(NewImport { herder: Some("/no/such/file".into()), ..new }).is_err());
}

#[test]
fn rows_that_cannot_be_right_are_refused_and_the_others_taken() {
    let ground = Ground::new();
    let herder = Herder::new(INDICES[0]);
    let insert = "INSERT INTO narinfos (store_path, contents) VALUES (?1, ?2)";
    for (n, path) in [None, Some("/etc/passwd"), Some(item("odd").as_str())].into_iter().enumerate() {
        herder.sql.execute(insert, (path, vec![b'x'; n])).unwrap();
    }
    let (gone, good) = (made("gone", &[]), made("good", &[]));
    herder.has(&ground, &gone);
    std::fs::remove_file(ground.folder.path().join("nar/lzip").join(gone.info.store_path.base_name()))
        .unwrap();
    herder.has(&ground, &good);
    let import = ground.import(herder.of(ground.in_place()));
    assert_eq!(import.summary.state, ImportState::Done);
    assert_eq!((import.summary.taken, import.summary.refused), (1, 4), "{import:?}");
    assert!(ground.is_published(&good));
}
