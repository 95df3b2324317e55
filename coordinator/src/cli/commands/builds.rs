//! `drover builds …`

use drover_wire::client::{BuildFilter, BuildSummary};

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{age, clean, now};
use crate::cli::{BuildsArgs, Exit};
use crate::client::{ClientError, builds};

pub(in crate::cli) fn run(args: &BuildsArgs, out: &mut Out) -> Result<Exit, ClientError> {
    let filter = BuildFilter {
        state: args.state,
        system: args.system.clone(),
        tag: args.tag.clone(),
        agent: args.agent.clone(),
        name: args.name.clone(),
        set: args.set.clone(),
        before: args.before,
        limit: None,
    };
    let limit = (args.limit > 0).then_some(args.limit);
    let mut last = None;
    let more = builds::list(&args.connection.coordinator()?, filter, limit, |page| {
        if out.is_json() {
            page.builds.iter().try_for_each(|build| out.json(build))?;
        } else {
            out.table(&table(&page.builds))?;
        }
        last = page.builds.last().map(|build| build.build);
        out.flush()
    })?;
    if let (true, false, Some(last)) = (more, out.is_json(), last) {
        out.line(format!("There are more: --before {last} shows the next, --limit 0 all."))?;
    }
    Ok(Exit::Success)
}

pub(super) fn table(builds: &[BuildSummary]) -> Table {
    let mut table = Table::new(&[
        Column::new("BUILD"),
        Column::new("STATE"),
        Column::new("AGENT").dispensable(2),
        Column::new("PRIORITY").right().dispensable(4),
        Column::new("SYSTEM").dispensable(3),
        Column::new("AGE").right().dispensable(1),
        Column::new("NAME"),
    ]);
    let now = now();
    for build in builds {
        table.row([
            build.build.to_string(),
            state(build),
            build.agent.as_deref().map_or_else(|| "-".into(), clean).into_owned(),
            build.priority.to_string(),
            clean(&build.system).into_owned(),
            age(build.submitted_at, now),
            build.derivation.derivation_name().to_owned(),
        ]);
    }
    table
}

/// The state, and what an agent does meanwhile where that says more.
pub(super) fn state(build: &BuildSummary) -> String {
    use drover_wire::{BuildState, Phase};

    match (build.state, build.phase) {
        (BuildState::Running, Some(Phase::Building)) | (_, None) => build.state.to_string(),
        (BuildState::Allocated | BuildState::Running, Some(phase)) => phase.to_string(),
        (state, Some(_)) => state.to_string(),
    }
}
