//! Filters of every processor, run by a machine of our own.

use super::*;

/// The machine that runs filters, as far as ours need it.
fn run(filter: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
    let (mut next, mut loaded) = (0, 0);
    loop {
        let step = filter[next];
        next += 1;
        let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            0x20 => {
                loaded = match step.k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    offset => arguments[((offset - 16) / 8) as usize],
                }
            }
            0x15 => next += branch(loaded == step.k),
            0x35 => next += branch(loaded >= step.k),
            0x45 => next += branch(loaded & step.k != 0),
            0x05 => next += step.k as usize,
            0x06 => return step.k,
            other => panic!("{other:#x} is no step of ours"),
        }
    }
}

const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const OPEN: Kind = Kind { network: true, bits32: false };
const CLOSED: Kind = Kind { network: false, bits32: false };

fn error(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()
}

#[test]
fn each_call_is_judged_by_its_argument_on_each_architecture() {
    for pair in [&[X86_64, I386][..], &[AARCH64, ARM], &[RISCV64]] {
        let filter = assemble(pair, OPEN);
        for table in pair {
            let ask = |number, arguments| run(&filter, table.architecture, number, arguments);
            for (number, rule) in OPEN.calls(table) {
                let with = |values: &[(u32, u32)]| {
                    let mut arguments = [0; 6];
                    for (place, value) in values {
                        arguments[*place as usize] = *value;
                    }
                    ask(number, arguments)
                };
                match rule {
                    Rule::Absent => assert_eq!(with(&[]), ENOSYS, "{number}"),
                    Rule::Is(place, values, errno) => {
                        for value in values {
                            assert_eq!(with(&[(place, *value)]), error(errno), "{number}");
                            assert_eq!(with(&[(5 - place, *value)]), ALLOWED, "{number}");
                        }
                        assert_eq!(with(&[(place, 2)]), ALLOWED, "{number}");
                    }
                    Rule::Has(place, bits, errno) => {
                        assert_eq!(with(&[(place, bits | 0x11)]), error(errno), "{number}");
                        assert_eq!(with(&[(place, !bits)]), ALLOWED, "{number}");
                    }
                    Rule::Mode(mode) => {
                        assert_eq!(with(&[(mode, 0o1777)]), ALLOWED, "{number}");
                        assert_eq!(with(&[(mode, 0o4755)]), EPERM, "{number}");
                        assert_eq!(with(&[(mode, 0o2755)]), EPERM, "{number}");
                    }
                    Rule::Open(flags, mode) => {
                        assert_eq!(with(&[(flags, 0), (mode, 0o6755)]), ALLOWED, "{number}");
                        assert_eq!(with(&[(flags, 0o102), (mode, 0o644)]), ALLOWED, "{number}");
                        assert_eq!(with(&[(flags, 0o102), (mode, 0o4755)]), EPERM, "{number}");
                        assert_eq!(with(&[(flags, 0o20_000_002), (mode, 0o2755)]), EPERM, "{number}");
                    }
                }
            }
            assert_eq!(ask(1, [0o6777; 6]), ALLOWED);
            assert_eq!(ask(10_000, [0o6777; 6]), ALLOWED);
        }
    }
}

/// What the filter of each processor must do, by numbers that are not taken from the tables: of chmod or fchmodat and where
/// their mode is, of open or openat and where the flags are, and of keyctl.
#[test]
fn on_each_processor_a_setuid_chmod_is_refused_an_open_passes_and_another_architecture_is_killed() {
    type Calls = ((u32, usize), (u32, usize), u32);
    let machines: [(&[Table], &[Calls]); 3] = [
        (&[X86_64, I386], &[((90, 1), (2, 1), 250), ((15, 1), (5, 1), 288)]),
        (&[AARCH64, ARM], &[((53, 2), (56, 2), 219), ((15, 1), (5, 1), 311)]),
        (&[RISCV64], &[((53, 2), (56, 2), 219)]),
    ];
    for (tables, calls) in machines {
        for kind in [OPEN, CLOSED, Kind { bits32: true, ..OPEN }] {
            let filter = assemble(tables, kind);
            // The kernel takes no more steps.
            assert!(filter.len() < 4096);
            for (table, ((chmod, mode), (open, flags), keyctl)) in tables.iter().zip(calls) {
                let ask = |number, place: usize, value| {
                    let mut arguments = [0; 6];
                    arguments[place..].fill(value);
                    run(&filter, table.architecture, number, arguments)
                };
                assert_eq!(ask(*chmod, *mode, 0o4755), EPERM, "{chmod}");
                assert_eq!(ask(*chmod, *mode, 0o755), ALLOWED, "{chmod}");
                assert_eq!(ask(*open, *flags, 0o4000), ALLOWED, "{open}");
                assert_eq!(ask(*open, *flags, 0o4100), EPERM, "{open}");
                assert_eq!(ask(*keyctl, 0, 0), ENOSYS, "{keyctl}");
            }
            for other in [X86_64, I386, AARCH64, ARM, RISCV64] {
                let is_here = tables.iter().any(|table| table.architecture == other.architecture);
                let killed = run(&filter, other.architecture, 1, [0; 6]) == libc::SECCOMP_RET_KILL_PROCESS;
                assert_eq!(killed, !is_here, "{:#x}", other.architecture);
            }
        }
    }
}

