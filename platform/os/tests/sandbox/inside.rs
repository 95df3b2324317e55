//! What a program in a sandbox sees, and what it cannot do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use drover_os::process::Exit;
use drover_os::sandbox::available;
use drover_os::user;

use crate::ground::{GROUP, Ground, USER, both, finish, mark, skipped, sleepers};
use crate::probe::probe;

#[test]
fn it_is_the_first_process_and_leads_a_session_without_rights() {
    both("inside::it_is_the_first_process_and_leads_a_session_without_rights", || {
        let ground = Ground::new();
        assert_eq!(ground.says("echo $$"), "1");
        assert_eq!(ground.says("cut -d' ' -f 1,5,6 /proc/self/stat").split(' ').nth(2), Some("1"));
        assert_eq!(
            ground.says("umask; pwd; ulimit -c; id -u; id -g"),
            format!("0022\n/build\n0\n{USER}\n{GROUP}")
        );
        assert_eq!(ground.says("cat /proc/sys/kernel/hostname"), "localhost");
        let status = ground.says("cat /proc/self/status");
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        for rights in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(value(rights).trim_start_matches('0'), "", "{rights}");
        }
        assert_eq!((value("NoNewPrivs:"), value("Seccomp:")), ("1", "2"));
        if user::is_root() {
            assert_eq!(value("Groups:"), kvm_group().map_or(String::new(), |group| group.to_string()));
        }
    });
}

/// The group of /dev/kvm, if it is there and not root's.
fn kvm_group() -> Option<u32> {
    fs::metadata("/dev/kvm").ok().map(|device| device.gid()).filter(|group| *group != 0)
}

#[test]
fn as_root_it_may_use_the_virtual_machines_that_a_group_may_use() {
    const NAME: &str = "inside::as_root_it_may_use_the_virtual_machines_that_a_group_may_use";
    const INSIDE: &str = "DROVER_TEST_KVM";
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(kvm_group(), Some(77));
        let ground = Ground::new();
        assert_eq!(ground.says("cat /dev/kvm; id -G"), format!("used\n{GROUP} 77"));
        return;
    }
    if !user::is_root() || !Path::new("/dev/kvm").exists() || available().is_err() {
        return skipped(NAME, "it wants root and a /dev/kvm");
    }
    // A file in its place, seen by nobody else.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvm");
    fs::write(&file, "used\n").unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    std::os::unix::fs::chown(&file, Some(0), Some(77)).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount --bind \"$1\" /dev/kvm && shift && exec \"$@\"").arg("sh").arg(&file);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", NAME, "--nocapture"]);
    let status = command.env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn it_sees_no_process_of_the_machine_and_cannot_end_one() {
    both("inside::it_sees_no_process_of_the_machine_and_cannot_end_one", || {
        let ground = Ground::new();
        let other = ground.start("while :; do sleep 1; done");
        let (own, id) = (std::process::id(), other.id());
        let seen = ground.says("for p in /proc/[0-9]*; do echo ${p#/proc/}; done");
        assert_eq!(seen, "1");
        for process in [own, id] {
            let (exit, said) = ground.run(&format!("kill -9 {process}"));
            assert!(!exit.is_success(), "{said}");
        }
    });
}

#[test]
fn it_has_a_loopback_that_is_up_and_no_other_network() {
    both("inside::it_has_a_loopback_that_is_up_and_no_other_network", || {
        let mut ground = Ground::new();
        let devices = ground.says("sed -n 's/:.*//p' /proc/net/dev | tr -d ' '");
        assert_eq!(devices, "lo");
        assert_eq!(probe(&mut ground, "loopback", ""), "fine");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(probe(&mut Ground::new(), "connect", &address), "ConnectionRefused");
        let mut open = Ground::new();
        open.sandbox.network = true;
        assert_eq!(probe(&mut open, "connect", &address), "fine");
    });
}

