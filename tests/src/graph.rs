//! Derivations made for a purpose: their builders are shell scripts run by a [`Shell`] that they bring with them, so that
//! they can be built by any guix-daemon with an empty store and no network.
//!
//! [`Graph::add`] turns a [`Recipe`] into a derivation with its sources; [`Graph::write`] puts all of them into one
//! folder, as they would lie in a store. No Guix is needed for either.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use drover_store::derivation::{Derivation, Fixed, Input, Output};
use drover_store::hash::{HashingWriter, Sha256Hash};
use drover_store::nar;
use drover_store::path::{self, StorePath};

use crate::shell::{Shell, Tree};

/// What a derivation is made from.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    /// Its name, without `.drv`.
    pub name: String,
    /// The derivations that it needs, each with the names of the outputs it takes.
    pub inputs: Vec<(Made, Vec<String>)>,
    /// Its outputs; `out` if there are none here.
    pub outputs: Vec<String>,
    /// What the builder runs: a shell script, for which each output is a variable, `inputs` the paths of all inputs.
    pub script: Vec<u8>,
    /// Further variables.
    pub env: Vec<(String, Vec<u8>)>,
    /// The system; `x86_64-linux` or whatever this machine is if there is none here.
    pub system: Option<String>,
    /// For a fixed output: the bytes of the one file that it is.
    pub fixed: Option<Vec<u8>>,
    /// For a fixed output that may be anything: the hash of its nar.
    pub recursive: Option<Sha256Hash>,
    /// The program that is run in the place of the shell.
    pub builder: Option<Vec<u8>>,
    /// Further sources, from [`Graph::add_source`] or [`Graph::add_flat`].
    pub sources: Vec<StorePath>,
}

impl Recipe {
    /// A derivation with this name that runs this script and has the output `out`.
    #[must_use]
    pub fn new(name: &str, script: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), script: script.into(), ..Self::default() }
    }

    /// With one more input, of which it takes all outputs.
    #[must_use]
    pub fn input(mut self, made: &Made) -> Self {
        self.inputs.push((made.clone(), made.outputs.iter().map(|(name, _)| name.clone()).collect()));
        self
    }

    /// With one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// With these outputs.
    #[must_use]
    pub fn outputs(mut self, names: &[&str]) -> Self {
        self.outputs = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// For this system.
    #[must_use]
    pub fn system(mut self, system: &str) -> Self {
        self.system = Some(system.to_owned());
        self
    }
}

/// A derivation of a [`Graph`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its path in the store.
    pub path: StorePath,
    /// Its outputs by name.
    pub outputs: Vec<(String, StorePath)>,
    hash: Sha256Hash,
}

impl Made {
    /// Its output `out`, or the first if it has none of that name.
    #[must_use]
    pub fn out(&self) -> &StorePath {
        &self.outputs.iter().find(|(name, _)| name == "out").unwrap_or(&self.outputs[0]).1
    }

    /// The base name of its file.
    #[must_use]
    pub fn file(&self) -> &str {
        self.path.base_name()
    }
}

/// What a file of the graph's folder is.
#[derive(Debug, Clone)]
enum Item {
    /// A file with these bytes.
    File(Vec<u8>),
    /// The same, that can be executed.
    Program(Vec<u8>),
    /// A folder of the shell.
    Tree(Tree),
}

impl Item {
    fn write(&self, file: &Path) -> io::Result<()> {
        match self {
            Self::File(bytes) => fs::write(file, bytes),
            Self::Program(bytes) => {
                fs::write(file, bytes)?;
                fs::set_permissions(file, fs::Permissions::from_mode(0o755))
            }
            Self::Tree(tree) => tree.write(file),
        }
    }
}

/// Derivations and the sources that they need.
#[derive(Debug)]
pub struct Graph {
    items: BTreeMap<StorePath, Item>,
    shell: Shell,
    /// The sources that the shell is in.
    parts: Vec<StorePath>,
    salt: String,
    derivations: Vec<StorePath>,
}

impl Graph {
    /// An empty graph. The salt goes into every derivation: another one makes other paths, so that nothing of an
    /// earlier run is there already.
    ///
    /// # Errors
    /// When there is nothing to build with: see [`Shell::find`].
    pub fn new(salt: impl Into<String>) -> io::Result<Self> {
        Ok(Self::with_shell(Shell::find()?, salt))
    }

