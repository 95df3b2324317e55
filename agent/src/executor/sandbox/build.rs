//! A build, from a derivation whose inputs are in the store to outputs that are there too.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use drover_os::process::{Exit, Program, Tree};
use drover_os::sandbox::{self, Failure, Ids, Sandbox, Step};
use drover_store::{Derivation, StorePath};

use super::builder::{self, Fault};
use super::environment::environment;
use super::graph::{self, GraphError};
use super::limits::Limits;
use super::outputs::{OutputError, Outputs};
use super::plan::Plan;
use super::room::Room;
use super::root::{self, Root};
use super::run::{self, End};
use super::stopping::Stopping;
use super::{Ground, fetch, keep};
use crate::build::full;
use crate::executor::{Ended, Error, Job, Sink};
use crate::store::OutputLimits;

/// Whose what is in the store is, where we decide that.
const ROOT: (u32, u32) = (0, 0);

impl Ground {
    /// Builds. Whatever comes of it, nothing of it runs afterwards, and nothing is left but the outputs.
    pub(super) fn build(
        &self,
        plan: &Plan,
        job: &Job,
        sink: &mut dyn Sink,
        stop: &Stopping,
    ) -> Result<Ended, Error> {
        if let Some(why) = plan.unsupported(&self.system) {
            return Ok(Ended::Unsupported(why));
        }
        stop.check()?;
        if plan.derivation.builtin().is_some() {
            let making = self.store.making()?;
            return self.download(plan, job, making.path(), sink, stop);
        }
        let inputs = plan.closure(&self.store)?;
        let slot = self.slots.take();
        let ids = root::ids(self.is_root, slot.number());
        let lasts = self.is_root && !plan.derivation.is_fixed_output();
        let room = if lasts { self.rooms.take(&self.store, ids)? } else { Room::new(&self.store, ids)? };
        let root = match self.root(plan, &inputs, room, ids) {
            Ok(root) => root,
            Err(GraphError::Derivation(why)) => return Ok(Ended::Failed(why)),
            Err(GraphError::Step(error)) => return Err(error),
        };
        let ended = self.build_in(&root, plan, &inputs, job, sink, stop)?;
        if lasts {
            self.rooms.give_back(&self.store, root.into_room());
        }
        Ok(ended)
    }

    /// The root with everything in it.
    fn root(&self, plan: &Plan, inputs: &[StorePath], room: Room, ids: Ids) -> Result<Root, GraphError> {
        let step = |error| GraphError::Step(failed("make the root of a build", error));
        let mut root = Root::make(room, &plan.path, ids).map_err(step)?;
        root.add_inputs(&self.store, inputs).map_err(step)?;
        if plan.derivation.is_fixed_output() {
            root.add_network();
        }
        graph::write(&self.store, &plan.derivation, &root.build_folder())?;
        Ok(root)
    }

    fn build_in(
        &self,
        root: &Root,
        plan: &Plan,
        inputs: &[StorePath],
        job: &Job,
        sink: &mut dyn Sink,
        stop: &Stopping,
    ) -> Result<Ended, Error> {
        if has_zero(&plan.derivation) {
            let derivation = &plan.path;
            return Ok(Ended::Failed(format!(
                "builder for `{derivation}' could not be started: its arguments or variables have zero bytes in them"
            )));
        }
        let sandbox = self.sandbox(root, plan)?;
        let mut tree = match self.spawn(&sandbox, root, plan) {
            Ok(tree) => tree,
            Err(error) => return self.not_started(plan, &error),
        };
        sink.started();
        let mut limits = Limits::new(job, self.settings.log_limit, sink);
        let end = run::watch(&mut tree, &mut limits, stop);
        drop(tree);
        let ended = match end? {
            End::Limit(limit) => limit.ended(&plan.path),
            End::Exit(exit) if exit.is_success() => {
                let folder = root.outputs().map_err(|e| failed("open the folder of a build's outputs", e))?;
                if plan.derivation.is_fixed_output() {
                    let copies = root.beside("copies");
                    fs::create_dir(&copies).map_err(|e| failed("make a folder for copies of outputs", e))?;
                    self.place(plan, inputs, &folder, Some(&copies), stop)?
                } else {
                    self.place(plan, inputs, &folder, None, stop)?
                }
            }
            End::Exit(exit) => Ended::Exited(self.why(plan, exit, &sandbox)),
        };
        if let Ended::Exited(why) | Ended::Failed(why) = &ended {
            self.check_room(why)?;
        }
        if let Some(to) = &self.settings.keep_failed {
            if ended != Ended::Succeeded {
                let folder = root.build_folder_again();
                // With the network of the machine a builder may have given its files to anybody.
                let limits_of_copy = (!plan.derivation.is_fixed_output()).then(|| self.output_limits());
                let kept = folder.and_then(|folder| {
                    keep::keep(&folder, to, limits_of_copy.as_ref(), stop).map_err(|e| e.to_string())
                });
                let words = match kept {
                    Ok(place) => format!("note: keeping build directory `{}'\n", place.display()),
                    Err(error) => format!("note: the build folder is not kept: {error}\n"),
                };
                limits.say(words.as_bytes())?;
            }
        }
        Ok(ended)
    }

