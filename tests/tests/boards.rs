//! Boards that start from images, in QEMU: a graph across two kinds of processors, and what boards do without what they need.
//! `ci/test boards` makes the images first.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use drover_tests::authority::{Authority, Wanted};
use drover_tests::client::want;
use drover_tests::emulated::{AARCH64, Emulated, HOST, Kind, RISCV64, START, Setup};
use drover_tests::farm::{self, Farm};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::shell::Shell;
use drover_tests::{ground, wait};
use drover_wire::BuildState;

/// Says which processor it ran on, and keeps that and what its inputs are.
const SCRIPT: &str = r#"
echo "on $(uname -m), expendable by $(cat /proc/self/oom_score_adj)"
{ uname -m; for input in $inputs; do echo "$input"; cat "$input"; done; } >$out
"#;

/// Long enough for a power cut in it.
const LONG: &str = r#"
echo "in the midst of it"
for second in 1 2 3 4 5 6 7 8; do sleep 1; echo $second; done
for input in $inputs; do cat "$input"; done >$out
"#;

/// Wants more memory than it may have.
const GREEDY: &str = "tail -c 500000000 /dev/zero\necho it has all of it\n";

fn available(test: &str) -> bool {
    let lacking = [AARCH64, RISCV64].into_iter().find(|kind| kind.image().is_none());
    if let Some(kind) = lacking {
        ground::skipped(test, &format!("there is no image of {}: ci/image makes it", kind.triple));
    }
    lacking.is_none()
}

/// A graph whose builders are run by each kind's own shell.
struct Both {
    graph: Graph,
    shells: Vec<(Kind, Shell)>,
}

impl Both {
    fn new(salt: &str) -> Self {
        let shells = [AARCH64, RISCV64].map(|kind| (kind, Shell::busybox(&kind.busybox()).unwrap()));
        Self { graph: Graph::with_shell(shells[0].1.clone(), salt), shells: shells.into() }
    }

    fn add(&mut self, kind: Kind, name: &str, script: &str, inputs: &[&Made]) -> Made {
        let (_, shell) = self.shells.iter().find(|(of, _)| *of == kind).unwrap();
        self.graph.use_shell(shell.clone());
        let recipe = Recipe::new(name, script).system(kind.system);
        self.graph.add(inputs.iter().fold(recipe, |recipe, made| recipe.input(made))).unwrap()
    }
}

