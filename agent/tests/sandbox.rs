//! Builds in the agent's own sandbox: what a builder gets, and what comes out.

#![cfg(all(target_os = "linux", not(drover_portable)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod yard;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::thread;

use drover_agent::executor::{Ended, Error, Executor, Job, NewText};
use drover_store::derivation::{Derivation, Fixed, Output};
use drover_store::hash::Sha256Hash;
use drover_store::nar::Node;
use drover_store::path::{self, StorePath};
use yard::{Log, Made, Recipe, yard, yard_with};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_builder_finds_exactly_the_environment_that_a_daemon_gives() {
    let Some(yard) = yard() else { return };
    let made = yard.made(&Recipe {
        name: "environment",
        script: "tr '\\0' '\\n' </proc/1/environ; echo >$out".into(),
        env: vec![("HOME", "/elsewhere".into()), ("empty", String::new()), ("salt", "salt-of-it".into())],
        ..Recipe::default()
    });
    let built = yard.build(&made);
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let got: BTreeMap<&str, &str> = built.log.lines().map(|line| line.split_once('=').unwrap()).collect();
    let folder = "/tmp/guix-build-environment.drv-0";
    let path = format!("{}/bin", yard.shell);
    let expected = [
        ("HOME", "/elsewhere"),
        ("NIX_BUILD_CORES", "3"),
        ("NIX_BUILD_TOP", folder),
        ("NIX_STORE", "/gnu/store"),
        ("PATH", &path),
        ("PWD", folder),
        ("TEMP", folder),
        ("TEMPDIR", folder),
        ("TMP", folder),
        ("TMPDIR", folder),
        ("empty", ""),
        ("out", made.out().as_str()),
        ("salt", "salt-of-it"),
    ];
    assert_eq!(got, BTreeMap::from(expected));
    assert_eq!(built.log.lines().count(), expected.len());
}

#[test]
fn a_builder_is_who_and_where_a_daemon_would_have_it() {
    let Some(yard) = yard() else { return };
    let script = "
        echo $$; tr '\\0' '\\n' </proc/1/cmdline | sed 1q; id -u; id -g; pwd; umask; hostname
        cat /proc/sys/kernel/domainname /etc/passwd /etc/group
        stat -c '%a %n' / /tmp /gnu/store .; stat -c '%u:%g' .; readlink /proc/self/fd/0
        ls /; echo >$out";
    let log = yard.log_of("who", script);
    let expected = [
        "1",
        "sh",
        "30001",
        "30000",
        "/tmp/guix-build-who.drv-0",
        "0022",
        "localhost",
        "(none)",
        "nixbld:x:30001:30000:Nix build user:/:/noshell",
        "nobody:x:65534:65534:Nobody:/:/noshell",
        "nixbld:!:30000:",
        "555 /",
        "1777 /tmp",
        "1775 /gnu/store",
        "700 .",
        "30001:30000",
        "/dev/null",
        "dev",
        "etc",
        "gnu",
        "proc",
        "tmp",
    ];
    assert_eq!(lines(&log), expected);
}

