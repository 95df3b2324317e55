//! What it means that a builder cannot be run, told by what the system says and by the file that it is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use drover_store::STORE_DIR;

use super::plan;

/// Links that lead to links: as many as the kernel follows.
const MOST_LINKS: u32 = 40;
/// What the system says of a program that is none of its own.
const ENOEXEC: i32 = 8;
/// What it says when the derivation is to blame, the same numbers everywhere on Linux: not permitted, not there, too many
/// arguments, not to be run, a file instead of a folder, a folder instead of a file, several loaders, too long a name, links in a
/// circle, a loader that is none, which is so on the machine that the builder is for, too.
/// Whatever else it says is about the machine: no memory, too many files open, a disk that cannot be read.
const ITS_OWN: [i32; 10] = [1, 2, 7, 13, 20, 21, 22, 36, 40, 80];

/// Why a builder is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is the derivation's.
    Derivation,
    /// It is for another machine, in words.
    OtherMachine(String),
    /// It is the machine's: another one may run it, or this one at another time.
    Machine,
}

/// Whose fault it is that the system says this of a builder. `store` is the folder with the store's items.
pub(super) fn fault(error: &io::Error, builder: &Path, store: &Path, system: &str) -> Fault {
    match error.raw_os_error() {
        Some(ENOEXEC) => {
            let processor = find(builder, store).and_then(|file| processor(&file));
            match processor.filter(|processor| system.strip_suffix("-linux") != Some(processor.as_str())) {
                Some(processor) => Fault::OtherMachine(plan::wrong_machine(&processor, system)),
                None => Fault::Derivation,
            }
        }
        Some(errno) if ITS_OWN.contains(&errno) => Fault::Derivation,
        _ => Fault::Machine,
    }
}

/// Where a file of the store is on this machine, after all links, which mean what they mean for a builder. None if it is not
/// in the store.
fn find(path: &Path, store: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match follow(&path, store)? {
            Step::Found(file) => return Some(file),
            Step::Link(to) => path = to,
        }
    }
    None
}

enum Step {
    /// There is no link on the way to this file of the machine.
    Found(PathBuf),
    /// The first link on the way leads there.
    Link(PathBuf),
}

fn follow(path: &Path, store: &Path) -> Option<Step> {
    let mut parts = path.strip_prefix(STORE_DIR).ok()?.components();
    let mut inside = PathBuf::new();
    while let Some(part) = parts.next() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            // Out of the store there is nothing that was not made by us.
            Component::ParentDir if inside.pop() => {}
            _ => return None,
        }
        if let Ok(to) = fs::read_link(store.join(&inside)) {
            inside.pop();
            return Some(Step::Link(Path::new(STORE_DIR).join(inside).join(to).join(parts.as_path())));
        }
    }
    Some(Step::Found(store.join(inside)))
}

/// The processor that a program is for, as its system is called, if it is a program (ELF) at all.
fn processor(file: &Path) -> Option<String> {
    let mut head = [0; 20];
    let file = File::open(file).ok()?;
    // A pipe in the store would keep us waiting.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    (&file).read_exact(&mut head).ok()?;
    let [0x7f, b'E', b'L', b'F', class, order, .., a, b] = head else { return None };
    let machine = if order == 2 { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) };
    let name = match (machine, class) {
        (3, _) => "i686",
        (8, _) => "mips",
        (20, _) => "powerpc",
        (21, _) => "powerpc64",
        (22, _) => "s390",
        (40, _) => "armhf",
        (62, _) => "x86_64",
        (183, _) => "aarch64",
        (243, 1) => "riscv32",
        (243, _) => "riscv64",
        (258, _) => "loongarch64",
        (other, _) => return Some(format!("ELF-{other}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn head(machine: u16) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend(machine.to_le_bytes());
        head
    }

    #[test]
    fn a_program_is_known_by_its_first_bytes_and_whatever_leads_to_it() {
        let store = tempfile::tempdir().unwrap();
        let at = |name: &str| store.path().join(name);
        fs::create_dir_all(at("one/bin")).unwrap();
        fs::write(at("one/bin/program"), head(183)).unwrap();
        fs::write(at("script"), "#!/bin/sh\n").unwrap();
        fs::write(at("own"), head(62)).unwrap();
        symlink("program", at("one/bin/near")).unwrap();
        symlink("/gnu/store/one/bin/../bin/near", at("far")).unwrap();
        symlink("/gnu/store/one", at("folder")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("/etc/passwd", at("out")).unwrap();
        symlink("../../../../../../etc/passwd", at("up")).unwrap();
        let refused = |errno: i32, builder: &str| {
            let error = io::Error::from_raw_os_error(errno);
            fault(&error, &Path::new(STORE_DIR).join(builder), store.path(), "x86_64-linux")
        };
        for builder in ["one/bin/program", "one/bin/near", "far", "folder/bin/near"] {
            let words = "an aarch64 builder on an x86_64-linux machine";
            assert_eq!(refused(ENOEXEC, builder), Fault::OtherMachine(words.into()), "{builder}");
        }
        for builder in ["script", "own", "circle", "out", "up", "missing", "one"] {
            assert_eq!(refused(ENOEXEC, builder), Fault::Derivation, "{builder}");
        }
        assert_eq!(find(Path::new("/etc/passwd"), store.path()), None);
        assert_eq!(find(Path::new("/gnu/store/out"), store.path()), None);
        assert_eq!(find(Path::new("/gnu/store/up"), store.path()), None);
    }

    #[test]
    fn what_ails_the_machine_is_no_fault_of_a_derivation() {
        let refused = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            fault(&error, Path::new("/gnu/store/x"), Path::new("/s"), "x86_64-linux")
        };
        // EIO, EAGAIN, ENOMEM, ENFILE, EMFILE, ETXTBSY.
        for errno in [5, 11, 12, 23, 24, 26] {
            assert_eq!(refused(errno), Fault::Machine, "{errno}");
        }
        for errno in ITS_OWN {
            assert_eq!(refused(errno), Fault::Derivation, "{errno}");
        }
    }
}
