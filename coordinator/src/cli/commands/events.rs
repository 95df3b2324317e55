//! `drover events …`

use drover_wire::event::{EventKind, EventKinds, EventsQuery, FarmEvent};

use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::{clean, size, time};
use crate::cli::{EventsArgs, Exit};
use crate::client::{ClientError, Watch as _, events};

pub(in crate::cli) fn run(args: &EventsArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let query = EventsQuery {
        since: args.since,
        kind: Some(&args.kinds).filter(|kinds| !kinds.is_empty()).map(|kinds| EventKinds::of(kinds)),
        agent: args.agent.clone(),
        tag: args.tag.clone(),
        system: args.system.clone(),
        build: args.build,
        once: args.once,
    };
    let print = |event: FarmEvent| {
        if out.is_json() {
            out.json(&event)?;
        } else if event.kind == EventKind::Reset {
            watch.warn(event.detail.text.as_deref().unwrap_or("events are missing before those that follow"));
        } else {
            out.line(line(&event))?;
        }
        // Each is to be seen when it happens.
        out.flush()
    };
    events::events(&args.connection.coordinator()?, &query, print, watch)?;
    Ok(Exit::Success)
}

/// An event for people: when, what, about what, by whom.
fn line(event: &FarmEvent) -> String {
    let mut line = format!("{}  {:<23}", time(event.at), event.kind);
    let mut add = |part: String| {
        line.push(' ');
        line.push_str(&part);
    };
    let about = event.item.as_ref().or(event.derivation.as_ref());
    if let Some(path) = about {
        add(path.base_name().to_owned());
    }
    if let Some(system) = &event.system {
        add(format!("({})", clean(system)));
    }
    if let Some(agent) = event.agent.as_deref().map(clean) {
        add(if about.is_some() { format!("on {agent}") } else { agent.into_owned() });
    }
    let detail = &event.detail;
    let said = [
        detail.phase.map(|phase| phase.to_string()),
        detail.state.map(|state| state.to_string()),
        detail.place.clone().map(|place| match detail.room {
            Some(room) => format!("{place}, room for {}", size(room)),
            None => place,
        }),
        detail.hook.as_ref().map(ToString::to_string),
        detail.text.clone(),
        detail.missing.first().map(|first| match detail.missing.len() {
            1 => first.base_name().to_owned(),
            more => format!("{} and {} more", first.base_name(), more - 1),
        }),
        event.build.map(|build| build.to_string()),
    ];
    for part in said.into_iter().flatten() {
        add(format!("· {}", clean(&part)));
    }
    line
}