#[test]
fn the_store_has_the_inputs_and_nobody_can_change_them() {
    let Some(yard) = yard() else { return };
    let mut place = yard.open();
    let input = Node::file("contents").to_nar();
    let file = path::source("file", &Sha256Hash::of(&input)).unwrap();
    place.add_file(&file, true, &mut &input[..]).unwrap();
    let link = Node::Symlink(b"nowhere".to_vec()).to_nar();
    let link_path = path::source("link", &Sha256Hash::of(&link)).unwrap();
    place.add_file(&link_path, true, &mut &link[..]).unwrap();
    let other = Node::file("not an input").to_nar();
    let other_path = path::source("other", &Sha256Hash::of(&other)).unwrap();
    place.add_file(&other_path, true, &mut &other[..]).unwrap();
    let script = format!(
        "ls /gnu/store; cat {file}; readlink {link_path}
         (echo x >>{file}) 2>/dev/null || echo no; (echo x >{shell}/bin/new) 2>/dev/null || echo no
         chmod 777 {shell}/bin 2>/dev/null || echo no; rm {file} 2>/dev/null || echo no; echo >$out",
        shell = yard.shell
    );
    let sources = vec![file.clone(), link_path.clone()];
    let built = yard.run(&Recipe { name: "inputs", script, sources, ..Recipe::default() });
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let mut names = [file.base_name(), link_path.base_name(), yard.shell.base_name()];
    names.sort_unstable();
    assert_eq!(
        lines(&built.log.replace("contents", "contents\n")),
        [&names[..], &["contents", "nowhere", "no", "no", "no", "no"]].concat()
    );
    assert_eq!(fs::read(yard.on_disk(&file)).unwrap(), b"contents");
}

#[test]
fn outputs_refer_to_what_they_name_and_are_what_is_told_of_them() {
    let Some(yard) = yard() else { return };
    let first = yard.made(&Recipe {
        name: "first",
        script: "mkdir $out; echo 1 >$out/x".into(),
        ..Recipe::default()
    });
    assert_eq!(yard.build(&first).ended, Ended::Succeeded);
    let second = yard.made(&Recipe {
        name: "second",
        script: format!("echo {first} $lib >$out; mkdir $lib; echo \"echo $lib\" >$lib/run; chmod 700 $lib/run; ln -s run $lib/link; ln $lib/run $lib/same", first = first.out()),
        outputs: &["out", "lib"],
        inputs: vec![first.clone()],
        ..Recipe::default()
    });
    let built = yard.build(&second);
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let (lib, out) = (second.output("lib"), second.output("out"));
    let by_path: BTreeMap<_, _> = built.outputs.iter().map(|output| (&output.path, output)).collect();
    let mut expected = vec![first.out().clone(), lib.clone()];
    expected.sort();
    assert_eq!(by_path[out].references, expected);
    assert_eq!(by_path[lib].references, std::slice::from_ref(lib));
    for output in &built.outputs {
        let nar = yard.nar(output);
        assert_eq!((Sha256Hash::of(&nar), nar.len() as u64), (output.nar_hash, output.nar_size));
    }
    let program = || Node::program(format!("echo {lib}\n"));
    let entries = [
        (b"link".to_vec(), Node::Symlink(b"run".to_vec())),
        (b"run".to_vec(), program()),
        (b"same".to_vec(), program()),
    ];
    assert_eq!(yard.nar(by_path[lib]), Node::Directory(entries.into()).to_nar());
    // Again, although it is there.
    assert_eq!(yard.build(&second).outputs, built.outputs);
}

#[test]
fn fixed_outputs_are_what_they_must_be() {
    let Some(yard) = yard() else { return };
    let build = |name: &'static str, script: &str, recursive, hash| {
        yard.run(&Recipe { name, script: script.into(), fixed: Some((recursive, hash)), ..Recipe::default() })
    };
    let flat = Sha256Hash::of(b"x\n");
    let tree = Sha256Hash::of(&Node::program("x\n").to_nar());
    assert_eq!(build("flat", "echo x >$out", false, flat).ended, Ended::Succeeded);
    assert_eq!(build("tree", "echo x >$out; chmod +x $out", true, tree).ended, Ended::Succeeded);
    let why = |built: yard::Built| match built.ended {
        Ended::Failed(why) => why,
        other => panic!("{other:?}"),
    };
    let other = why(build("wrong", "echo y >$out", false, flat));
    for hash in [flat, Sha256Hash::of(b"y\n")] {
        assert!(other.contains(&format!("sha256:{}", hash.base32())), "{other}");
    }
    assert!(other.contains("-wrong"), "{other}");
    let script = why(build("script", "echo x >$out; chmod +x $out", false, flat));
    assert!(script.contains("not executable"), "{script}");
}

