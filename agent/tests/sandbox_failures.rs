//! Builds in the agent's own sandbox that do not do what they should, and that try to get out.

#![cfg(all(target_os = "linux", not(drover_portable)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod yard;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use drover_agent::config::SandboxSettings;
use drover_agent::executor::sandbox::SandboxExecutor;
use drover_agent::executor::{Ended, Error, Job, Sink};
use drover_os::user::is_root;
use drover_wire::agent::TimeLimit;
use yard::{Log, Recipe, Yard, yard, yard_with};

/// After whatever it was, the next build is as any other.
fn assert_the_next_build_is_well(yard: &Yard) {
    assert_eq!(yard.log_of("next", "echo hello; echo >$out"), "hello\n");
}

fn assert_says(why: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| why.contains(part)), "{why:?} does not say {parts:?}");
}

#[test]
fn a_builder_that_fails_says_how() {
    let Some(yard) = yard() else { return };
    assert_says(&yard.why("code", "exit 9"), &["-code.drv", "exit code 9"]);
    let missing = yard.made(&Recipe { name: "missing", script: "true".into(), ..Recipe::default() });
    let built = yard.build(&missing);
    assert_eq!(
        built.ended,
        Ended::Failed(format!(
            "builder for `{}' failed to produce output path `{}'",
            missing.path,
            missing.out()
        ))
    );
    let half =
        Recipe { name: "half", script: "echo >$out".into(), outputs: &["out", "lib"], ..Recipe::default() };
    assert_says(&yard.failure(&half), &["failed to produce output path", "-half-lib"]);
    assert_the_next_build_is_well(&yard);
}

#[test]
fn a_builder_that_cannot_be_run_says_so() {
    let Some(yard) = yard() else { return };
    let with = |builder: String| Recipe { name: "cannot", builder: Some(builder), ..Recipe::default() };
    assert_says(
        &yard.failure(&with(format!("{}/bin/nothing", yard.shell))),
        &["bin/nothing", "No such file"],
    );
    assert_says(&yard.failure(&with("/bin/sh".into())), &["/bin/sh", "No such file"]);
    assert_says(&yard.failure(&with(format!("{}/bin", yard.shell))), &["ermission denied"]);
    let system = if cfg!(target_arch = "aarch64") { "riscv64-linux" } else { "aarch64-linux" };
    let other = yard.run(&Recipe { name: "other", system: Some(system), ..Recipe::default() });
    let Ended::Unsupported(why) = other.ended else { panic!("{other:?}") };
    assert_says(&why, &[system, "builder on"]);
    assert_eq!(other.log, "");
    assert_the_next_build_is_well(&yard);
}