    /// [`Graph::new`] with this program as the shell of all builders.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_busybox(program: &Path, salt: impl Into<String>) -> io::Result<Self> {
        Ok(Self::with_shell(Shell::busybox(program)?, salt))
    }

    /// [`Graph::new`] with this shell.
    #[must_use]
    pub fn with_shell(shell: Shell, salt: impl Into<String>) -> Self {
        let mut graph = Self {
            items: BTreeMap::new(),
            shell: shell.clone(),
            parts: Vec::new(),
            salt: salt.into(),
            derivations: Vec::new(),
        };
        graph.use_shell(shell);
        graph
    }

    /// From now on builders are run by this shell, as those for another system must be.
    pub fn use_shell(&mut self, mut shell: Shell) {
        let items = std::mem::take(&mut shell.items);
        self.parts = items.iter().map(|(path, _)| path.clone()).collect();
        self.items.extend(items.into_iter().map(|(path, tree)| (path, Item::Tree(tree))));
        self.shell = shell;
    }

    /// Adds a file as a recursive source.
    ///
    /// # Errors
    /// When the name is not one for a store.
    pub fn add_source(&mut self, name: &str, bytes: &[u8]) -> io::Result<StorePath> {
        self.add_recursive(name, Item::File(bytes.to_vec()))
    }

    /// Adds a file that can be executed as a recursive source.
    ///
    /// # Errors
    /// When the name is not one for a store.
    pub fn add_program(&mut self, name: &str, bytes: &[u8]) -> io::Result<StorePath> {
        self.add_recursive(name, Item::Program(bytes.to_vec()))
    }

    fn add_recursive(&mut self, name: &str, item: Item) -> io::Result<StorePath> {
        let scratch = tempfile::tempdir()?;
        let file = scratch.path().join("file");
        item.write(&file)?;
        let mut hash = HashingWriter::new(io::sink());
        nar::pack(&file, &mut hash).map_err(io::Error::other)?;
        let source = path::source(name, &hash.finish().1).map_err(io::Error::other)?;
        self.items.insert(source.clone(), item);
        Ok(source)
    }

    /// Adds a file as a source that is named after its bytes alone.
    ///
    /// # Errors
    /// When the name is not one for a store.
    pub fn add_flat(&mut self, name: &str, bytes: &[u8]) -> io::Result<StorePath> {
        let hash = Sha256Hash::of(bytes);
        let source = path::fixed_output(name, false, "sha256", hash.as_bytes()).map_err(io::Error::other)?;
        self.items.insert(source.clone(), Item::File(bytes.to_vec()));
        Ok(source)
    }

    /// Adds a derivation; its script becomes a source of its own, a text that refers to the shell, as builders of
    /// real derivations are.
    ///
    /// # Errors
    /// When a name is not one for a store.
    pub fn add(&mut self, recipe: Recipe) -> io::Result<Made> {
        let shell = self.shell();
        let mut script = format!("#!{shell}/bin/sh\nset -e\nPATH={shell}/bin\nexport PATH\n").into_bytes();
        script.extend_from_slice(&recipe.script);
        let builder = path::text(&format!("{}-builder", recipe.name), &script, std::slice::from_ref(shell))
            .map_err(io::Error::other)?;
        self.items.insert(builder.clone(), Item::File(script));

        let outputs = if recipe.outputs.is_empty() { vec!["out".to_owned()] } else { recipe.outputs.clone() };
        let mut derivation = self.derivation(&builder, &outputs, &recipe)?;
        let hashes = input_hashes(&derivation, &recipe.inputs);
        let computed = derivation.outputs_with(&recipe.name, &hashes).map_err(io::Error::other)?;
        for (output, (name, path)) in derivation.outputs.iter_mut().zip(&computed) {
            output.path = path.clone();
            for (key, value) in &mut derivation.env {
                if key == name.as_bytes() {
                    *value = path.full().into_bytes();
                }
            }
        }
        let text = derivation.print();
        let path =
            derivation.path_of_text(&format!("{}.drv", recipe.name), &text).map_err(io::Error::other)?;
        self.items.insert(path.clone(), Item::File(text));
        self.derivations.push(path.clone());
        Ok(Made { hash: derivation.hash_with(&hashes), path, outputs: computed })
    }

    /// Adds a derivation that the daemon itself downloads: the one file at this address, with these contents. `mirrors`: a
    /// source of this graph that says in Scheme where else things can be had by their hash.
    ///
    /// # Errors
    /// When a name is not one for a store.
    pub fn download(
        &mut self,
        name: &str,
        url: &str,
        contents: &[u8],
        mirrors: Option<&StorePath>,
    ) -> io::Result<Made> {
        let hash = Sha256Hash::of(contents).as_bytes().to_vec();
        let fixed = Fixed { recursive: false, algorithm: "sha256".to_owned(), hash };
        let out = path::fixed_output(name, false, "sha256", &fixed.hash).map_err(io::Error::other)?;
        let text = |text: &str| text.as_bytes().to_vec();
        let mut env = BTreeMap::from([
            (text("name"), text(name)),
            (text("out"), out.full().into_bytes()),
            (text("salt"), text(&self.salt)),
            (text("url"), format!("\"{url}\"").into_bytes()),
        ]);
        env.extend(mirrors.map(|path| (text("content-addressed-mirrors"), path.full().into_bytes())));
        let derivation = Derivation {
            outputs: vec![Output { name: "out".to_owned(), path: out, fixed: Some(fixed) }],
            inputs: Vec::new(),
            sources: mirrors.cloned().into_iter().collect(),
            system: host_system(),
            builder: text("builtin:download"),
            args: Vec::new(),
            env: env.into_iter().collect(),
        };
        let bytes = derivation.print();
        let path = derivation.path_of_text(&format!("{name}.drv"), &bytes).map_err(io::Error::other)?;
        self.items.insert(path.clone(), Item::File(bytes));
        self.derivations.push(path.clone());
        let outputs = derivation.outputs_with(name, &[]).map_err(io::Error::other)?;
        Ok(Made { hash: derivation.hash_with(&[]), path, outputs })
    }

    /// The derivation with its outputs' paths still to be found.
    fn derivation(&self, builder: &StorePath, outputs: &[String], recipe: &Recipe) -> io::Result<Derivation> {
        let mut inputs: Vec<Input> = recipe
            .inputs
            .iter()
            .map(|(made, outputs)| {
                let mut outputs = outputs.clone();
                outputs.sort_unstable();
                outputs.dedup();
                Input { derivation: made.path.clone(), outputs }
            })
            .collect();
        inputs.sort_unstable_by(|a, b| a.derivation.cmp(&b.derivation));
        inputs.dedup_by(|a, b| a.derivation == b.derivation);
        let paths: Vec<String> = inputs
            .iter()
            .flat_map(|input| input.outputs.iter().map(|output| (&input.derivation, output)))
            .filter_map(|(derivation, output)| {
                let made = recipe.inputs.iter().find(|(made, _)| made.path == *derivation)?;
                made.0.outputs.iter().find(|(name, _)| name == output).map(|(_, path)| path.full())
            })
            .collect();
        let mut env: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        env.insert(b"name".to_vec(), recipe.name.as_bytes().to_vec());
        env.insert(b"salt".to_vec(), self.salt.as_bytes().to_vec());
        env.insert(b"inputs".to_vec(), paths.join(" ").into_bytes());
        for (key, value) in &self.shell.env {
            env.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        for (key, value) in &recipe.env {
            env.insert(key.as_bytes().to_vec(), value.clone());
        }
        for output in outputs {
            env.insert(output.as_bytes().to_vec(), Vec::new());
        }
        let fixed = match (&recipe.fixed, &recipe.recursive) {
            (Some(bytes), _) => Some((false, Sha256Hash::of(bytes))),
            (None, Some(hash)) => Some((true, *hash)),
            (None, None) => None,
        };
        let fixed = fixed.map(|(recursive, hash)| Fixed {
            recursive,
            algorithm: "sha256".to_owned(),
            hash: hash.as_bytes().to_vec(),
        });
        let mut sources = recipe.sources.clone();
        sources.extend(self.parts.iter().cloned());
        sources.push(builder.clone());
        sources.sort_unstable();
        sources.dedup();
        let mut outputs: Vec<Output> = outputs
            .iter()
            .map(|name| Output { name: name.clone(), path: builder.clone(), fixed: fixed.clone() })
            .collect();
        outputs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Derivation {
            outputs,
            inputs,
            sources,
            system: recipe.system.clone().unwrap_or_else(host_system),
            builder: recipe
                .builder
                .clone()
                .unwrap_or_else(|| format!("{}/bin/sh", self.shell()).into_bytes()),
            args: vec![b"-e".to_vec(), builder.full().into_bytes()],
            env: env.into_iter().collect(),
        })
    }

    /// All derivations, in the order in which they were added.
    #[must_use]
    pub fn derivations(&self) -> &[StorePath] {
        &self.derivations
    }

    /// The sources that all derivations have: the folder in which the shell is, and what it needs.
    #[must_use]
    pub fn shell_parts(&self) -> &[StorePath] {
        &self.parts
    }

    /// The source folder in which the shell is.
    #[must_use]
    pub fn shell(&self) -> &StorePath {
        &self.shell.path
    }

    /// The bytes of a file of the graph: a derivation's text, or a source's contents.
    #[must_use]
    pub fn bytes(&self, path: &StorePath) -> Option<&[u8]> {
        match self.items.get(path)? {
            Item::File(bytes) | Item::Program(bytes) => Some(bytes),
            Item::Tree(_) => None,
        }
    }

    /// Leaves a source away, so that it is nowhere to be had.
    pub fn forget(&mut self, path: &StorePath) {
        self.items.remove(path);
    }

    /// Writes all derivations and sources into a folder, which is made if need be. What is there already stays.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        for (path, item) in &self.items {
            let file = folder.join(path.base_name());
            if file.symlink_metadata().is_ok() {
                continue;
            }
            item.write(&file)?;
        }
        Ok(())
    }

    /// Where a derivation is after [`Graph::write`].
    #[must_use]
    pub fn file(folder: &Path, made: &Made) -> PathBuf {
        folder.join(made.file())
    }
}

/// The hashes of a derivation's inputs, in its order.
fn input_hashes(derivation: &Derivation, inputs: &[(Made, Vec<String>)]) -> Vec<Sha256Hash> {
    derivation
        .inputs
        .iter()
        .filter_map(|input| inputs.iter().find(|(made, _)| made.path == input.derivation))
        .map(|(made, _)| made.hash)
        .collect()
}

/// What guix calls this machine's system.
#[must_use]
pub fn host_system() -> String {
    let arch = match std::env::consts::ARCH {
        "arm" => "armhf",
        "x86" => "i686",
        other => other,
    };
    format!("{arch}-linux")
}