#[test]
fn who_was_given_a_file_of_a_fixed_output_cannot_change_what_was_checked() {
    let Some(yard) = yard() else { return };
    let tree = Node::Directory([(b"file".to_vec(), Node::file("good\n"))].into());
    let cases = [
        ("flat", "file=$out", false, Sha256Hash::of(b"good\n")),
        ("tree", "mkdir $out; file=$out/file", true, Sha256Hash::of(&tree.to_nar())),
    ];
    for (name, begin, recursive, hash) in cases {
        // It waits until the file is open here, too.
        let script = format!("{begin}; echo good >$file; mkfifo go; echo ready; read x <go");
        let made = yard.made(&Recipe { name, script, fixed: Some((recursive, hash)), ..Recipe::default() });
        let inside = if recursive { format!("{}/file", made.out()) } else { made.out().full() };
        let mut stolen: Option<File> = None;
        let mut log = Log::new(|bytes: &[u8]| {
            if bytes != b"ready\n" || stolen.is_some() {
                return;
            }
            let making = fs::read_dir(yard.store().join(".drover/making")).unwrap();
            let making = making.map(|entry| entry.unwrap().path()).next().unwrap();
            let file = making.join("store").join(inside.trim_start_matches("/gnu/store/"));
            stolen = Some(File::options().write(true).open(file).unwrap());
            let go = making.join(format!("tmp/guix-build-{name}.drv-0/go"));
            writeln!(File::options().write(true).open(go).unwrap(), "go").unwrap();
        });
        let mut place = yard.open();
        yard.add(place.as_mut(), &made);
        let job = Job { derivation: made.path.clone(), timeout: Some(60), max_silent_time: None };
        assert_eq!(place.build(&job, &mut log).unwrap(), Ended::Succeeded);
        stolen.unwrap().write_all(b"evil\n").unwrap();
        let output = place.describe(std::slice::from_ref(made.out())).unwrap().remove(0);
        assert_eq!(Sha256Hash::of(&yard.nar(&output)), output.nar_hash);
        let file = yard.on_disk(made.out());
        let file = if recursive { file.join("file") } else { file };
        assert_eq!(fs::read(file).unwrap(), b"good\n");
    }
}

#[test]
fn files_that_are_one_file_are_two_in_the_store() {
    let Some(yard) = yard() else { return };
    let made = yard.made(&Recipe {
        name: "linked",
        script: "mkdir $out; echo x >$out/a; chmod +x $out/a; ln $out/a $out/b; ln $out/a $lib".into(),
        outputs: &["lib", "out"],
        ..Recipe::default()
    });
    let built = yard.build(&made);
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let entries = [b"a", b"b"].map(|name| (name.to_vec(), Node::program("x\n")));
    let of = |path: &StorePath| built.outputs.iter().find(|output| output.path == *path).unwrap();
    let out = Node::Directory(entries.into()).to_nar();
    assert_eq!(yard.nar(of(made.out())), out);
    assert_eq!(yard.nar(of(made.output("lib"))), Node::program("x\n").to_nar());
    let mut place = yard.open();
    place.clear(&[made.output("lib").clone()]).unwrap();
    assert_eq!(yard.nar(of(made.out())), out);
    place.clear(&[made.out().clone()]).unwrap();
    drop(place);
    yard.assert_nothing_is_left(&made);
    // And again, to the end.
    assert_eq!(yard.build(&made).outputs, built.outputs);
}

#[test]
fn only_fixed_outputs_have_a_network() {
    let Some(yard) = yard() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    let get = format!("nc 127.0.0.1 {port} </dev/null");
    let log = yard.log_of(
        "alone",
        &format!("({get}) 2>/dev/null || echo nobody; sed -n 's/:.*//p' /proc/net/dev; echo >$out"),
    );
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["nobody", "lo"]);
    let built = yard.run(&Recipe {
        name: "fetched",
        script: format!("{get} >$out; ls /etc"),
        fixed: Some((false, Sha256Hash::of(b"hello"))),
        ..Recipe::default()
    });
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let has_resolver = fs::metadata("/etc/resolv.conf").is_ok_and(|file| file.is_file());
    assert_eq!(built.log.contains("resolv.conf"), has_resolver, "{}", built.log);
}

