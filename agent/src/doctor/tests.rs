use std::path::Path;

use super::*;

fn glance(arguments: &[&str]) -> Glance {
    let surroundings = Surroundings { default_file: "/no/such/file".into(), ..Surroundings::here() };
    config::glance(arguments.iter().map(OsString::from), &surroundings).unwrap()
}

fn works(outcome: Outcome) -> String {
    match outcome {
        Ok(Finding::Works(detail)) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_every_machine_has_works() {
    let nobody = glance(&[]);
    for examine in [
        threads::examine,
        random::examine,
        time::clock,
        time::deadlines,
        sockets::tcp,
        sockets::unix,
        files::temporary,
        codecs::examine,
    ] {
        works(examine(&nobody));
    }
}

#[test]
fn where_this_program_is_another_one_programs_are_examined_by_the_shell() {
    // As under a loader that somebody named: what runs here is a program of tests, which starts and says something else.
    assert!(works(processes::examine(&glance(&[]))).starts_with("/bin/sh talks"));
}

#[test]
fn examinations_have_names_that_fit() {
    let names: std::collections::BTreeSet<_> = EXAMINATIONS.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), EXAMINATIONS.len());
    assert!(names.iter().all(|name| name.len() < 13));
}

#[test]
fn what_hangs_or_breaks_off_is_told_and_the_rest_goes_on() {
    let other = || Program::new("/no/such/program");
    for threads in [true, false] {
        let mut room = Room { threads, apart: Arc::new(AtomicBool::new(true)) };
        works(room.examined("whole", other, || Ok(Finding::Works("as ever".into()))));
        assert!(!room.apart.load(Ordering::SeqCst), "it is not tried again");
    }
    let mut room = Room { threads: threads_run(), apart: Arc::new(AtomicBool::new(true)) };
    let dies = || Program::new("/bin/sh").args(["-c", "echo 'examined here:'; kill -9 $$"]);
    let broken = room.examined("dies", dies, || panic!("not here")).unwrap_err();
    assert!(broken.contains("signal 9"), "{broken}");
    assert!(room.apart.load(Ordering::SeqCst));
    let broken = room.examined("broken", other, || panic!("on purpose")).unwrap_err();
    assert!(broken.contains("broke off"), "{broken}");
}

#[test]
fn a_state_folder_is_tried_if_it_is_there_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().to_str().unwrap();
    assert!(works(files::state(&glance(&["--state-dir", there]))).contains(there));
    let missing = folder.path().join("missing");
    let outcome = files::state(&glance(&["--state-dir", missing.to_str().unwrap()]));
    assert!(matches!(outcome, Ok(Finding::Unknown(_))), "{outcome:?}");
    assert!(!missing.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn who_is_nobody_yet_is_told_so_and_what_was_configured_is_used() {
    let nobody = glance(&[]);
    assert!(!nobody.has_coordinator);
    assert!(matches!(outside::identity(&nobody), Ok(Finding::Unknown(_))));
    assert!(matches!(outside::coordinator(&nobody), Ok(Finding::Unknown(_))));
    let somebody = glance(&["--name=a", "--dynamic-auth-token=t", "--coordinator=http://127.0.0.1:1"]);
    works(outside::identity(&somebody));
    let error = outside::coordinator(&somebody).unwrap_err();
    assert!(error.contains("http://127.0.0.1:1"), "{error}");
}

#[test]
fn a_daemon_that_is_not_there_fails_with_its_address() {
    let error = executor::examine(&glance(&["--daemon-socket=/no/such/socket"])).unwrap_err();
    assert!(error.contains("/no/such/socket"), "{error}");
    assert!(!Path::new("/no/such/socket").exists());
}
