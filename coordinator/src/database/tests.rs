use std::sync::{Arc, Mutex};

use super::*;

type Noted = Arc<Mutex<Vec<u32>>>;

fn open(folder: &Path) -> (Database<u32>, Noted) {
    let noted = Noted::default();
    let database = Database::open(&folder.join("test.sqlite"), {
        let noted = Arc::clone(&noted);
        move |changes| noted.lock().unwrap().extend(changes)
    });
    (database.unwrap(), noted)
}

fn add(database: &Database<u32>, name: &'static str, note: u32, fail: bool) -> Result<(), Error> {
    database.write_blocking(move |tx| {
        tx.execute("INSERT INTO platforms (name) VALUES (?1)", [name])?;
        tx.note(note);
        if fail { Err(Error::Panicked) } else { Ok(()) }
    })
}

fn names(database: &Database<u32>) -> Vec<String> {
    let read = |connection: &Connection| {
        let mut statement = connection.prepare("SELECT name FROM platforms ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok::<_, Error>(names)
    };
    database.read_blocking(read).unwrap()
}

#[test]
fn the_migrations_are_valid() {
    migrations().validate().unwrap();
}

#[test]
fn a_job_that_fails_leaves_nothing_and_notes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (database, noted) = open(folder.path());
    add(&database, "one", 1, false).unwrap();
    add(&database, "two", 2, true).unwrap_err();
    add(&database, "three", 3, false).unwrap();
    assert_eq!(names(&database), ["one", "three"]);
    assert_eq!(*noted.lock().unwrap(), [1, 3]);
}

#[test]
fn a_job_that_panics_leaves_the_writer_working() {
    let folder = tempfile::tempdir().unwrap();
    let (database, _) = open(folder.path());
    let error = database
        .write_blocking(|tx| -> Result<(), Error> {
            tx.execute("INSERT INTO platforms (name) VALUES ('x')", [])?;
            panic!("on purpose");
        })
        .unwrap_err();
    assert!(matches!(error, Error::Panicked));
    add(&database, "one", 1, false).unwrap();
    assert_eq!(names(&database), ["one"]);
}

#[test]
fn a_job_alone_that_fails_or_panics_leaves_nothing_and_the_writer_works_on() {
    let folder = tempfile::tempdir().unwrap();
    let (database, noted) = open(folder.path());
    let alone = |name: &'static str, note: u32, end: fn() -> Result<(), Error>| {
        database.write_alone_blocking(move |tx| {
            tx.execute("INSERT INTO platforms (name) VALUES (?1)", [name])?;
            tx.note(note);
            end()
        })
    };
    alone("one", 1, || Ok(())).unwrap();
    let failed = alone("two", 2, || Err(Error::Closed)).unwrap_err();
    assert!(matches!(failed, Error::Closed), "{failed}");
    let panicked = alone("three", 3, || panic!("on purpose")).unwrap_err();
    assert!(matches!(panicked, Error::Panicked), "{panicked}");
    add(&database, "four", 4, false).unwrap();
    alone("five", 5, || Ok(())).unwrap();
    assert_eq!(names(&database), ["five", "four", "one"]);
    assert_eq!(*noted.lock().unwrap(), [1, 4, 5]);
}

#[test]
fn jobs_alone_and_jobs_together_come_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let (database, noted) = open(folder.path());
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // All are in the queue before the first of them ends.
        let first = database.write(move |_| -> Result<(), Error> {
            let _ = held.recv();
            Ok(())
        });
        let note = |n| {
            move |tx: &mut Tx<'_, u32>| -> Result<u32, Error> {
                tx.note(n);
                Ok(n)
            }
        };
        let rest = async {
            let (one, two, three) =
                (database.write(note(1)), database.write_alone(note(2)), database.write(note(3)));
            let (four, five) = (database.write_alone(note(4)), database.write(note(5)));
            let let_go = async { hold.send(()).unwrap() };
            tokio::join!(one, two, three, four, five, let_go)
        };
        let (_, (one, two, three, four, five, ())) = tokio::join!(first, rest);
        let got = [one, two, three, four, five].map(Result::unwrap);
        assert_eq!(got, [1, 2, 3, 4, 5]);
    });
    assert_eq!(*noted.lock().unwrap(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_disk_that_fills_up_in_a_job_alone_is_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (database, _) = open(folder.path());
    let pages = |sql: &Connection| sql.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
    let limit = |tx: &Tx<'_, u32>, pages: i64| tx.pragma_update(None, "max_page_count", pages);
    database.write_blocking(move |tx| Ok::<_, Error>(limit(tx, pages(tx)?)?)).unwrap();
    let fill = |tx: &mut Tx<'_, u32>| -> Result<(), Error> {
        tx.execute("INSERT INTO contents VALUES (1, zeroblob(1000000))", [])?;
        Ok(())
    };
    assert!(matches!(database.write_alone_blocking(fill), Err(Error::Full)));
    database.write_blocking(move |tx| Ok::<_, Error>(limit(tx, 1_000_000)?)).unwrap();
    database.write_alone_blocking(fill).unwrap();
}

#[test]
fn many_writers_at_once_all_get_their_own_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (database, _) = open(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let counted: i64 = database
                        .write_blocking(|tx| -> Result<i64, Error> {
                            tx.execute("INSERT INTO platforms (name) SELECT count(*) FROM platforms", [])?;
                            Ok(tx.query_row("SELECT max(id) FROM platforms", [], |row| row.get(0))?)
                        })
                        .unwrap();
                    assert!(counted > 0);
                }
            });
        }
    });
    assert_eq!(names(&database).len(), 400);
}

#[test]
fn a_full_disk_is_an_answer_and_the_next_job_works() {
    let folder = tempfile::tempdir().unwrap();
    let (database, _) = open(folder.path());
    add(&database, "one", 1, false).unwrap();
    database
        .write_blocking(|tx| -> Result<(), Error> {
            let pages: i64 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            tx.pragma_update(None, "max_page_count", pages)?;
            Ok(())
        })
        .unwrap();
    let fill = |tx: &mut Tx<'_, u32>| -> Result<(), Error> {
        tx.execute("INSERT INTO contents VALUES (1, zeroblob(1000000))", [])?;
        Ok(())
    };
    assert!(matches!(database.write_blocking(fill), Err(Error::Full)));
    database
        .write_blocking(|tx| -> Result<(), Error> {
            tx.pragma_update(None, "max_page_count", 1_000_000)?;
            Ok(())
        })
        .unwrap();
    database.write_blocking(fill).unwrap();
    assert_eq!(names(&database), ["one"]);
}

#[test]
fn who_comes_while_no_transaction_can_be_begun_hears_why() {
    let folder = tempfile::tempdir().unwrap();
    let (database, noted) = open(folder.path());
    database.write_blocking(|tx| -> Result<(), Error> { Ok(tx.busy_timeout(Duration::ZERO)?) }).unwrap();
    // Another program holds the database.
    let other = Connection::open(folder.path().join("test.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let small = add(&database, "one", 1, false).unwrap_err();
    let large = database.write_alone_blocking(|_| -> Result<(), Error> { Ok(()) }).unwrap_err();
    for error in [small, large] {
        assert!(matches!(error, Error::Sqlite(_)) && error.to_string().contains("locked"), "{error}");
    }
    other.execute_batch("ROLLBACK").unwrap();
    add(&database, "two", 2, false).unwrap();
    assert_eq!((names(&database), noted.lock().unwrap().clone()), (vec!["two".to_owned()], vec![2]));
}
