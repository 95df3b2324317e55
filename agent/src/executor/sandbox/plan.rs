//! What a build in the sandbox needs, read off its derivation before anything is started.

use std::collections::BTreeSet;

use drover_store::derivation::{Derivation, Fixed};
use drover_store::path::StorePath;

use crate::executor::Error;
use crate::store::{Store, StoreError};

/// The builtin builders that the sandbox has.
pub(super) const BUILTINS: [&str; 1] = ["download"];
/// The one algorithm of fixed outputs that is known here; Guix's packages have no other.
const ALGORITHM: &str = "sha256";
/// The most bytes of a derivation. The largest of Guix's packages has less than a hundredth of them.
const DERIVATION_MAX: u64 = 64 << 20;

/// A derivation and what it is built from.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its path.
    pub(super) path: StorePath,
    /// What it says.
    pub(super) derivation: Derivation,
}

impl Plan {
    /// Reads a derivation that is in the store.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not there, or is none.
    pub(super) fn read(store: &Store, path: &StorePath) -> Result<Self, Error> {
        let derivation = read(store, path)?;
        Ok(Self { path: path.clone(), derivation })
    }

    /// Why this machine cannot build it, if that can be told beforehand. `machine` is what this program was compiled for.
    pub(super) fn unsupported(&self, machine: &str) -> Option<String> {
        let system = &self.derivation.system;
        if let Some(Fixed { algorithm, .. }) = self.derivation.fixed().map(|(_, fixed)| fixed) {
            if algorithm != ALGORITHM {
                return Some(format!(
                    "the output of {} is fixed by its {algorithm}, and this agent's sandbox knows {ALGORITHM} only: \
                     use an agent with a guix-daemon",
                    self.path
                ));
            }
        }
        match self.derivation.builtin() {
            Some(builtin) if BUILTINS.contains(&builtin) => None,
            Some(builtin) => Some(format!(
                "this agent's sandbox has no builtin:{builtin}, which {} needs: use an agent with a guix-daemon",
                self.path
            )),
            None if runs(system, machine) => None,
            None => Some(wrong_machine(system, machine)),
        }
    }

    /// Whether the builder runs as on a processor of 32 bits.
    pub(super) fn is_32_bits(&self, machine: &str) -> bool {
        is_companion(&self.derivation.system, machine)
    }

    /// Everything that the builder may see: the closure of the sources and of the outputs that are its inputs.
    ///
    /// # Errors
    /// [`Error::Refused`] when some of it is not in the store.
    pub(super) fn closure(&self, store: &Store) -> Result<Vec<StorePath>, Error> {
        let mut inputs: BTreeSet<StorePath> = self.derivation.sources.iter().cloned().collect();
        for input in &self.derivation.inputs {
            let derivation = read(store, &input.derivation)?;
            for name in &input.outputs {
                let output = derivation.output(name).ok_or_else(|| {
                    let (path, input) = (&self.path, &input.derivation);
                    Error::Refused(format!(
                        "{path} needs the output {name} of {input}, which has none of that name"
                    ))
                })?;
                inputs.insert(output.path.clone());
            }
        }
        let inputs: Vec<StorePath> = inputs.into_iter().collect();
        Ok(store.closure(&inputs)?)
    }

    /// The paths of its outputs.
    pub(super) fn outputs(&self) -> Vec<StorePath> {
        self.derivation.outputs.iter().map(|output| output.path.clone()).collect()
    }
}

/// The derivation at a path of the store.
pub(super) fn read(store: &Store, path: &StorePath) -> Result<Derivation, Error> {
    let text = store.read_file(path, DERIVATION_MAX).map_err(|error| match error {
        StoreError::NotThere(_) => Error::Refused(format!("the derivation {path} is not in the store")),
        error => Error::Refused(format!("read the derivation {path}: {error}")),
    })?;
    Derivation::parse(&text).map_err(|error| Error::Refused(format!("read the derivation {path}: {error}")))
}

/// Whether builders for `system` run on a `machine`.
pub(crate) fn runs(system: &str, machine: &str) -> bool {
    system == machine || is_companion(system, machine)
}

/// Whether processors of `machine` run programs of `system`, which has half its bits.
fn is_companion(system: &str, machine: &str) -> bool {
    matches!((system, machine), ("i686-linux", "x86_64-linux") | ("armhf-linux", "aarch64-linux"))
}

/// Says that a builder is for another machine.
pub(super) fn wrong_machine(system: &str, machine: &str) -> String {
    format!("{} {system} builder on {} {machine} machine", article(system), article(machine))
}

/// How the name of a system is introduced: letters that are said one by one begin as they sound.
fn article(system: &str) -> &'static str {
    if system.starts_with(['a', 'e', 'i', 'o', 'u', 'x']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use drover_store::derivation::Output;

    use super::*;

    fn plan(system: &str, builder: &str, algorithm: Option<&str>) -> Plan {
        let path = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap();
        let fixed = algorithm.map(|a| Fixed { recursive: false, algorithm: a.to_owned(), hash: vec![0; 32] });
        let derivation = Derivation {
            outputs: vec![Output { name: "out".into(), path: path.clone(), fixed }],
            inputs: Vec::new(),
            sources: Vec::new(),
            system: system.to_owned(),
            builder: builder.as_bytes().to_vec(),
            args: Vec::new(),
            env: Vec::new(),
        };
        Plan { path, derivation }
    }

    #[test]
    fn what_the_machine_cannot_build_is_said_in_its_words() {
        let said = |system: &str, machine: &str| plan(system, "/bin/sh", None).unsupported(machine);
        assert_eq!(said("x86_64-linux", "x86_64-linux"), None);
        assert_eq!(said("i686-linux", "x86_64-linux"), None);
        assert_eq!(said("armhf-linux", "aarch64-linux"), None);
        assert_eq!(
            said("aarch64-linux", "x86_64-linux").unwrap(),
            "an aarch64-linux builder on an x86_64-linux machine"
        );
        assert_eq!(
            said("x86_64-linux", "riscv64-linux").unwrap(),
            "an x86_64-linux builder on a riscv64-linux machine"
        );
        assert!(said("x86_64-linux", "i686-linux").is_some());
        assert!(plan("i686-linux", "/bin/sh", None).is_32_bits("x86_64-linux"));
        assert!(!plan("i686-linux", "/bin/sh", None).is_32_bits("i686-linux"));
    }

    #[test]
    fn downloads_are_the_same_everywhere_and_other_builtins_and_algorithms_are_not_had() {
        let said = |builder: &str, algorithm: &str| {
            plan("i586-gnu", builder, Some(algorithm)).unsupported("x86_64-linux")
        };
        assert_eq!(said("builtin:download", "sha256"), None);
        assert!(said("builtin:git-download", "sha256").unwrap().contains("builtin:git-download"));
        assert!(said("builtin:download", "sha1").unwrap().contains("sha1"));
    }
}
