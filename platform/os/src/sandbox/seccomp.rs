//! The filter of system calls: what a program in a sandbox cannot do although its user may.
//!
//! Files that run as their owner (setuid, setgid) are not made: until the end of a build they lie on the machine, where
//! somebody else could run them. So calls whose argument shows such permissions get EPERM. A folder is made without them
//! by the kernel itself, whatever is asked for, so mkdir is left alone. What could get around this gets ENOSYS, as in
//! kernels that do not have it, and programs do without: `openat2` and `io_uring`, whose arguments a filter does not
//! see. So do the calls of the kernel's keyrings, which no namespace keeps apart.
//!
//! With the machine's network come its abstract sockets, which are reached by name from whoever shares the network: session
//! buses and X servers that trust a user's number, or an accomplice who is handed an open file and lives on after the build.
//! So there `socket` makes none of that family, and `socketpair` only such as cannot be sent elsewhere: datagrams can. And two
//! families reach the machine whatever network a program has: to virtual machines or from one to its host (vsock), and to the
//! other processors of a board (QRTR). They are not there in any sandbox.
//!
//! Two more keep to us what is ours. Subvolumes of btrfs, which look like folders that even root cannot empty, are not made. And control groups are not to be
//! mounted anew, which wants a namespace of them: as a plain user, the files of a build's group are the builder's own. `clone3`,
//! whose flags a filter does not see, is not there; the C library uses `clone` then.
//!
//! The kernel runs the filter as a program of its own small machine (classic BPF, `linux/filter.h`) over number,
//! architecture and arguments of each call (`linux/seccomp.h`). The numbers are those of each architecture's table.

use std::io;

use libc::sock_filter;

/// What is done about a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The argument of this number is permissions.
    Mode(u32),
    /// Opens a file: flags, and the permissions of one that is made. Without the latter they may be anything.
    Open(u32, u32),
    /// As if the kernel had no such call.
    Absent,
    /// Refused with this error if the argument of this number is one of these.
    Is(u32, &'static [u32], i32),
    /// Refused with this error if the argument of this number has one of these bits.
    Has(u32, u32, i32),
}

/// Families that no namespace keeps apart: `AF_VSOCK` and `AF_QIPCRTR` (`linux/socket.h`).
const VSOCK: u32 = 40;
const QIPCRTR: u32 = 42;
/// Makes a socket of a family: one that namespaces keep apart.
const FAMILY: Rule = Rule::Is(0, &[VSOCK, QIPCRTR], libc::EAFNOSUPPORT);
/// The same with the machine's network: not one of the machine's own names, either.
const OPEN_FAMILY: Rule = Rule::Is(0, &[VSOCK, QIPCRTR, libc::AF_UNIX as u32], libc::EAFNOSUPPORT);
/// Makes a pair of sockets, which are always of that family, of a type. What can be sent to any name (2, datagrams, and 3,
/// which is made the same) has this bit, and what cannot (1, streams, and 5, packets) does not.
const PAIR: Rule = Rule::Has(1, 2, libc::EAFNOSUPPORT);
/// Makes a subvolume or a snapshot (`linux/btrfs.h`). A copy that shares blocks (FICLONE) stays.
const CONTROL: Rule = Rule::Is(1, &[0x5000_940E, 0x5000_9401, 0x5000_9417, 0x5000_9418], libc::ENOTTY);
/// Makes namespaces, of control groups among them.
#[allow(clippy::cast_sign_loss)] // it is positive
const SPACES: Rule = Rule::Has(0, libc::CLONE_NEWCGROUP as u32, libc::EPERM);

/// The calls of an architecture.
struct Table {
    /// The kernel's number for it (`linux/audit.h`).
    architecture: u32,
    calls: &'static [(u32, Rule)],
    /// The number of `socket`.
    socket: u32,
    /// The number of `socketpair`.
    pair: u32,
    /// Those that hide from a filter what socket they make, so that all are refused where there is another call for it.
    hidden_sockets: &'static [(u32, Rule)],
    /// The number from which on calls are of another kind: x32 beside x86_64.
    end: Option<u32>,
}

