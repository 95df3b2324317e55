//! System calls from within a sandbox, by this program itself.

use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use drover_os::process::Program;

use crate::ground::{Ground, finish};

/// What is probed, and on what.
const WHAT: &str = "DROVER_TEST_PROBE";
const ON: &str = "DROVER_TEST_PROBE_ON";

/// Makes a call in a sandbox: `fine`, or the error's name.
pub(crate) fn probe(ground: &mut Ground, what: &str, on: &str) -> String {
    let (exit, said) = finish(prober(ground, what, on).spawn().unwrap());
    let answer =
        said.lines().find_map(|line| line.split_once("answer: ")).map(|(_, answer)| answer.to_owned());
    answer.unwrap_or_else(|| panic!("{what}: {exit:?}: {said}"))
}

/// What makes a call in a sandbox, as its first process.
pub(crate) fn prober(ground: &mut Ground, what: &str, on: &str) -> Program {
    let at = "/probe";
    if !ground.sandbox.made.iter().any(|made| made.path() == Path::new(at)) {
        ground.bind(&std::env::current_exe().unwrap(), at, false);
    }
    let program = ground.program(at, ["--exact", "probe::answers_from_within_a_sandbox", "--nocapture"]);
    program.environment([(WHAT.into(), what.into()), (ON.into(), on.into())])
}

/// For [`probe`], which runs this in a sandbox.
#[test]
fn answers_from_within_a_sandbox() {
    let Ok(what) = std::env::var(WHAT) else { return };
    let on = std::env::var(ON).unwrap();
    let answer = match answer(&what, &on) {
        Ok(()) => "fine".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM) => "EPERM".to_owned(),
            Some(libc::ENOSYS) => "ENOSYS".to_owned(),
            Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".to_owned(),
            Some(libc::ENOTTY) => "ENOTTY".to_owned(),
            Some(libc::EFAULT) => "EFAULT".to_owned(),
            Some(libc::EBADF) => "EBADF".to_owned(),
            _ => format!("{:?}", error.kind()),
        },
    };
    println!("answer: {answer}");
}

fn answer(what: &str, on: &str) -> io::Result<()> {
    let path = CString::new(on).unwrap();
    let path = path.as_ptr();
    let setuid = libc::S_ISUID | 0o755;
    // SAFETY: the paths end with a zero, and what is no path is a number or null, which these calls refuse.
    let result = unsafe {
        match what {
            "loopback" => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                return TcpStream::connect(listener.local_addr()?).map(drop);
            }
            "connect" => return TcpStream::connect(on).map(drop),
            "open" => libc::c_long::from(libc::open(path, libc::O_CREAT | libc::O_WRONLY, setuid)),
            "creat" => libc::c_long::from(libc::creat(path, setuid)),
            "mknod" => libc::c_long::from(libc::mknod(path, libc::S_IFREG | setuid, 0)),
            "fchmodat2" => libc::syscall(libc::SYS_fchmodat2, libc::AT_FDCWD, path, setuid, 0),
            #[cfg(target_arch = "x86_64")]
            "chmod of 32 bits" => return chmod_of_32_bits(on, setuid),
            "openat2" => {
                let how = [(libc::O_CREAT | libc::O_WRONLY) as u64, u64::from(setuid), 0];
                libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path, how.as_ptr(), size_of_val(&how))
            }
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, -3, 0, 0, 0),
            "add_key" => libc::syscall(libc::SYS_add_key, c"user".as_ptr(), c"name".as_ptr(), path, 0, -3),
            "request_key" => libc::syscall(libc::SYS_request_key, c"user".as_ptr(), c"name".as_ptr(), 0, 0),
            "socket of the machine" => libc::c_long::from(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
            "socket" => libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
            "socket of a virtual machine" => {
                libc::c_long::from(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0))
            }
            "pair of streams" => pair(libc::SOCK_STREAM | libc::SOCK_CLOEXEC),
            "pair of datagrams" => pair(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC),
            #[cfg(target_arch = "x86_64")]
            "socket of 32 bits" => return call_of_32_bits(102, 1, 0),
            // Of a descriptor that is none: who refuses it before the kernel looks says something else.
            "ioctl" => libc::c_long::from(libc::ioctl(-1, on.parse().unwrap())),
            "clone3" => libc::syscall(libc::SYS_clone3, 0, 0),
            "unshare" => libc::c_long::from(libc::unshare(on.parse().unwrap())),
            "clone" => {
                let child = libc::syscall(libc::SYS_clone, on.parse::<libc::c_int>().unwrap(), 0, 0, 0, 0);
                if child == 0 {
                    libc::_exit(0);
                }
                child
            }
            "outlive" => return Err(outlive()),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 1, 0),
            other => panic!("{other} is not probed"),
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a pair of sockets.
fn pair(kind: libc::c_int) -> libc::c_long {
    let mut ends = [0; 2];
    // SAFETY: there is room for the two numbers that the call writes.
    libc::c_long::from(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })
}

/// Takes back all that could have the first process be killed with its parent, which is its first thread's word and not that of
/// this one: it becomes the first one by running a program, which stays.
fn outlive() -> io::Error {
    // SAFETY: takes numbers.
    unsafe {
        assert_ne!(libc::getpid(), libc::gettid());
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
    }
    Command::new("/bin/sh").args(["-c", "echo it stays; exec sleep 1000000"]).exec()
}

/// As a program of 32 bits does.
#[cfg(target_arch = "x86_64")]
fn chmod_of_32_bits(path: &str, mode: u32) -> io::Result<()> {
    // SAFETY: a fresh page below 4 GiB is ours; the path and the zero behind it fit into it.
    let page = unsafe {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT);
        let page = libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(path.as_ptr(), page.cast(), path.len());
        page
    };
    call_of_32_bits(15, page as u64, mode)
}

/// Makes a call as programs of 32 bits do: with another number, that is another call for programs of 64 bits.
#[cfg(target_arch = "x86_64")]
fn call_of_32_bits(call: i64, first: u64, second: u32) -> io::Result<()> {
    let result: i64;
    // SAFETY: the calls that are made read what they are given, and change nothing but the register of the result and those
    // that are named; an address that is none is an error.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) first => _,
            inout("rax") call => result,
            in("rcx") u64::from(second),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match i32::try_from(result) {
        Ok(result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
        _ => Ok(()),
    }
}