#[test]
fn another_kind_of_calls_is_refused() {
    let filter = assemble(&[X86_64, I386], CLOSED);
    assert_eq!(run(&filter, X86_64.architecture, 0x4000_0000 | 90, [0; 6]), ENOSYS);
    assert_eq!(run(&filter, X86_64.architecture, 0x3FFF_FFFF, [0; 6]), ALLOWED);
}

#[test]
fn sockets_are_judged_where_the_network_is_the_machines_and_hidden_ones_refused_where_they_can_be_spared() {
    let ask = |kind, architecture, number, family| {
        run(&assemble(&[X86_64, I386], kind), architecture, number, [family, 2, 0, 0, 0, 0])
    };
    let (long, short) = (X86_64.architecture, I386.architecture);
    assert_eq!(ask(OPEN, long, 41, 1), error(libc::EAFNOSUPPORT));
    assert_eq!(ask(OPEN, long, 41, 2), ALLOWED);
    assert_eq!(ask(CLOSED, long, 41, 1), ALLOWED);
    assert_eq!(ask(OPEN, long, 53, 1), error(libc::EAFNOSUPPORT));
    assert_eq!(ask(CLOSED, long, 53, 1), ALLOWED);
    let old = Kind { bits32: true, ..OPEN };
    assert_eq!(ask(old, short, 359, 1), error(libc::EAFNOSUPPORT));
    // Programs of 32 bits whose sandbox is theirs have no other call for a loopback.
    let closed_old = Kind { bits32: true, ..CLOSED };
    for (kind, answer) in [(OPEN, ENOSYS), (old, ALLOWED), (CLOSED, ENOSYS), (closed_old, ALLOWED)] {
        assert_eq!(ask(kind, short, 102, 1), answer, "{kind:?}");
        assert_eq!(ask(kind, short, 102, 3), ALLOWED, "{kind:?}");
    }
}

#[test]
fn sockets_that_no_namespace_keeps_apart_are_refused_in_every_sandbox() {
    for kind in [OPEN, CLOSED, Kind { bits32: true, ..OPEN }, Kind { bits32: true, ..CLOSED }] {
        for (tables, numbers) in
            [(&[X86_64, I386][..], &[41, 359][..]), (&[AARCH64, ARM], &[198, 281]), (&[RISCV64], &[198])]
        {
            let filter = assemble(tables, kind);
            for (table, number) in tables.iter().zip(numbers) {
                let ask = |family| run(&filter, table.architecture, *number, [family, 1, 0, 0, 0, 0]);
                for family in [40, 42] {
                    assert_eq!(ask(family), error(libc::EAFNOSUPPORT), "{number} {family} {kind:?}");
                }
                // Of the internet, old and new, and the kernel's own news.
                for family in [2, 10, 16] {
                    assert_eq!(ask(family), ALLOWED, "{number} {family} {kind:?}");
                }
            }
        }
    }
}

#[test]
fn the_numbers_are_those_of_this_machine() {
    let Some(table) = HERE.first() else { return };
    let is_judged = |call: libc::c_long, rule| {
        let number = u32::try_from(call).unwrap();
        assert!(OPEN.calls(table).any(|judged| judged == (number, rule)), "{call}");
    };
    for (call, rule) in [
        (libc::SYS_openat, Rule::Open(2, 3)),
        (libc::SYS_fchmod, Rule::Mode(1)),
        (libc::SYS_fchmodat, Rule::Mode(2)),
        (libc::SYS_mknodat, Rule::Mode(2)),
        (libc::SYS_add_key, Rule::Absent),
        (libc::SYS_request_key, Rule::Absent),
        (libc::SYS_keyctl, Rule::Absent),
        (libc::SYS_io_uring_setup, Rule::Absent),
        (libc::SYS_openat2, Rule::Absent),
        (libc::SYS_clone3, Rule::Absent),
        (libc::SYS_clone, SPACES),
        (libc::SYS_unshare, SPACES),
        (libc::SYS_ioctl, CONTROL),
        (libc::SYS_socket, OPEN_FAMILY),
        (libc::SYS_socketpair, PAIR),
    ] {
        is_judged(call, rule);
    }
    // Not everywhere does the C library's table have it, and it came when all had the same numbers.
    is_judged(452, Rule::Mode(2));
    #[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm"))]
    for (call, rule) in [
        (libc::SYS_open, Rule::Open(1, 2)),
        (libc::SYS_creat, Rule::Mode(1)),
        (libc::SYS_chmod, Rule::Mode(1)),
        (libc::SYS_mknod, Rule::Mode(1)),
    ] {
        is_judged(call, rule);
    }
}