#[test]
fn a_download_is_a_build_without_a_builder() {
    let Some(yard) = yard() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    let download = |name: &str, contents: &[u8], url: String| {
        let fixed = Fixed {
            recursive: false,
            algorithm: "sha256".into(),
            hash: Sha256Hash::of(contents).as_bytes().to_vec(),
        };
        let out = path::fixed_output(name, false, "sha256", &fixed.hash).unwrap();
        let variable = |k: &str, v: String| (k.as_bytes().to_vec(), v.into_bytes());
        let derivation = Derivation {
            outputs: vec![Output { name: "out".into(), path: out.clone(), fixed: Some(fixed) }],
            inputs: Vec::new(),
            sources: Vec::new(),
            system: "riscv64-linux".into(),
            builder: b"builtin:download".to_vec(),
            args: Vec::new(),
            env: vec![variable("out", out.full()), variable("salt", ground::unique()), variable("url", url)],
        };
        yard.build(&Made::of(&format!("{name}.drv"), derivation))
    };
    let url = format!("\"http://127.0.0.1:{port}/file\"");
    let built = download("download", b"hello", url.clone());
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    assert_eq!(yard.nar(&built.outputs[0]), Node::file("hello").to_nar());
    let built = download("other", b"other", url);
    assert!(matches!(built.ended, Ended::Failed(_)), "{built:?}");
    assert_eq!(yard.executor.builtins().unwrap(), ["download"]);
}

#[test]
fn the_references_of_a_closure_are_written_for_who_asks() {
    let Some(yard) = yard() else { return };
    let mut place = yard.open();
    let text = format!("see {}", yard.shell);
    let references = [yard.shell.clone()];
    let item = path::text("text", text.as_bytes(), &references).unwrap();
    place.add_texts(&[NewText { path: &item, text: text.as_bytes(), references: &references }]).unwrap();
    let recipe = |list: String| Recipe {
        name: "graph",
        script: "cat graph; echo >$out".into(),
        env: vec![("exportReferencesGraph", list)],
        sources: vec![item.clone()],
        ..Recipe::default()
    };
    let built = yard.run(&recipe(format!("graph {item}")));
    assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
    let mut parts = [
        format!("{item}\n\n1\n{shell}\n", shell = yard.shell),
        format!("{shell}\n\n0\n", shell = yard.shell),
    ];
    parts.sort();
    assert_eq!(built.log, parts.concat());
    let why = yard.failure(&recipe("graph".into()));
    assert!(why.contains("exportReferencesGraph"), "{why}");
}

#[test]
fn outputs_stay_within_the_references_that_are_allowed() {
    let Some(yard) = yard() else { return };
    let shell = yard.shell.full();
    let recipe = |variable: &'static str, list: &str| Recipe {
        name: "refers",
        script: format!("echo {shell} $out >$out"),
        env: vec![(variable, list.to_owned())],
        ..Recipe::default()
    };
    for (variable, list) in [
        ("allowedReferences", format!("{shell} out")),
        ("allowedRequisites", shell.clone()),
        ("disallowedReferences", "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-x".into()),
    ] {
        assert_eq!(yard.run(&recipe(variable, &list)).ended, Ended::Succeeded, "{variable}");
    }
    for (variable, list) in [
        ("allowedReferences", "out"),
        ("allowedRequisites", ""),
        ("disallowedReferences", shell.as_str()),
        ("disallowedRequisites", shell.as_str()),
    ] {
        let why = yard.failure(&recipe(variable, list));
        assert!(why.contains(variable) && why.contains(&shell), "{why}");
    }
    let why = yard.failure(&recipe("allowedReferences", "doc"));
    assert!(why.contains("'doc'"), "{why}");
}