const SETUID_OR_SETGID: u32 = libc::S_ISUID | libc::S_ISGID;
/// `O_CREAT`, and the bit of `O_TMPFILE` that is its own: alike on all of these architectures.
const MAKES_FILE: u32 = 0o100 | 0o20_000_000;

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: Table = Table {
    architecture: 0xC000_003E,
    calls: &[
        (2, Rule::Open(1, 2)),   // open
        (16, CONTROL),           // ioctl
        (56, SPACES),            // clone
        (85, Rule::Mode(1)),     // creat
        (90, Rule::Mode(1)),     // chmod
        (91, Rule::Mode(1)),     // fchmod
        (133, Rule::Mode(1)),    // mknod
        (248, Rule::Absent),     // add_key
        (249, Rule::Absent),     // request_key
        (250, Rule::Absent),     // keyctl
        (257, Rule::Open(2, 3)), // openat
        (259, Rule::Mode(2)),    // mknodat
        (268, Rule::Mode(2)),    // fchmodat
        (272, SPACES),           // unshare
        (425, Rule::Absent),     // io_uring_setup
        (435, Rule::Absent),     // clone3
        (437, Rule::Absent),     // openat2
        (452, Rule::Mode(2)),    // fchmodat2
    ],
    socket: 41,
    pair: 53,
    hidden_sockets: &[],
    end: Some(0x4000_0000),
};

#[cfg(any(target_arch = "x86_64", target_arch = "x86", test))]
const I386: Table = Table {
    architecture: 0x4000_0003,
    calls: &[
        (5, Rule::Open(1, 2)),   // open
        (8, Rule::Mode(1)),      // creat
        (14, Rule::Mode(1)),     // mknod
        (15, Rule::Mode(1)),     // chmod
        (54, CONTROL),           // ioctl
        (94, Rule::Mode(1)),     // fchmod
        (120, SPACES),           // clone
        (286, Rule::Absent),     // add_key
        (287, Rule::Absent),     // request_key
        (288, Rule::Absent),     // keyctl
        (295, Rule::Open(2, 3)), // openat
        (297, Rule::Mode(2)),    // mknodat
        (306, Rule::Mode(2)),    // fchmodat
        (310, SPACES),           // unshare
        (425, Rule::Absent),     // io_uring_setup
        (435, Rule::Absent),     // clone3
        (437, Rule::Absent),     // openat2
        (452, Rule::Mode(2)),    // fchmodat2
    ],
    socket: 359,
    pair: 360,
    // socketcall, which has its arguments in memory: of it only that it makes a socket (1) or a pair of them (8) is seen.
    hidden_sockets: &[(102, Rule::Is(0, &[1, 8], libc::ENOSYS))],
    end: None,
};

/// The calls of those that came late, which have one table.
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64", test))]
const GENERIC: &[(u32, Rule)] = &[
    (29, CONTROL),          // ioctl
    (33, Rule::Mode(2)),    // mknodat
    (52, Rule::Mode(1)),    // fchmod
    (53, Rule::Mode(2)),    // fchmodat
    (56, Rule::Open(2, 3)), // openat
    (97, SPACES),           // unshare
    (217, Rule::Absent),    // add_key
    (218, Rule::Absent),    // request_key
    (219, Rule::Absent),    // keyctl
    (220, SPACES),          // clone
    (425, Rule::Absent),    // io_uring_setup
    (435, Rule::Absent),    // clone3
    (437, Rule::Absent),    // openat2
    (452, Rule::Mode(2)),   // fchmodat2
];

#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: Table = Table {
    architecture: 0xC000_00B7,
    calls: GENERIC,
    socket: 198,
    pair: 199,
    hidden_sockets: &[],
    end: None,
};

#[cfg(any(target_arch = "riscv64", test))]
const RISCV64: Table = Table {
    architecture: 0xC000_00F3,
    calls: GENERIC,
    socket: 198,
    pair: 199,
    hidden_sockets: &[],
    end: None,
};

#[cfg(any(target_arch = "aarch64", target_arch = "arm", test))]
const ARM: Table = Table {
    architecture: 0x4000_0028,
    calls: &[
        (5, Rule::Open(1, 2)),   // open
        (8, Rule::Mode(1)),      // creat
        (14, Rule::Mode(1)),     // mknod
        (15, Rule::Mode(1)),     // chmod
        (54, CONTROL),           // ioctl
        (94, Rule::Mode(1)),     // fchmod
        (120, SPACES),           // clone
        (309, Rule::Absent),     // add_key
        (310, Rule::Absent),     // request_key
        (311, Rule::Absent),     // keyctl
        (322, Rule::Open(2, 3)), // openat
        (324, Rule::Mode(2)),    // mknodat
        (333, Rule::Mode(2)),    // fchmodat
        (337, SPACES),           // unshare
        (425, Rule::Absent),     // io_uring_setup
        (435, Rule::Absent),     // clone3
        (437, Rule::Absent),     // openat2
        (452, Rule::Mode(2)),    // fchmodat2
    ],
    socket: 281,
    pair: 288,
    hidden_sockets: &[],
    end: None,
};