#[test]
fn a_program_of_another_machine_is_not_supported_and_one_of_none_fails() {
    let Some(yard) = yard() else { return };
    let run = |script: &str| {
        let made = yard.made(&Recipe {
            name: "program",
            script: format!("{script}; chmod +x $out"),
            ..Recipe::default()
        });
        assert_eq!(yard.build(&made).ended, Ended::Succeeded);
        let builder = Some(made.out().full());
        yard.run(&Recipe { name: "user", builder, inputs: vec![made.clone()], ..Recipe::default() }).ended
    };
    let Ended::Failed(why) = run("echo noise >$out") else { panic!("noise is no program") };
    assert_says(&why, &["-program", "ormat error"]);
    // The first bytes of a program for s390.
    let zeros = "\\0".repeat(11);
    let ended = run(&format!("printf '\\177ELF\\2\\2\\1{zeros}\\0\\26' >$out"));
    assert!(matches!(&ended, Ended::Unsupported(why) if why.contains("s390 builder on ")), "{ended:?}");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn a_program_whose_loader_is_none_fails() {
    let Some(yard) = yard() else { return };
    // Of the form of our own, it has a path behind its two headers, which say that this is its loader's.
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut program = own[..20].to_vec();
    let length = "/gnu/store/00000000000000000000000000000000-loaded/loader".len() as u64 + 1;
    let number = |n: u64, bytes: usize| n.to_le_bytes()[..bytes].to_vec();
    let (half, word, long) = (|n| number(n, 2), |n| number(n, 4), |n| number(n, 8));
    program.extend([word(1), long(0), long(64), long(0), word(0)].concat());
    program.extend([half(64), half(56), half(1), half(0), half(0), half(0)].concat());
    program.extend(
        [word(3), word(4), long(120), long(0), long(0), long(length), long(length), long(1)].concat(),
    );
    let bytes: String = program.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!(
        "mkdir $out; seq 100 >$out/loader; printf '{bytes}' >$out/run; printf \"$out/loader\\0\" >>$out/run; chmod +x $out/*"
    );
    let made = yard.made(&Recipe { name: "loaded", script, ..Recipe::default() });
    assert_eq!(yard.build(&made).ended, Ended::Succeeded);
    let builder = Some(format!("{}/run", made.out()));
    let why = yard.failure(&Recipe { name: "user", builder, inputs: vec![made], ..Recipe::default() });
    assert_says(&why, &["-loaded/run", "shared library"]);
}

#[test]
fn outputs_of_the_wrong_kind_or_size_are_refused() {
    let Some(yard) = yard() else { return };
    assert_says(&yard.why("pipe", "mkfifo $out"), &["-pipe", "named pipe"]);
    assert_says(&yard.why("deep", "mkdir $out; mkfifo $out/x"), &["-deep", "x", "named pipe"]);
    assert_says(&yard.why("open", "mkdir $out; chmod 777 $out"), &["-open", "0777"]);
    assert_says(
        &yard.why(
            "many",
            "mkdir $out; cd $out; for i in $(seq 101); do mkdir $i; (cd $i; touch $(seq 100)); done",
        ),
        &["-many", "10000"],
    );
    assert_says(
        &yard.why("sparse", "dd if=/dev/zero of=$out bs=1 count=1 seek=1100000000 2>/dev/null"),
        &["-sparse", "1073741824"],
    );
    let long = "d=$(printf %0200d 0); p=$d/$d/$d/$d/$d/$d/$d/$d/$d/$d/$d/$d/$d/$d/$d
        mkdir -p $out/a/$p $out/b/$p; mv $out/b $out/a/$p/b";
    assert_says(&yard.why("long", long), &["-long", "longer path"]);
    assert_the_next_build_is_well(&yard);
}

#[test]
fn nothing_that_is_made_has_more_rights_than_it_should() {
    let Some(yard) = yard() else { return };
    let script = "
        mkdir $out; echo >$out/plain; echo >$out/strange; chmod 000 $out/plain
        for mode in 4755 2755 6755; do chmod $mode $out/strange 2>/dev/null && echo got $mode; done
        mknod $out/null c 1 3 2>/dev/null && echo got a device
        mkdir $out/closed; chmod 000 $out/closed; ln -s /etc/shadow $out/link";
    let made = yard.made(&Recipe { name: "rights", script: script.into(), ..Recipe::default() });
    let built = yard.build(&made);
    assert_eq!((built.ended, built.log.as_str()), (Ended::Succeeded, ""));
    let mode = |name: &str| {
        let metadata = fs::symlink_metadata(yard.on_disk(made.out()).join(name)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!([mode("."), mode("plain"), mode("strange"), mode("closed")], [0o555, 0o444, 0o444, 0o555]);
    assert_eq!(fs::read_link(yard.on_disk(made.out()).join("link")).unwrap().to_str(), Some("/etc/shadow"));
}

#[test]
fn a_builder_sees_nothing_of_the_machine() {
    let Some(yard) = yard() else { return };
    let id = std::process::id();
    // Without root's rights all of the builder's root is its own.
    let change = if is_root() { "(echo x >/etc/passwd) 2>/dev/null && echo changed; " } else { "" };
    let script = format!(
        "set +e; test -e /proc/{id}/environ && test {id} -gt 200 && echo a process; ls /home /root /sys 2>/dev/null
         kill -0 -1 2>/dev/null && echo others; hostname evil 2>/dev/null && echo named
         {change}ls /dev >devices; sed 's/^/dev /' devices; echo >$out"
    );
    let log = yard.log_of("sees", &script);
    let allowed = [
        "fd", "full", "kvm", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    for line in log.lines() {
        let device = line.strip_prefix("dev ").unwrap_or_else(|| panic!("{log}"));
        assert!(allowed.contains(&device), "{device}");
    }
}

#[test]
fn what_outlives_a_builder_is_killed_with_it() {
    let Some(yard) = yard() else { return };
    let log = yard.log_of(
        "daemon",
        "(setsid sleep 1000 || sleep 1000) >/dev/null 2>&1 & sleep 1000 & echo up; echo >$out",
    );
    assert_eq!(log, "up\n");
}

#[test]
fn a_fork_bomb_ends_as_a_failed_build() {
    let Some(yard) = yard_with(|settings| settings.max_processes = 30) else { return };
    let built = yard.build_for(
        &yard.made(&Recipe {
            name: "bomb",
            script: "for i in $(seq 100); do sleep 1000 & done; echo survived; echo >$out".into(),
            ..Recipe::default()
        }),
        Some(60),
        None,
    );
    assert!(matches!(built.ended, Ended::Exited(_)), "{built:?}");
    assert!(!built.log.contains("survived"), "{}", built.log);
    assert_the_next_build_is_well(&yard);
}

#[test]
fn limits_of_time_and_log_end_a_build() {
    let Some(yard) = yard_with(|settings| settings.log_limit = Some(10_000)) else { return };
    let made = |name, script: &str| yard.made(&Recipe { name, script: script.into(), ..Recipe::default() });
    let built = yard.build_for(&made("silent", "echo a; sleep 1000 & sleep 1000"), None, Some(1));
    assert!(
        matches!(&built.ended, Ended::TimedOut(TimeLimit::Silence, why) if why.contains("of silence")),
        "{built:?}"
    );
    assert_eq!(built.log, "a\n");
    let built = yard.build_for(&made("long", "while true; do echo a; sleep 0.1; done"), Some(1), Some(1000));
    assert!(matches!(&built.ended, Ended::TimedOut(TimeLimit::Timeout, _)), "{built:?}");
    let built = yard.build_for(&made("quiet", "exec >/dev/null 2>&1; sleep 1000"), Some(1), None);
    assert!(matches!(&built.ended, Ended::TimedOut(TimeLimit::Timeout, _)), "{built:?}");
    let built = yard.build(&made("loud", "while true; do echo aaaaaaaaaaaaaaaaaaaaaaa; done"));
    assert!(matches!(&built.ended, Ended::Failed(why) if why.contains("10000 bytes of log")), "{built:?}");
    assert_eq!(built.log.len(), 10_000);
    assert_the_next_build_is_well(&yard);
}

#[test]
fn a_stop_from_another_thread_kills_everything() {
    let Some(yard) = yard() else { return };
    let script = "trap '' TERM HUP INT; echo up; sleep 1000 & sleep 1000";
    let made = yard.made(&Recipe { name: "endless", script: script.into(), ..Recipe::default() });
    let mut place = yard.open();
    yard.add(place.as_mut(), &made);
    let stopper = place.stopper();
    let (up, is_up) = mpsc::channel();
    let mut log = Log::new(move |_: &[u8]| {
        let _ = up.send(());
    });
    let job = Job { derivation: made.path.clone(), timeout: None, max_silent_time: None };
    let result = thread::scope(|scope| {
        let build = scope.spawn(|| place.build(&job, &mut log));
        is_up.recv().unwrap();
        stopper();
        stopper();
        build.join().unwrap()
    });
    assert!(yard::is_away(&result), "{result:?}");
    assert_eq!(log.starts, 1);
    yard.assert_nothing_is_left(&made);
    // What was told to stop before it began does not begin.
    let result = place.build(&job, &mut Log::new(|_: &[u8]| {}));
    assert!(yard::is_away(&result), "{result:?}");
    drop(place);
    assert_the_next_build_is_well(&yard);
}

#[test]
fn a_builder_that_closes_its_root_shuts_nobody_out() {
    let Some(yard) = yard() else { return };
    let script = "echo >$out; chmod 000 . /gnu/store /tmp / 2>/dev/null || true";
    assert_eq!(yard.log_of("closes", script), "");
}

#[test]
fn a_log_that_cannot_be_kept_ends_the_build() {
    struct Full;
    impl Sink for Full {
        fn started(&mut self) {}
        fn log(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let Some(yard) = yard() else { return };
    let made = yard.made(&Recipe { name: "says", script: "echo a; sleep 1000".into(), ..Recipe::default() });
    let mut place = yard.open();
    yard.add(place.as_mut(), &made);
    let job = Job { derivation: made.path.clone(), timeout: None, max_silent_time: None };
    let error = place.build(&job, &mut Full).unwrap_err();
    assert!(matches!(error, Error::Stream { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    yard.assert_nothing_is_left(&made);
}

#[test]
fn a_link_in_the_place_of_the_store_leads_nowhere() {
    let Some(yard) = yard() else { return };
    let victim = yard.folder.path().join("victim");
    fs::create_dir_all(victim.join("store")).unwrap();
    // With root's rights nobody can move it in the first place.
    let script = "chmod 777 / 2>/dev/null && mv /gnu /away 2>/dev/null && /away/store/${PATH#/gnu/store/}/ln -s $victim /gnu";
    let made = yard.made(&Recipe {
        name: "moves",
        script: script.into(),
        env: vec![("victim", victim.to_str().unwrap().to_owned())],
        ..Recipe::default()
    });
    let stolen = victim.join("store").join(made.out().base_name());
    fs::write(&stolen, "precious").unwrap();
    fs::set_permissions(&stolen, fs::Permissions::from_mode(0o600)).unwrap();
    let built = yard.build(&made);
    let (Ended::Exited(why) | Ended::Failed(why)) = &built.ended else { panic!("{built:?}") };
    assert!(is_root() || why.contains("in the place of /gnu/store"), "{built:?}");
    assert_eq!(fs::read(&stolen).unwrap(), b"precious");
    assert_eq!(fs::metadata(&stolen).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Whether the test of this name is to go on, with a disk of its own for temporary files that is mounted so; else it was run
/// so, in another process.
fn is_on_a_disk(test: &str, options: &str) -> bool {
    const INSIDE: &str = "DROVER_TEST_ON_A_DISK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        ground::skipped("to mount a disk, as root");
        return false;
    }
    let disk = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o {options} none \"$TMPDIR\" && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    let status = command.env("TMPDIR", disk.path()).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{status}");
    false
}

#[test]
fn a_store_from_which_no_programs_run_is_refused_at_the_start() {
    if !is_on_a_disk("a_store_from_which_no_programs_run_is_refused_at_the_start", "size=80m,noexec") {
        return;
    }
    if let Err(error) = drover_os::sandbox::available() {
        return ground::skipped(&format!("a sandbox: {error}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = SandboxSettings { store_root: folder.path().join("root"), ..SandboxSettings::default() };
    let refused = SandboxExecutor::new(settings, &folder.path().join("roots"), None).unwrap_err();
    assert_says(&refused.to_string(), &["root/gnu/store", "noexec", "--store-root"]);
}

#[test]
fn a_builder_that_fails_on_a_full_disk_has_not_failed() {
    if !is_on_a_disk("a_builder_that_fails_on_a_full_disk_has_not_failed", "size=80m") {
        return;
    }
    let Some(yard) = yard() else { return };
    let recipe = |script: &str| Recipe { name: "large", script: script.into(), ..Recipe::default() };
    let made = yard.made(&recipe("cat /dev/zero >file 2>/dev/null || exit 3"));
    let mut place = yard.open();
    yard.add(place.as_mut(), &made);
    let job = Job { derivation: made.path.clone(), timeout: Some(60), max_silent_time: None };
    let ended = place.build(&job, &mut Log::new(|_: &[u8]| {}));
    let Err(Error::Full(words)) = &ended else { panic!("{ended:?}") };
    assert_says(words, &["bytes are free", "exit code 3"]);
    // One that does not notice has made no output, or half of it.
    let made = yard.made(&recipe("cat /dev/zero >file 2>/dev/null || true"));
    yard.add(place.as_mut(), &made);
    let job = Job { derivation: made.path.clone(), ..job };
    let ended = place.build(&job, &mut Log::new(|_: &[u8]| {}));
    assert!(matches!(&ended, Err(Error::Full(why)) if why.contains("failed to produce")), "{ended:?}");
    drop(place);
    assert_the_next_build_is_well(&yard);
    // With room, it is the builder's own failure.
    assert_says(&yard.failure(&recipe("exit 3")), &["exit code 3"]);
}

#[test]
fn a_builder_that_fails_where_no_more_files_can_be_made_has_not_failed() {
    if !is_on_a_disk(
        "a_builder_that_fails_where_no_more_files_can_be_made_has_not_failed",
        "size=200m,nr_inodes=6000",
    ) {
        return;
    }
    let Some(yard) = yard() else { return };
    let script = "i=0; while : >$i; do i=$((i + 1)); done 2>/dev/null; exit 3";
    let made = yard.made(&Recipe { name: "files", script: script.into(), ..Recipe::default() });
    let mut place = yard.open();
    yard.add(place.as_mut(), &made);
    let job = Job { derivation: made.path.clone(), timeout: Some(60), max_silent_time: None };
    let ended = place.build(&job, &mut Log::new(|_: &[u8]| {}));
    let Err(Error::Full(words)) = &ended else { panic!("{ended:?}") };
    assert_says(words, &["more files can be made", "builder for"]);
    drop(place);
    assert_the_next_build_is_well(&yard);
}