#[test]
fn boards_start_through_their_firmware_and_build_a_graph_across_a_power_cut() {
    if !available("boards") {
        return;
    }
    let farm = Farm::start();
    // A number that all boards of a maker have, and that of this one.
    let arguments =
        ["-smbios", "type=1,serial=0123456789", "-smbios", "type=2,serial=VF7110-0042"].map(str::to_owned);
    let setup = Setup { arguments: arguments.into(), ..Setup::new("52:54:00:00:00:01") };
    let mut arm = Emulated::start(AARCH64, &farm, &farm.dir().join("arm"), &setup);
    let clock = format!("{HOST}:{}", farm.agents.port());
    let lines =
        format!("name = risky\nmax-memory = 64M\nmax-processors = 0.5\nboard-clock = http://{clock}\n");
    let setup = Setup::new("52:54:00:00:00:02").lines(&lines);
    let mut riscv = Emulated::start(RISCV64, &farm, &farm.dir().join("riscv"), &setup);
    riscv.says(0, &format!("the clock is set by {clock}: "));
    riscv.says(0, "enrolled as risky");
    arm.says(0, "serial:VF7110-0042, enrolled as board-VF71100042");
    farm.wait_online("risky");

    let mut both = Both::new("boards");
    let a1 = both.add(AARCH64, "a1", SCRIPT, &[]);
    let r1 = both.add(RISCV64, "r1", SCRIPT, &[&a1]);
    let long = both.add(RISCV64, "long", LONG, &[&r1]);
    let a2 = both.add(AARCH64, "a2", SCRIPT, &[&a1, &r1]);
    let fails = both.add(AARCH64, "fails", "echo 'as it should'; exit 3", &[&r1]);
    let never = both.add(RISCV64, "never", SCRIPT, &[&fails]);
    let greedy = both.add(RISCV64, "greedy", GREEDY, &[]);
    let r2 = both.add(RISCV64, "r2", SCRIPT, &[&a2, &long]);
    let a3 = both.add(AARCH64, "a3", SCRIPT, &[&r2, &a2]);
    let all = [&a1, &r1, &long, &a2, &fails, &never, &r2, &a3, &greedy];
    let builds = farm.client.submit_as(&both.graph, all.iter().map(|made| want(made)).collect());

    wait::until_within(START, "the long build should run", || {
        let log = farm.client.log(builds[2]);
        String::from_utf8_lossy(&log).contains("in the midst of it").then_some(())
    });
    let mark = riscv.console.mark();
    riscv.type_line("sh");
    riscv.type_line("cat $(find /sys/fs/cgroup -name cpu.max)");
    // Half of the time.
    riscv.says(mark, "50000 100000");
    riscv.type_line("cat /proc/$(cat /run/agent.pid)/oom_score_adj");
    riscv.says(mark, "-900");
    riscv.cut_power();
    riscv.restore_power();
    let line = riscv.says(mark, "the store is on /dev/");

    let ends = farm.client.wait_ends(&builds);
    let mut states = all.iter().zip(&builds).map(|(made, build)| (made.path.derivation_name(), ends[build]));
    assert!(
        states.all(|(name, state)| state
            == match name {
                "fails" | "greedy" => BuildState::Failed,
                "never" => BuildState::DependencyFailed,
                _ => BuildState::Succeeded,
            }),
        "{ends:?}"
    );
    // It was the same agent before and after, which lost its hold on one build.
    let agents = farm.client.agents();
    let mut hardware: Vec<_> = agents.iter().filter_map(|agent| agent.hardware.as_deref()).collect();
    hardware.sort_unstable();
    assert_eq!(hardware, ["address:52:54:00:00:00:02", "serial:VF7110-0042"], "{agents:#?}");
    assert_eq!(farm.client.show(builds[2]).attempts.len(), 2);
    let text = String::from_utf8_lossy(&farm.client.log(builds[6])).into_owned();
    assert!(text.contains("on riscv64, expendable by 1000"), "{text}");

    // What the kernel finds wrong with the disk is mended, and the agent goes on.
    let disk = line.trim_end().rsplit('/').next().unwrap();
    let mark = riscv.console.mark();
    riscv.type_line("sh");
    riscv.type_line(&format!("echo 1 >/sys/fs/ext4/{disk}/trigger_fs_error; exit"));
    riscv.says(
        mark,
        &format!("the file system of /dev/{disk} has errors, and nothing is written to it any more"),
    );
    riscv.says(mark, &format!("the store is on /dev/{disk}"));
    riscv.says(mark, "INFO agent risky (");
    let last = both.add(RISCV64, "last", SCRIPT, &[&r2]);
    let builds = farm.client.submit_as(&both.graph, vec![want(&last)]);
    let ends = farm.client.wait_ends(&builds);
    assert_eq!(ends[&builds[0]], BuildState::Succeeded);
    assert_eq!(farm.client.agents().len(), 2);

    let mut counts = BTreeMap::new();
    for build in farm.client.by_derivation().values() {
        if let Some(agent) = &build.agent {
            *counts.entry(agent.clone()).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.len(), 2, "{counts:?}");
    for (name, count) in counts {
        println!("the board {name} did {count} builds");
    }
    arm.power_off();
    riscv.power_off();
}

#[test]
fn a_board_without_a_disk_a_coordinator_or_the_time_says_so_and_tries_again() {
    if !available("a board that lacks things") {
        return;
    }
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new(certificates.path(), "ours");
    // Later than the image.
    let wanted = Wanted { name: HOST, since: Some(SystemTime::now()), ..Wanted::default() };
    let pair = authority.certify(certificates.path(), wanted);
    let mut farm = Farm::with(&farm::Setup { flags: pair.flags("agents"), ..farm::Setup::default() });
    let folder = farm.dir().join("board");
    // What begins with zeros is still somebody's.
    fs::create_dir(&folder).unwrap();
    let disk = folder.join("store.img");
    let mut file = File::create(&disk).unwrap();
    file.set_len(256 << 20).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(b"what somebody wrote").unwrap();
    drop(file);
    let before = fs::read(&disk).unwrap();
    // Nor is what cannot be read empty.
    let unreadable = folder.join("unreadable.img");
    File::create(&unreadable).unwrap().set_len(512 << 20).unwrap();
    let drive = format!(
        "driver=raw,if=none,id=bad,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=none,file.inject-error.0.iotype=read",
        unreadable.display()
    );

    let arguments =
        ["-rtc", "base=1970-01-02T03:04:05", "-drive", &drive, "-device", "virtio-blk-pci,drive=bad"];
    let setup = Setup {
        authority: Some(authority.file.clone()),
        arguments: arguments.map(str::to_owned).into(),
        ..Setup::new("52:54:00:00:00:03").lines("name = lonely\nca-file = ca.pem\n")
    };
    let mut board = Emulated::start(RISCV64, &farm, &folder, &setup);
    farm.coordinator.kill();
    board.says(0, "this machine's clock was in 1970; it is set to the image's date");
    board.says(0, "there is no disk for the store yet; it is waited for");
    board.says(
        0,
        "there is no disk for the store, neither one that was it before nor an empty one: it is in memory",
    );
    board.says(0, "will try again to enrol this machine");
    farm.coordinator.restart();
    let line = board.says(0, "TLS: the certificate is valid from ");
    assert!(line.contains("this machine's clock says that it is ") && line.contains("--set-clock"), "{line}");

    // The coordinator's word is taken once that is said. The machine starts anew as nobody tells its watchdog any more that it
    // lives, whose two minutes are ten seconds here.
    let mark = board.console.mark();
    board.configure("name = lonely\nca-file = ca.pem\nboard-clock = coordinator\nboard-disk = memory\n");
    board.type_line("sh");
    board.type_line("kill -9 $(pidof watchdog); sleep 1; watchdog -t 60 -T 10 /dev/watchdog");
    let line = board.says(mark, "it is set by the coordinator's word");
    assert!(line.contains("its certificate is good at that time"), "{line}");
    board.says(mark, "enrolled as lonely");
    farm.wait_online("lonely");

    // A key that is pinned needs no clock. Its memory forgets its password when its kernel has panicked, as a card does
    // that is flashed anew, and it is the same agent.
    let pin = farm.drover([Path::new("key"), Path::new("tls"), &pair.certificate]);
    board.configure(&format!(
        "name = lonely\ncoordinator-key = {}\nboard-address = 10.0.2.77/24\nboard-gateway = {HOST}\nboard-dns = 10.0.2.3\n\
         board-disk = memory\n",
        String::from_utf8_lossy(&pin.stdout).trim()
    ));
    let mark = board.console.mark();
    board.type_line("sh");
    board.type_line("echo c >/proc/sysrq-trigger");
    board.says(mark, "this machine's clock was in 1970; it is set to the image's date");
    board.says(mark, " has the address 10.0.2.77/24");
    board.says(mark, "enrolled as lonely");
    farm.coordinator.line("what it had as a password is not accepted any more");
    assert_eq!(farm.client.agents().len(), 1);
    let mark = board.console.mark();
    board.type_line("sh");
    board.type_line(
        "ip route; cat /etc/resolv.conf; grep max-memory /run/agent-arguments; df -k /data; free -k; exit",
    );
    board.says(mark, &format!("default via {HOST} "));
    board.says(mark, "nameserver 10.0.2.3");
    // Builds and a store in memory leave some of it to the others.
    let mut number = |part: &str, word: usize| -> u64 {
        let line = board.says(mark, part);
        let mut words = line.split(|letter: char| !letter.is_ascii_digit()).filter(|word| !word.is_empty());
        words.nth(word).unwrap().parse().unwrap()
    };
    let (build, store, all) = (number("--max-memory=", 0), number("store ", 0), number("Mem:", 0));
    assert!(build > 0 && store > 0 && build + store <= all / 100 * 91, "{build} and {store} of {all} KiB");
    // It reads ahead.
    board.says(mark, "the shell ended");
    board.power_off();
    assert!(fs::read(&disk).unwrap() == before, "the disk was written to");
    assert_eq!(fs::metadata(&unreadable).unwrap().blocks(), 0, "the disk was formatted");
}

#[test]
fn a_torn_disk_is_mended_and_a_missing_network_and_a_wrong_configuration_are_told_each_time() {
    if !available("a board that is broken") {
        return;
    }
    let farm = Farm::start();
    let folder = farm.dir().join("board");
    fs::create_dir(&folder).unwrap();
    let disk = folder.join("store.img");
    File::create(&disk).unwrap().set_len(1 << 30).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-L", "drover"]).arg(&disk).status().unwrap();
    assert!(made.success());
    // The first files' places: what is the root folder nobody knows any more.
    let mut file = OpenOptions::new().write(true).open(&disk).unwrap();
    let dumped = Command::new("dumpe2fs").arg(&disk).output().unwrap();
    let text = String::from_utf8_lossy(&dumped.stdout).into_owned();
    let table = text.split_once("Inode table at ").unwrap().1.split('-').next().unwrap();
    file.seek(SeekFrom::Start(table.parse::<u64>().unwrap() * 4096)).unwrap();
    file.write_all(&[0x5a; 4096]).unwrap();
    drop(file);

    let setup = Setup::new("52:54:00:00:00:04")
        .lines("name = broken\nboard-interface = eth7\nboard-disc = none\nmax-parallel-builds = many\n");
    let mut board = Emulated::start(RISCV64, &farm, &folder, &setup);
    board.says(0, "there is no option board-disc");
    board.says(0, "is torn; it is mended");
    board.says(0, "the store is on /dev/");
    board.says(0, "no network: no network card called eth7 is there; tried again in 2 s");
    // The line is that of the file as a person sees it.
    board.says(0, "drover-agent.conf:9: max-parallel-builds: ");
    board.says(0, "the agent ended for its configuration, drover-agent.conf on the partition DROVER; started again in 4 s");

    board.cut_power();
    let mut file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.seek(SeekFrom::Start(1024)).unwrap();
    file.write_all(&[0xff; 1024]).unwrap();
    drop(file);
    let mark = board.console.mark();
    // As if the card were there late.
    board.name_partition("NOTHING");
    board.restore_power();
    board
        .says(mark, "no disk has a FAT partition called DROVER that can be mounted; looked for again in 2 s");
    board.name_partition("DROVER");
    board.says(mark, "the configuration is on /dev/");
    let line = board.says(mark, "the superblock of ");
    assert!(line.contains(" is torn; it is mended from its copy"), "{line}");
    board.says(mark, "the store is on /dev/");
    board.power_off();
}
