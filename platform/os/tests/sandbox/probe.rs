//! System calls from within a sandbox, by this program itself.

use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};

use crate::ground::{Ground, finish};

/// What is probed, and on what.
const WHAT: &str = "DROVER_TEST_PROBE";
const ON: &str = "DROVER_TEST_PROBE_ON";

/// Makes a call in a sandbox: `fine`, or the error's name.
pub(crate) fn probe(ground: &mut Ground, what: &str, on: &str) -> String {
    let at = "/probe";
    if !ground.sandbox.root.join("probe").exists() {
        ground.bind(&std::env::current_exe().unwrap(), at, false);
    }
    let program = ground.program(at, ["--exact", "probe::answers_from_within_a_sandbox", "--nocapture"]);
    let program = program.environment([(WHAT.into(), what.into()), (ON.into(), on.into())]);
    let (exit, said) = finish(program.spawn().unwrap());
    let answer =
        said.lines().find_map(|line| line.split_once("answer: ")).map(|(_, answer)| answer.to_owned());
    answer.unwrap_or_else(|| panic!("{what}: {exit:?}: {said}"))
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
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 1, 0),
            other => panic!("{other} is not probed"),
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a call as programs of 32 bits do: with another number, that is another call for programs of 64 bits.
#[cfg(target_arch = "x86_64")]
fn chmod_of_32_bits(path: &str, mode: u32) -> io::Result<()> {
    let (chmod, mut result) = (15, 0_i64);
    // SAFETY: a fresh page below 4 GiB is ours; the path and the zero behind it fit into it. The call reads it, and changes
    // nothing but the register of its result and those that are named.
    unsafe {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT);
        let page = libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(path.as_ptr(), page.cast(), path.len());
        std::arch::asm!(
            "xchg rbx, {path}",
            "int 0x80",
            "xchg rbx, {path}",
            path = inout(reg) page => _,
            inout("rax") i64::from(chmod) => result,
            in("rcx") u64::from(mode),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match i32::try_from(result) {
        Ok(result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
        _ => Ok(()),
    }
}