#[test]
fn what_is_there_to_be_read_cannot_be_written() {
    both("inside::what_is_there_to_be_read_cannot_be_written", || {
        let mut ground = Ground::new();
        let input = tempfile::tempdir().unwrap();
        fs::set_permissions(input.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        fs::write(input.path().join("file"), "kept").unwrap();
        fs::set_permissions(input.path().join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        ground.bind(input.path(), "/input", false);
        for script in [
            "echo changed >/input/file",
            "echo new >/input/new",
            "rm -f /input/file",
            "chmod 600 /input/file",
            "mount -o remount,bind,rw /input && echo changed >/input/file",
        ] {
            let (exit, said) = ground.run(script);
            assert!(!exit.is_success(), "{script}: {said}");
        }
        // With a user namespace of its own, it has rights in there, but not over what came with it.
        let (exit, said) = ground.run("unshare -Urm true");
        if exit.is_success() {
            for script in ["mount -o remount,bind,rw /input && echo changed >/input/file", "umount /input"] {
                let (exit, said) = ground.run(&format!("unshare -Urm sh -c '{script}'"));
                assert!(!exit.is_success(), "{script}: {said}");
            }
        } else {
            let why = format!("of namespaces within a sandbox: {}", said.trim_end());
            skipped("inside::what_is_there_to_be_read_cannot_be_written", &why);
        }
        assert_eq!(fs::read_to_string(input.path().join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(input.path()).unwrap().count(), 1);
    });
}

#[test]
fn what_it_writes_belongs_to_its_user_outside() {
    both("inside::what_it_writes_belongs_to_its_user_outside", || {
        let ground = Ground::new();
        ground.says("echo hello >out && test -O out && test -G out");
        let file = ground.build().join("out");
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello\n");
        let expected = ground.sandbox.ids.outside.map_or(user::effective_id(), |(user, _)| user);
        assert_eq!(file.metadata().unwrap().uid(), expected);
    });
}

#[test]
fn it_sees_the_folder_that_it_got_and_nothing_else_of_the_machine() {
    both("inside::it_sees_the_folder_that_it_got_and_nothing_else_of_the_machine", || {
        let ground = Ground::new();
        let listed = ground.says("cd /; ls");
        let mut expected: Vec<_> =
            ground.sandbox.made.iter().map(|made| made.path().to_str().unwrap()).collect();
        expected.extend(["/dev", "/proc"]);
        expected.sort_unstable();
        let roots: Vec<_> = listed.lines().map(|name| format!("/{name}")).collect();
        assert_eq!(roots, expected);
        // None of it is anybody's to change, not even with the rights of whom it belongs to.
        for attempt in ["mkdir /more", "chmod 777 /", "mv /usr /away", "touch -d @5 /"] {
            assert!(!ground.run(attempt).0.is_success(), "{attempt}");
        }
        // The way up ends at the root, however it is tried.
        assert_eq!(ground.says("cd /../../..; ls"), listed);
        let mounts = ground.says("cut -d' ' -f 5 /proc/self/mountinfo");
        let own = |mount: &str| {
            mount == "/"
                || ["/proc", "/dev", "/build", "/tmp", "/usr", "/bin", "/lib"]
                    .iter()
                    .any(|own| mount.starts_with(own))
        };
        assert!(mounts.lines().all(own), "{mounts}");
        // The machine does not see what is mounted in there.
        let machine = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!machine.contains(ground.sandbox.root.to_str().unwrap()), "{machine}");
    });
}

#[test]
fn its_devices_work_and_are_few() {
    both("inside::its_devices_work_and_are_few", || {
        let ground = Ground::new();
        let listed = ground.says("ls /dev | grep -v '^kvm$' | tr '\\n' ' '");
        assert_eq!(listed.trim(), "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero");
        ground.says("echo x >/dev/null && test $(head -c 4 /dev/zero | wc -c) = 4 && test $(head -c 4 /dev/urandom | wc -c) = 4");
        assert_eq!(ground.says("echo one >/dev/stdout; echo two >/dev/stderr"), "one\ntwo");
        ground.says("echo x >/dev/shm/x && : <>/dev/ptmx");
        for script in ["echo x >/dev/new", "rm -f /dev/null", "mknod /build/zero c 1 5", "echo x >/dev/full"]
        {
            let (exit, said) = ground.run(script);
            assert!(!exit.is_success(), "{script}: {said}");
        }
    });
}

#[test]
fn files_that_run_as_their_owner_are_not_made() {
    both("inside::files_that_run_as_their_owner_are_not_made", || {
        let mut ground = Ground::new();
        for script in ["chmod u+s file", "chmod g+s file", "chmod 4755 file", "mkdir -p d; chmod 2755 d"] {
            let (exit, said) = ground.run(&format!("echo x >file; {script}"));
            assert!(!exit.is_success() && said.contains("not permitted"), "{script}: {said}");
        }
        ground.says("echo x >file; chmod 1755 file; chmod 755 file; mkdir -m 1777 folder; cp -p file copy");
        for call in ["open", "creat", "mknod", "fchmodat2"] {
            assert_eq!(probe(&mut ground, call, "/build/probed"), "EPERM", "{call}");
        }
        assert_eq!(probe(&mut ground, "openat2", "/build/probed"), "ENOSYS");
        assert!(!ground.build().join("probed").exists());
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn they_are_not_made_by_programs_of_32_bits_either() {
    both("inside::they_are_not_made_by_programs_of_32_bits_either", || {
        let mut ground = Ground::new();
        ground.says("echo x >file");
        assert_eq!(probe(&mut ground, "chmod of 32 bits", "/build/file"), "EPERM");
        assert_eq!(fs::metadata(ground.build().join("file")).unwrap().mode() & 0o7777, 0o644);
    });
}

#[test]
fn the_kernels_keyrings_are_not_there() {
    both("inside::the_kernels_keyrings_are_not_there", || {
        let mut ground = Ground::new();
        for call in ["keyctl", "add_key", "request_key", "io_uring_setup"] {
            assert_eq!(probe(&mut ground, call, ""), "ENOSYS", "{call}");
        }
    });
}

#[test]
fn the_machines_abstract_sockets_are_out_of_reach_where_its_network_is_not() {
    both("inside::the_machines_abstract_sockets_are_out_of_reach_where_its_network_is_not", || {
        let mut ground = Ground::new();
        for call in ["socket of the machine", "pair of datagrams", "pair of streams", "socket"] {
            assert_eq!(probe(&mut ground, call, ""), "fine", "{call}");
        }
        ground.sandbox.network = true;
        for call in ["socket of the machine", "pair of datagrams"] {
            assert_eq!(probe(&mut ground, call, ""), "EAFNOSUPPORT", "{call}");
        }
        for call in ["pair of streams", "socket"] {
            assert_eq!(probe(&mut ground, call, ""), "fine", "{call}");
        }
        if cfg!(target_arch = "x86_64") {
            assert_eq!(probe(&mut ground, "socket of 32 bits", ""), "ENOSYS");
        }
    });
}

#[test]
fn sockets_to_virtual_machines_and_their_host_are_in_no_sandbox() {
    both("inside::sockets_to_virtual_machines_and_their_host_are_in_no_sandbox", || {
        let mut ground = Ground::new();
        for network in [false, true] {
            ground.sandbox.network = network;
            assert_eq!(probe(&mut ground, "socket of a virtual machine", ""), "EAFNOSUPPORT");
        }
        ground.sandbox.network = false;
        if cfg!(target_arch = "x86_64") {
            assert_eq!(probe(&mut ground, "socket of 32 bits", ""), "ENOSYS");
            ground.sandbox.bits32 = true;
            // Its arguments are read where there are none.
            assert_eq!(probe(&mut ground, "socket of 32 bits", ""), "EFAULT");
        }
    });
}

#[test]
fn subvolumes_of_btrfs_are_not_made() {
    both("inside::subvolumes_of_btrfs_are_not_made", || {
        let mut ground = Ground::new();
        for call in [0x5000_940E_u32, 0x5000_9401, 0x5000_9417, 0x5000_9418] {
            assert_eq!(probe(&mut ground, "ioctl", &call.to_string()), "ENOTTY", "{call:x}");
        }
        // To share the blocks of a file.
        assert_eq!(probe(&mut ground, "ioctl", "1074041865"), "EBADF");
    });
}

#[test]
fn control_groups_are_not_made_a_namespace_of() {
    both("inside::control_groups_are_not_made_a_namespace_of", || {
        let mut ground = Ground::new();
        let (user, groups) = (libc::CLONE_NEWUSER, libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP);
        for call in ["unshare", "clone"] {
            let flags = |flags: i32| if call == "clone" { flags | libc::SIGCHLD } else { flags };
            assert_eq!(probe(&mut ground, call, &flags(groups).to_string()), "EPERM", "{call}");
        }
        // Otherwise namespaces may be made; that of users wants one thread.
        assert_eq!(probe(&mut ground, "clone", &(user | libc::SIGCHLD).to_string()), "fine");
        assert_eq!(probe(&mut ground, "clone3", ""), "ENOSYS");
    });
}

#[test]
fn a_bomb_of_forks_is_limited_and_killed() {
    both("inside::a_bomb_of_forks_is_limited_and_killed", || {
        let mut ground = Ground::new();
        ground.sandbox.limits.processes = Some(20);
        let time = mark();
        let (exit, said) = ground.run(&format!(
            "i=0; while [ $i -lt 100 ]; do sleep {time} >/dev/null 2>&1 & i=$((i+1)); done; echo all of them"
        ));
        assert!(!exit.is_success() && !said.contains("all of them"), "{exit:?}: {said}");
        assert_eq!(sleepers(&time), 0);
        // One that never ends by itself.
        let mut bomb = ground.start("b() { b | b & sleep 0.01; b; }; b");
        crate::ground::hears(&mut bomb, "fork");
        bomb.kill(crate::ground::soon()).unwrap();
        assert_eq!(ground.says("echo the next one runs"), "the next one runs");
    });
}

#[test]
fn files_grow_no_larger_than_they_may() {
    both("inside::files_grow_no_larger_than_they_may", || {
        let mut ground = Ground::new();
        ground.sandbox.limits.file_size = Some(100_000);
        ground.sandbox.limits.open_files = Some(64);
        ground.says("head -c 100000 /dev/zero >small");
        for script in ["head -c 100001 /dev/zero >large", "truncate -s 1G sparse"] {
            assert!(!ground.run(script).0.is_success(), "{script}");
        }
        assert_eq!(ground.says("ulimit -n; ulimit -Hn"), "64\n64");
        assert_eq!(fs::metadata(ground.build().join("large")).unwrap().len(), 100_000);
    });
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn the_processor_claims_to_have_32_bits() {
    both("inside::the_processor_claims_to_have_32_bits", || {
        let mut ground = Ground::new();
        let own = if cfg!(target_arch = "x86") { "i686" } else { "x86_64" };
        assert_eq!(ground.says("uname -m"), own);
        ground.sandbox.bits32 = true;
        assert_eq!(ground.says("uname -m"), "i686");
    });
}

#[test]
fn what_it_prints_and_complains_keeps_its_order_and_nothing_else_of_ours_is_open() {
    both("inside::what_it_prints_and_complains_keeps_its_order_and_nothing_else_of_ours_is_open", || {
        let ground = Ground::new();
        assert_eq!(ground.says("echo a; echo b >&2; echo c"), "a\nb\nc");
        let file = fs::File::open("/").unwrap();
        // As one that was handed to us by a careless parent.
        // SAFETY: the descriptor is open and ours.
        unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETFD, 0) };
        assert_eq!(ground.says("ls /proc/1/fd; true"), "0\n1\n2");
        let named = ground.program("/bin/sh", ["-c", "tr '\\0' ' ' </proc/1/cmdline"]).named("other name");
        let (exit, said) = finish(named.spawn().unwrap());
        assert_eq!(exit, Exit::Code(0));
        assert!(said.starts_with("other name -c "), "{said}");
    });
}
