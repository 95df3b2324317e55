//! The same derivations, built by a real guix-daemon and in the agent's own sandbox: what comes out is the same, and so is
//! what the builders saw.

#![cfg(all(target_os = "linux", not(drover_portable)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod yard;

use drover_agent::executor::daemon::DaemonExecutor;
use drover_agent::executor::{Ended, Executor, Job};
use drover_store::hash::Sha256Hash;
use drover_store::nar::Node;
use yard::{Built, Log, Made, Recipe, Yard, yard};

struct Both {
    yard: Yard,
    daemon: DaemonExecutor,
}

fn both() -> Option<Both> {
    let ground = ground::ground()?;
    let yard = yard()?;
    Some(Both { yard, daemon: DaemonExecutor::new(ground.socket) })
}

impl Both {
    fn build_at(&self, executor: &dyn Executor, made: &Made) -> Built {
        let mut place = self.yard.open_at(executor);
        self.yard.add(place.as_mut(), made);
        let outputs = place.outputs_of(&made.path).unwrap();
        let mut log = Log::new(|_: &[u8]| {});
        let job = Job { derivation: made.path.clone(), timeout: Some(100), max_silent_time: None };
        let ended = place.build(&job, &mut log).unwrap();
        let mut outputs =
            if ended == Ended::Succeeded { place.describe(&outputs).unwrap() } else { Vec::new() };
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        Built { ended, log: String::from_utf8_lossy(&log.bytes).into_owned(), outputs }
    }

    /// By the daemon, and in the sandbox.
    fn build(&self, made: &Made) -> [Built; 2] {
        [self.build_at(&self.daemon, made), self.build_at(&self.yard.executor, made)]
    }

    /// Builds it, which makes the same on both sides.
    fn same(&self, recipe: &Recipe<'_>) -> Made {
        let made = self.yard.made(recipe);
        let [daemon, sandbox] = self.build(&made);
        assert_eq!(daemon.ended, Ended::Succeeded, "{}", daemon.log);
        assert_eq!(sandbox.ended, Ended::Succeeded, "{}", sandbox.log);
        // A daemon that shares its network in a way of its own has a word about that.
        let said = |log: &str| {
            log.lines().filter(|line| !line.contains("slirp4netns")).fold(String::new(), |a, b| a + b + "\n")
        };
        assert_eq!(said(&sandbox.log), said(&daemon.log), "{}", recipe.name);
        assert_eq!(sandbox.outputs, daemon.outputs, "{}", recipe.name);
        made
    }

    fn same_script(&self, name: &str, script: &str) -> Made {
        self.same(&Recipe { name, script: script.into(), ..Recipe::default() })
    }
}

#[test]
fn builders_see_the_same() {
    let Some(both) = both() else { return };
    both.same(&Recipe {
        name: "environment",
        script: "tr '\\0' '\\n' </proc/1/environ | sed '/^NIX_BUILD_CORES=/d' >$out; cat $out".into(),
        env: vec![
            ("HOME", "/elsewhere".into()),
            ("TMPDIR", "/somewhere".into()),
            ("NIX_BUILD_TOP", "/top".into()),
            ("PWD", "/here".into()),
            ("NIX_STORE", "/store".into()),
        ],
        ..Recipe::default()
    });
    both.same_script(
        "around",
        "tr '\\0' '\\n' </proc/1/cmdline; pwd; umask; hostname; cat /proc/sys/kernel/domainname /etc/hosts
         ls / /etc /gnu/store; ls -d /tmp/*; stat -c '%a %F %n' / /tmp /gnu /gnu/store /proc /dev /dev/* . $PATH
         cat /proc/self/personality; sed -n 's/:.*//p' /proc/net/dev; echo >$out",
    );
}