#[cfg(target_arch = "x86_64")]
const HERE: &[Table] = &[X86_64, I386];
#[cfg(target_arch = "x86")]
const HERE: &[Table] = &[I386];
#[cfg(target_arch = "aarch64")]
const HERE: &[Table] = &[AARCH64, ARM];
#[cfg(target_arch = "arm")]
const HERE: &[Table] = &[ARM];
#[cfg(target_arch = "riscv64")]
const HERE: &[Table] = &[RISCV64];
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64"
)))]
const HERE: &[Table] = &[];

/// What a sandbox is like, as far as its filter is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// It has the machine's network.
    pub(super) network: bool,
    /// Its programs are of 32 bits. Those for i386 make all their sockets by a call that hides of which family they are (the
    /// C library does unless it is built for Linux 4.3 or newer), so there all of them stay in reach: it is that, or not even a
    /// loopback.
    pub(super) bits32: bool,
}

impl Kind {
    /// What is judged in such a sandbox, by the numbers of an architecture.
    fn calls(self, table: &Table) -> impl Iterator<Item = (u32, Rule)> {
        let family = (table.socket, if self.network { OPEN_FAMILY } else { FAMILY });
        let pair = self.network.then_some((table.pair, PAIR));
        let hidden = if self.bits32 { &[] } else { table.hidden_sockets };
        table.calls.iter().chain(hidden).copied().chain([family]).chain(pair)
    }
}

/// The filter for this machine.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where we know no system calls.
pub(super) fn filter(kind: Kind) -> io::Result<Vec<sock_filter>> {
    if HERE.is_empty() {
        let message = "there is no filter of system calls for processors of this kind, so no sandbox";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(assemble(HERE, kind))
}

/// Where the kernel puts what a filter looks at.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The lower half of an argument: modes and flags have no more. All of these architectures have it first.
const fn argument(number: u32) -> u32 {
    16 + 8 * number
}

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

/// Skips so many if what is loaded is the value, and as many if it is not.
const fn equal(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x15, jt: then, jf: otherwise, k: value }
}

/// The same if it is the value or more.
const fn at_least(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x35, jt: then, jf: otherwise, k: value }
}

/// The same if it has any of the bits.
const fn has(bits: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x45, jt: then, jf: otherwise, k: bits }
}

const fn skip(count: u32) -> sock_filter {
    sock_filter { code: 0x05, jt: 0, jf: 0, k: count }
}

const fn answer(what: u32) -> sock_filter {
    sock_filter { code: 0x06, jt: 0, jf: 0, k: what }
}

const ALLOW: sock_filter = answer(libc::SECCOMP_RET_ALLOW);
const KILL: sock_filter = answer(libc::SECCOMP_RET_KILL_PROCESS);

#[allow(clippy::cast_sign_loss)] // they are positive
const fn refuse(errno: i32) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno as u32)
}

fn assemble(tables: &[Table], kind: Kind) -> Vec<sock_filter> {
    let mut filter = vec![load(ARCHITECTURE)];
    for table in tables {
        let block = block(table, kind);
        filter.push(equal(table.architecture, 1, 0));
        #[allow(clippy::cast_possible_truncation)] // a few dozen
        filter.push(skip(block.len() as u32));
        filter.extend(block);
    }
    filter.push(KILL);
    filter
}

/// What happens to a call of this architecture; never runs beyond its end.
fn block(table: &Table, kind: Kind) -> Vec<sock_filter> {
    let mut block = vec![load(NUMBER)];
    if let Some(end) = table.end {
        block.extend([at_least(end, 0, 1), refuse(libc::ENOSYS)]);
    }
    for (number, rule) in kind.calls(table) {
        match rule {
            Rule::Absent => block.extend([equal(number, 0, 1), refuse(libc::ENOSYS)]),
            Rule::Mode(mode) => block.extend([
                equal(number, 0, 4),
                load(argument(mode)),
                has(SETUID_OR_SETGID, 0, 1),
                refuse(libc::EPERM),
                ALLOW,
            ]),
            Rule::Has(place, bits, errno) => block.extend([
                equal(number, 0, 4),
                load(argument(place)),
                has(bits, 0, 1),
                refuse(errno),
                ALLOW,
            ]),
            Rule::Is(place, values, errno) => {
                #[allow(clippy::cast_possible_truncation)] // a handful
                let count = values.len() as u8;
                block.extend([equal(number, 0, 2 * count + 2), load(argument(place))]);
                for value in values {
                    block.extend([equal(*value, 0, 1), refuse(errno)]);
                }
                block.push(ALLOW);
            }
            Rule::Open(flags, mode) => block.extend([
                equal(number, 0, 6),
                load(argument(flags)),
                has(MAKES_FILE, 0, 3),
                load(argument(mode)),
                has(SETUID_OR_SETGID, 0, 1),
                refuse(libc::EPERM),
                ALLOW,
            ]),
        }
    }
    block.push(ALLOW);
    block
}

#[cfg(test)]
mod tests;
