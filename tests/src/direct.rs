//! Builds given to an executor directly, without a farm: what benches of executors do.

use std::io;
use std::path::Path;

use drover_agent::config::SandboxSettings;
use drover_agent::executor::sandbox::SandboxExecutor;
use drover_agent::executor::{Ended, Job, NewText, Sink, Workplace};
use drover_store::derivation::Derivation;
use drover_store::nar;

use crate::bench::Result;
use crate::graph::{Graph, Made};

/// A sandbox with a store of its own in this folder.
///
/// # Errors
/// When this machine has none.
pub fn sandbox(folder: &Path) -> Result<SandboxExecutor> {
    let (store_root, roots) = (folder.join("root"), folder.join("roots"));
    for folder in [&store_root, &roots] {
        std::fs::create_dir_all(folder)?;
    }
    let settings = SandboxSettings { store_root, ..SandboxSettings::default() };
    Ok(SandboxExecutor::new(settings, &roots, None)?)
}

/// Puts the shell of a graph into the executor's store.
///
/// # Errors
/// When the store refuses.
pub fn add_shell(place: &mut dyn Workplace, graph: &Graph) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    graph.write(scratch.path())?;
    place.protect(&mut graph.shell_parts().iter())?;
    for part in graph.shell_parts() {
        let mut bytes = Vec::new();
        nar::pack(&scratch.path().join(part.base_name()), &mut bytes)?;
        place.add_file(part, true, &mut bytes.as_slice())?;
    }
    Ok(())
}

/// Does for a derivation without inputs all that an agent does, from its texts to the description of its outputs.
///
/// # Errors
/// When it does not succeed.
pub fn build(place: &mut dyn Workplace, graph: &Graph, made: &Made) -> Result<()> {
    let text = graph.bytes(&made.path).ok_or("the derivation has gone")?;
    let derivation = Derivation::parse(text)?;
    let (of_script, of_derivation) = ([graph.shell().clone()], derivation.references());
    let mut texts: Vec<NewText<'_>> = derivation
        .sources
        .iter()
        .filter_map(|path| Some(NewText { path, text: graph.bytes(path)?, references: &of_script }))
        .collect();
    texts.push(NewText { path: &made.path, text, references: &of_derivation });
    place.protect(&mut [&made.path].into_iter())?;
    place.add_texts(&texts)?;
    let job = Job { derivation: made.path.clone(), timeout: Some(60), max_silent_time: None };
    match place.build(&job, &mut Silent)? {
        Ended::Succeeded => {}
        other => return Err(format!("{} was not built: {other:?}", made.path).into()),
    }
    let outputs: Vec<_> = made.outputs.iter().map(|(_, path)| path.clone()).collect();
    if place.describe(&outputs)?.len() != outputs.len() {
        return Err(format!("the store does not know what {} made", made.path).into());
    }
    Ok(())
}

/// Takes a log and throws it away.
struct Silent;

impl Sink for Silent {
    fn started(&mut self) {}

    fn log(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
