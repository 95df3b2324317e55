//! Sandboxes and programs that cannot be: the error says what was attempted.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use drover_os::process::Program;
use drover_os::sandbox::{Failure, Step, available};
use drover_os::user;

use crate::ground::{Ground, both, plain, skipped};

fn refused(ground: &Ground, program: &str) -> io::Error {
    ground.program(program, []).spawn().unwrap_err()
}

#[test]
fn a_program_that_is_not_there_or_none_for_this_machine_is_told_from_a_sandbox_that_is_not() {
    both(
        "start::a_program_that_is_not_there_or_none_for_this_machine_is_told_from_a_sandbox_that_is_not",
        || {
            let ground = Ground::new();
            let error = refused(&ground, "/no/such/builder");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert_eq!(Failure::of(&error).unwrap().step(), Step::Program);
            assert!(error.to_string().contains("run /no/such/builder: "), "{error}");
            let file = ground.build().join("strange");
            fs::write(&file, "\x7fELF of a machine that nobody built").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            let error = refused(&ground, "/build/strange");
            assert_eq!(Failure::of(&error).unwrap().error().raw_os_error(), Some(libc::ENOEXEC));
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            let error = refused(&ground, "/build/strange");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            // It is no program of PATH.
            assert_eq!(refused(&ground, "sh").kind(), io::ErrorKind::NotFound);
        },
    );
}

#[test]
fn the_step_that_failed_is_named_with_what_it_was_about() {
    both("start::the_step_that_failed_is_named_with_what_it_was_about", || {
        let mut ground = Ground::new();
        ground.bind(&ground.build(), "/other", false);
        assert_eq!(ground.sandbox.made.pop().unwrap().path(), Path::new("/other"));
        let error = refused(&ground, "/bin/sh");
        assert_eq!(Failure::of(&error).unwrap().step(), Step::Mounts);
        let build = ground.build();
        let expected =
            format!("mount {} on {}", build.display(), ground.sandbox.root.join("other").display());
        assert!(error.to_string().contains(&expected), "{error}");
        let mut ground = Ground::new();
        ground.sandbox.folder = "/nowhere".into();
        let error = refused(&ground, "/bin/sh");
        assert!(error.to_string().contains("go to the folder /nowhere"), "{error}");
        // It is not the program that is missing.
        assert_eq!(Failure::of(&error).unwrap().step(), Step::Mounts);
    });
}

#[test]
fn what_is_not_there_cannot_be_put_into_a_sandbox() {
    let mut ground = Ground::new();
    ground.sandbox.binds[0].from = "/no/such/input".into();
    let error = Program::new("/bin/sh").sandbox(&ground.sandbox).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/input"), "{error}");
    let mut ground = Ground::new();
    ground.sandbox.ids.outside = Some((0, 0));
    let error = Program::new("/bin/sh").sandbox(&ground.sandbox).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let mut ground = Ground::new();
    ground.sandbox.root = "relative".into();
    assert!(Program::new("/bin/sh").sandbox(&ground.sandbox).is_err());
}

/// Also for [`a_proc_that_is_covered_is_the_reason_for_plain_users`], which runs this where it is.
#[test]
fn says_whether_there_are_sandboxes_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let answer = available();
    println!("answer: {answer:?}");
    if let Err(why) = answer {
        eprintln!("why: {why}");
    }
    let left = fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    let name = format!("drover-sandbox-{}-", std::process::id());
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name)).collect();
    // Others run in this process at the same time.
    let gone = crate::ground::soon().ask(|| left.iter().all(|entry| !entry.path().exists()).then_some(()));
    assert!(gone.is_some(), "{left:?}");
    drop(folder);
}

#[test]
fn a_proc_that_is_covered_is_the_reason_for_plain_users() {
    let name = "start::a_proc_that_is_covered_is_the_reason_for_plain_users";
    if !user::is_root() || available().is_err() {
        return skipped(name, "only root can cover it");
    }
    let folder = tempfile::tempdir().unwrap();
    let inner = plain("start::says_whether_there_are_sandboxes_and_leaves_nothing", folder.path());
    // As containers do it. The user comes last: it may not mount.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(
        "mount -t tmpfs none /proc/sys && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"",
    );
    command.arg("sh").arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("mount a proc on ") && said.contains("covered"), "{said}");
}