#[test]
fn outputs_are_the_same() {
    let Some(both) = both() else { return };
    let file = both.same_script("file", "echo file >$out");
    both.same_script("empty", "touch $out");
    both.same_script("program", "echo '#!/bin/sh' >$out; chmod +x $out");
    both.same_script("link", "ln -s /nowhere/$(cat /proc/sys/kernel/hostname) $out");
    both.same_script(
        "folder",
        "mkdir -p $out/a/b $out/empty; echo x >\"$out/a/with blank\"; echo y >$out/a/b/$(printf '\\377')
         echo z >$out/z; ln $out/z $out/same; ln -s z $out/link; chmod 710 $out/z; echo >$out/0600; chmod 600 $out/0600
         chmod 500 $out/a; chmod 755 $out",
    );
    let several = both.same(&Recipe {
        name: "several",
        script: format!(
            "echo {file} $lib >$out; mkdir $lib; echo $lib $doc >$lib/x; echo {file} >$doc",
            file = file.out()
        ),
        outputs: &["doc", "lib", "out"],
        inputs: vec![file.clone()],
        ..Recipe::default()
    });
    both.same(&Recipe {
        name: "graph",
        script: "cat graph >$out; stat -c %a graph".into(),
        env: vec![("exportReferencesGraph", format!("graph {}", several.out()))],
        inputs: vec![several.clone()],
        ..Recipe::default()
    });
    let contents = ground::unique();
    both.same(&Recipe {
        name: "flat",
        script: format!("printf {contents} >$out"),
        fixed: Some((false, Sha256Hash::of(contents.as_bytes()))),
        ..Recipe::default()
    });
    both.same(&Recipe {
        name: "recursive",
        script: format!("printf {contents} >$out; chmod +x $out"),
        fixed: Some((true, Sha256Hash::of(&Node::program(contents.as_str()).to_nar()))),
        ..Recipe::default()
    });
    both.same(&Recipe {
        name: "allowed",
        script: format!("echo {} $out >$out", several.output("lib")),
        env: vec![
            ("allowedReferences", format!("{} out", several.output("lib"))),
            ("disallowedRequisites", both.yard.shell.full()),
        ],
        inputs: vec![several],
        ..Recipe::default()
    });
}

#[test]
fn what_fails_for_a_daemon_fails_in_the_sandbox() {
    let Some(both) = both() else { return };
    let check = |name: &str, script: &str, env: &[(&'static str, &str)]| {
        let env = env.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let recipe = Recipe { name, script: script.to_owned(), env, ..Recipe::default() };
        let [daemon, sandbox] = both.build(&both.yard.made(&recipe));
        // A daemon that finds it wrong before it starts says so in another way.
        match sandbox.ended {
            Ended::Exited(_) => assert!(matches!(daemon.ended, Ended::Exited(_)), "{daemon:?}"),
            Ended::Failed(_) => {
                assert!(matches!(daemon.ended, Ended::Failed(_) | Ended::NotBuiltHere(_)), "{daemon:?}");
            }
            _ => panic!("{sandbox:?}"),
        }
    };
    check("code", "exit 9", &[]);
    check("nothing", "true", &[]);
    check("pipe", "mkfifo $out", &[]);
    check("open", "mkdir $out; chmod 777 $out", &[]);
    check("refers", "echo $PATH >$out", &[("allowedReferences", "")]);
    check("itself", "echo $out >$out", &[("allowedReferences", "")]);
    check("graph", "echo >$out", &[("exportReferencesGraph", "one")]);
}

#[test]
fn a_graph_without_the_outputs_of_its_derivations_is_written_by_neither() {
    let Some(both) = both() else { return };
    let unbuilt =
        both.yard.made(&Recipe { name: "unbuilt", script: "echo >$out".into(), ..Recipe::default() });
    for executor in [&both.daemon as &dyn Executor, &both.yard.executor] {
        both.yard.add(both.yard.open_at(executor).as_mut(), &unbuilt);
    }
    let [daemon, sandbox] = both.build(&both.yard.made(&Recipe {
        name: "graph",
        script: "echo >$out".into(),
        env: vec![("exportReferencesGraph", format!("graph {}", unbuilt.path))],
        sources: vec![unbuilt.path.clone()],
        ..Recipe::default()
    }));
    assert!(matches!(daemon.ended, Ended::Failed(_) | Ended::NotBuiltHere(_)), "{daemon:?}");
    assert!(
        matches!(&sandbox.ended, Ended::Failed(why) if why.contains(unbuilt.out().as_str())),
        "{sandbox:?}"
    );
}
