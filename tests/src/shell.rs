//! What the builders of a [`crate::graph::Graph`] are run by: a static busybox where there is one, else this machine's
//! own shell and tools.
//!
//! The machine's tools go into two store items: one with their libraries and the loader, and one with the tools, in each of
//! which the name of its loader is replaced by that of the first item's. So they run where there is nothing else, and
//! `LD_LIBRARY_PATH`, a variable of every derivation, says where their libraries are.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use drover_store::hash::HashingWriter;
use drover_store::nar;
use drover_store::path::{self, StorePath};

use crate::elf::Elf;

/// The tools that scripts find in their `PATH`, as far as there are such.
const TOOLS: &[&str] = &[
    "sh",
    "awk",
    "cat",
    "chmod",
    "cp",
    "cut",
    "dd",
    "echo",
    "env",
    "find",
    "grep",
    "head",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mv",
    "nc",
    "od",
    "printf",
    "readlink",
    "rm",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "test",
    "touch",
    "tr",
    "true",
    "uniq",
    "wc",
    "xargs",
    "yes",
];

/// Those without which the demonstration's graph cannot be built.
const NEEDED: &[&str] = &[
    "sh",
    "cat",
    "chmod",
    "cp",
    "head",
    "ln",
    "mkdir",
    "readlink",
    "seq",
    "sed",
    "sha256sum",
    "sleep",
    "sort",
    "tail",
];

/// Store items with a `bin/sh` and other tools.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The item whose `bin` has them.
    pub path: StorePath,
    /// All items that they need, that one among them.
    pub items: Vec<(StorePath, Tree)>,
    /// Variables that builders need to start them.
    pub env: Vec<(String, String)>,
}

impl Shell {
    /// A static busybox, if this machine has one, or else its own shell and tools. `DROVER_BUSYBOX` names a busybox;
    /// `none` means that there is none.
    ///
    /// # Errors
    /// When neither can be had.
    pub fn find() -> io::Result<Self> {
        match busybox() {
            Some(program) => Self::busybox(&program),
            None => Self::of_machine(),
        }
    }

    /// This program under the names of all its tools.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn busybox(program: &Path) -> io::Result<Self> {
        let mut tree = Tree::default();
        tree.program("bin/busybox", read(program)?);
        for tool in TOOLS {
            tree.link(&format!("bin/{tool}"), "busybox");
        }
        let path = tree.path("busybox")?;
        Ok(Self { path: path.clone(), items: vec![(path, tree)], env: Vec::new() })
    }

    /// The shell and the tools of this machine, with their libraries.
    ///
    /// # Errors
    /// When one that is needed is not there, or is no program.
    pub fn of_machine() -> io::Result<Self> {
        let mut links = BTreeMap::new();
        let mut programs = BTreeMap::new();
        for tool in TOOLS {
            let Some((name, program)) = find_tool(tool) else {
                if NEEDED.contains(tool) {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        format!(
                            "builders need {tool}, and this machine has none that could be copied: install a static \
                             busybox (Debian: the package busybox-static), or name one by DROVER_BUSYBOX"
                        ),
                    ));
                }
                continue;
            };
            if name != *tool {
                links.insert(*tool, name.clone());
            }
            programs.insert(name, program);
        }

        let mut libraries = Tree::default();
        let mut read_programs = Vec::new();
        for (name, program) in &programs {
            let bytes = read(program)?;
            let loader = Elf::parse(&bytes).and_then(|elf| elf.interpreter());
            if let Some(loader) = &loader {
                add_libraries(&mut libraries, loader, program)?;
            }
            read_programs.push((name, bytes, loader));
        }
        let mut items = Vec::new();
        let mut env = Vec::new();
        let mut lib = String::new();
        if !libraries.entries.is_empty() {
            let path = libraries.path("machine-libraries")?;
            lib = format!("{path}/lib");
            env.push(("LD_LIBRARY_PATH".to_owned(), lib.clone()));
            items.push((path, libraries));
        }

        let mut tree = Tree::default();
        for (name, bytes, loader) in read_programs {
            let bytes = match loader {
                None => bytes,
                Some(loader) => {
                    let loader = format!("{lib}/{}", base_name(&loader));
                    Elf::parse(&bytes).and_then(|elf| elf.with_interpreter(&loader)).ok_or_else(|| {
                        io::Error::other(format!("{name} of this machine cannot be given another loader"))
                    })?
                }
            };
            tree.program(&format!("bin/{name}"), bytes);
        }
        for (tool, name) in links {
            tree.link(&format!("bin/{tool}"), &name);
        }
        let path = tree.path("machine-shell")?;
        items.push((path.clone(), tree));
        Ok(Self { path, items, env })
    }
}

/// A folder in memory: programs and symbolic links.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Program(Vec<u8>),
    Link(String),
}