    fn sandbox(&self, root: &Root, plan: &Plan) -> Result<Sandbox, Error> {
        static BUILDS: AtomicU64 = AtomicU64::new(0);
        let processes = Some(self.settings.max_processes);
        let group = self.cgroups.as_ref().map(|cgroups| {
            let name = format!("build-{}", BUILDS.fetch_add(1, Ordering::Relaxed));
            cgroups.make(&name, &super::amounts(&self.settings))
        });
        Ok(Sandbox {
            root: self.store.mount_point().to_owned(),
            made: root.made.clone(),
            binds: root.binds.clone(),
            ids: root.ids(),
            host_name: "localhost".to_owned(),
            network: plan.derivation.is_fixed_output(),
            bits32: plan.is_32_bits(&self.system),
            folder: root.build_folder_inside().into(),
            limits: sandbox::Limits { processes, ..sandbox::Limits::default() },
            cgroup: group.transpose().map_err(|e| failed("make a control group for a build", e))?,
        })
    }

    fn spawn(&self, sandbox: &Sandbox, root: &Root, plan: &Plan) -> io::Result<Tree> {
        let derivation = &plan.derivation;
        let builder = OsStr::from_bytes(&derivation.builder);
        let machine = |name: &[u8]| std::env::var_os(OsStr::from_bytes(name));
        Program::new(builder)
            .named(Path::new(builder).file_name().unwrap_or(builder))
            .args(derivation.args.iter().map(|arg| OsStr::from_bytes(arg)))
            .environment(environment(derivation, &root.build_folder_inside(), self.cores, machine))
            .one_output()
            .sandbox(sandbox)?
            .spawn()
    }

    /// What it means that a builder could not be started.
    fn not_started(&self, plan: &Plan, error: &io::Error) -> Result<Ended, Error> {
        let words = String::from_utf8_lossy(&plan.derivation.builder);
        let failure = Failure::of(error).filter(|failure| failure.step() == Step::Program);
        let Some(said) = failure.map(Failure::error) else {
            return Err(Error::Refused(format!("make the sandbox of a build: {error}")));
        };
        let path = Path::new(OsStr::from_bytes(&plan.derivation.builder));
        match builder::fault(&said, path, self.store.folder(), &self.system) {
            Fault::OtherMachine(why) => Ok(Ended::Unsupported(format!("{why}: {words}"))),
            Fault::Derivation => Ok(Ended::Failed(format!(
                "builder for `{}' could not be started: executing `{words}': {said}",
                plan.path
            ))),
            Fault::Machine => Err(Error::Refused(format!("run the builder {words}: {said}"))),
        }
    }

    /// That a build that failed did not do so for want of disk. This is the moment to ask, for what it made goes with it,
    /// and afterwards there is room again.
    fn check_room(&self, why: &str) -> Result<(), Error> {
        match full(self.store.folder()) {
            Some(how) => Err(Error::Full(format!("{how}, when the build had ended: {why}"))),
            None => Ok(()),
        }
    }

    fn why(&self, plan: &Plan, exit: Exit, sandbox: &Sandbox) -> String {
        let how = format!("builder for `{}' {}", plan.path, run::how(exit));
        match (&sandbox.cgroup, self.settings.memory) {
            (Some(group), Some(memory)) if group.was_out_of_memory() => {
                format!("{how}; it wanted more than the {memory} bytes of memory that it may use")
            }
            _ => how,
        }
    }

    /// Puts what lies in `folder` into the store; as copies, made in the folder that is given for that.
    fn place(
        &self,
        plan: &Plan,
        inputs: &[StorePath],
        folder: &Path,
        copies: Option<&Path>,
        stop: &Stopping,
    ) -> Result<Ended, Error> {
        let outputs = Outputs {
            store: &self.store,
            plan,
            inputs,
            folder,
            copies,
            owner: self.is_root.then_some(ROOT),
            limits: self.output_limits(),
            stop,
        };
        match outputs.place() {
            Ok(()) => Ok(Ended::Succeeded),
            Err(OutputError::Build(why)) => Ok(Ended::Failed(why)),
            Err(OutputError::NotBuiltHere(why)) => Ok(Ended::NotBuiltHere(why)),
            Err(OutputError::Step(error)) => Err(error),
        }
    }

    fn output_limits(&self) -> OutputLimits {
        OutputLimits { files: self.settings.max_output_files, bytes: self.settings.max_output_size }
    }

    /// Does what `builtin:download` does, without a process of its own.
    fn download(
        &self,
        plan: &Plan,
        job: &Job,
        making: &Path,
        sink: &mut dyn Sink,
        stop: &Stopping,
    ) -> Result<Ended, Error> {
        let folder = making.join("outputs");
        fs::create_dir(&folder).map_err(|e| failed("make a folder for a download", e))?;
        sink.started();
        let mut limits = Limits::new(job, self.settings.log_limit, sink);
        let done = fetch::run(self, plan, &folder, &mut limits, stop)?;
        match done {
            Some(ended) => Ok(ended),
            None => self.place(plan, &[], &folder, None, stop),
        }
    }
}

/// Whether something that a program is given cannot be given to any program.
fn has_zero(derivation: &Derivation) -> bool {
    let variables = derivation.env.iter().flat_map(|(name, value)| [name, value]);
    let all = [&derivation.builder].into_iter().chain(&derivation.args).chain(variables);
    all.flatten().any(|byte| *byte == 0)
}

fn failed(attempted: &str, source: io::Error) -> Error {
    Error::refused(format!("{attempted}: {source}"), &source)
}