#[test]
fn an_output_that_is_kept_by_a_link_is_not_cleared() {
    let Some(yard) = yard() else { return };
    let made = yard.made(&Recipe { name: "kept", script: "echo >$out".into(), ..Recipe::default() });
    assert_eq!(yard.build(&made).ended, Ended::Succeeded);
    let link = yard.roots().join("1-kept");
    symlink(made.out().as_str(), &link).unwrap();
    let mut place = yard.open();
    place.keep(&link).unwrap();
    assert!(matches!(place.keep(&yard.folder.path().join("elsewhere")), Err(Error::Refused(_))));
    let outputs = [made.out().clone()];
    assert!(matches!(place.clear(&outputs), Err(Error::Refused(_))));
    fs::remove_file(&link).unwrap();
    place.clear(&outputs).unwrap();
    assert_eq!(place.missing(&outputs).unwrap(), outputs);
}

#[test]
fn an_output_is_built_again_with_what_was_built_upon_it_and_nobody_needs() {
    let Some(yard) = yard() else { return };
    let base = yard.made(&Recipe { name: "base", script: "echo >$out".into(), ..Recipe::default() });
    assert_eq!(yard.build(&base).ended, Ended::Succeeded);
    let script = format!("echo {} >$out", base.out());
    let inputs = vec![base.clone()];
    let top = yard.made(&Recipe { name: "top", script, inputs, ..Recipe::default() });
    assert_eq!(yard.build(&top).ended, Ended::Succeeded);
    let mut needs = yard.open();
    needs.protect(&mut [top.out()].into_iter()).unwrap();
    let outputs = [base.out().clone()];
    let refused = yard.open().clear(&outputs);
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains(top.out().as_str())), "{refused:?}");
    drop(needs);
    assert_eq!(yard.build(&base).ended, Ended::Succeeded);
    assert_eq!(yard.open().missing(&[top.out().clone()]).unwrap(), [top.out().clone()]);
}

#[test]
fn the_folder_of_a_failed_build_is_kept_if_that_is_wanted() {
    let kept = tempfile::tempdir().unwrap();
    let Some(yard) = yard_with(|settings| settings.keep_failed = Some(kept.path().join("kept"))) else {
        return;
    };
    let recipe = |script: &str| Recipe { name: "sad", script: script.into(), ..Recipe::default() };
    for number in 0..2 {
        let built = yard.run(&recipe("echo word >file; exit 1"));
        let folder = kept.path().join(format!("kept/guix-build-sad.drv-{number}"));
        assert!(built.log.contains(folder.to_str().unwrap()), "{}", built.log);
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"word\n");
    }
    assert_eq!(yard.run(&recipe("echo >file; echo >$out")).ended, Ended::Succeeded);
    assert_eq!(fs::read_dir(kept.path().join("kept")).unwrap().count(), 2);
}

#[test]
fn builds_at_the_same_time_do_not_meet() {
    let Some(yard) = yard() else { return };
    drop(yard.open());
    let made: Vec<_> = (0..4)
        .map(|_| {
            let script = "ls -d /proc/[0-9]*; ls /tmp; echo >$out".into();
            yard.made(&Recipe { name: "beside", script, ..Recipe::default() })
        })
        .collect();
    thread::scope(|scope| {
        let builds: Vec<_> = made.iter().map(|made| scope.spawn(|| yard.build_beside(made))).collect();
        for build in builds {
            let (ended, log) = build.join().unwrap();
            assert_eq!(ended, Ended::Succeeded, "{log}");
            assert_eq!(lines(&log), ["/proc/1", "guix-build-beside.drv-0"]);
        }
    });
    for made in &made {
        yard.assert_nothing_is_left(made);
    }
}