impl Tree {
    fn program(&mut self, place: &str, bytes: Vec<u8>) {
        self.entries.insert(place.to_owned(), Entry::Program(bytes));
    }

    fn link(&mut self, place: &str, target: &str) {
        self.entries.entry(place.to_owned()).or_insert_with(|| Entry::Link(target.to_owned()));
    }

    /// Makes it on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        for (place, entry) in &self.entries {
            let file = folder.join(place);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            match entry {
                Entry::Program(bytes) => {
                    fs::write(&file, bytes)?;
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
                }
                Entry::Link(target) => symlink(target, &file)?,
            }
        }
        Ok(())
    }

    /// Its path as a recursive source of this name.
    fn path(&self, name: &str) -> io::Result<StorePath> {
        let scratch = tempfile::tempdir()?;
        let folder = scratch.path().join(name);
        self.write(&folder)?;
        let mut hash = HashingWriter::new(io::sink());
        nar::pack(&folder, &mut hash).map_err(io::Error::other)?;
        path::source(name, &hash.finish().1).map_err(io::Error::other)
    }
}

/// The static busybox: the one that `DROVER_BUSYBOX` names, or the one of the test ground, or the machine's own.
fn busybox() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("DROVER_BUSYBOX") {
        return (program != "none").then(|| program.into());
    }
    let cache = std::env::var_os("DROVER_CACHE").map_or_else(|| crate::top().join("target"), PathBuf::from);
    let ground = cache.join("guix-root/usr/bin/busybox");
    [ground, "/bin/busybox".into(), "/usr/bin/busybox".into(), "/bin/busybox.static".into()].into_iter().find(
        |program| fs::read(program).is_ok_and(|bytes| Elf::parse(&bytes).is_some_and(|elf| elf.is_static())),
    )
}

/// A tool of this machine: the file's own name, by which a program of many names has its others as links, and where it is.
fn find_tool(tool: &str) -> Option<(String, PathBuf)> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&places).chain(usual).find_map(|folder| {
        let program = fs::canonicalize(folder.join(tool)).ok().filter(|program| program.is_file())?;
        let bytes = fs::read(&program).ok()?;
        let program = if bytes.starts_with(b"#!") { of_script(&bytes)? } else { program };
        Elf::parse(&fs::read(&program).ok()?)?;
        Some((base_name(program.to_str()?).to_owned(), program))
    })
}

/// The program of many names that a script of one line stands for, as GNU coreutils may be installed.
fn of_script(script: &[u8]) -> Option<PathBuf> {
    let line = std::str::from_utf8(script.split(|byte| *byte == b'\n').next()?).ok()?;
    let (program, option) = line.strip_prefix("#!")?.trim().split_once(' ')?;
    option.trim().starts_with("--coreutils-prog-shebang=").then(|| fs::canonicalize(program).ok()).flatten()
}

/// Adds the loader of a program, and the libraries that it says the program needs.
fn add_libraries(tree: &mut Tree, loader: &str, program: &Path) -> io::Result<()> {
    let failed = |why: &dyn std::fmt::Display| {
        io::Error::other(format!("asking {loader} which libraries {} needs failed: {why}", program.display()))
    };
    let output = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    tree.program(&format!("lib/{}", base_name(loader)), read(Path::new(loader))?);
    // “libc.so.6 => /usr/lib/libc.so.6 (0x00007f…)”; the loader itself may be there under its whole name.
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let file = rest.split(" (").next().unwrap_or(rest).trim();
        if !name.contains('/') && file.starts_with('/') {
            tree.program(&format!("lib/{name}"), read(Path::new(file))?);
        }
    }
    Ok(())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file).map_err(|e| io::Error::new(e.kind(), format!("reading {} failed: {e}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_tools_run_from_a_folder_with_their_libraries() {
        let shell = Shell::of_machine().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for (path, tree) in &shell.items {
            tree.write(&scratch.path().join(path.base_name())).unwrap();
        }
        let tools = scratch.path().join(shell.path.base_name()).join("bin");
        for tool in NEEDED {
            assert!(tools.join(tool).exists(), "{tool}");
        }
        let dynamic: Vec<_> = fs::read_dir(&tools)
            .unwrap()
            .flatten()
            .filter_map(|entry| Elf::parse(&fs::read(entry.path()).unwrap()).unwrap().interpreter())
            .collect();
        for loader in dynamic {
            // Where it lies here, in the place of the store.
            let file =
                scratch.path().join(loader.strip_prefix("/gnu/store/").expect("a loader in the store"));
            assert!(file.is_file(), "{loader}");
            let libraries = file.parent().unwrap().to_owned();
            let output = Command::new(&file)
                .arg("--library-path")
                .arg(&libraries)
                .arg(tools.join("sh"))
                .args(["-c", "echo it runs"])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "it runs\n", "{output:?}");
        }
    }
}
