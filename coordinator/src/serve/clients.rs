//! What clients ask, each route with its handler.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::client::{NewAgent, NewToken, Submission, WaitQuestion};
use drover_wire::key::{KeyRetirement, KeyRotation};
use drover_wire::route::Route;
use drover_wire::route::clients::{
    AGENT_TOKEN, AGENTS, BLOCKERS, BUILD, BUILDS, CANCEL, CHECK_SOURCE, DIFF, DROP_SET, ESTIMATE, EVENTS,
    HOOK_FAILED, HOOK_RETRY, HOOKS, IMPORT, IMPORTS, ITEM, KEY, KEYS, LOG, METRICS, MISSING, MISSING_SOURCES,
    MOVE, NAR, NEW_AGENT, PASSWORD, RETENTION, RETENTION_PLAN, RETENTION_RUN, RETIRE_KEY, ROTATE_KEY, SET,
    SETS, SOURCES, START_IMPORT, STATE, STOP_IMPORT, STOP_MOVE, STORAGE, SUBMIT, SUBMIT_SET, UPLOAD, WAIT,
};
use drover_wire::{AgentId, BuildId};

use super::agents::key;
use super::body::MESSAGE_LIMIT;
use super::call::{Answer, Call, json, to_its_end};
use super::router::{Mounted, at};
use super::{bundle, events, hooks, imports, log, metrics, nar, retention, sets, storage};
use crate::farm::Farm;

/// The handler of a route; none if it is no route of clients.
pub(super) fn handler(route: &Route) -> Option<Mounted> {
    Some(match *route {
        MISSING => at(route, missing),
        MISSING_SOURCES => at(route, missing_sources),
        UPLOAD => at(route, bundle::upload),
        SUBMIT => at(route, submit),
        BUILDS => at(route, builds),
        WAIT => at(route, wait),
        BUILD => at(route, build),
        LOG => at(route, log::download),
        CANCEL => at(route, cancel),
        ITEM => at(route, item),
        NAR => at(route, nar::download),
        SETS => at(route, sets::list),
        SET => at(route, sets::show),
        SUBMIT_SET => at(route, sets::submit),
        BLOCKERS => at(route, sets::blockers),
        DROP_SET => at(route, sets::forget),
        DIFF => at(route, sets::diff),
        RETENTION => at(route, retention::status),
        RETENTION_PLAN => at(route, retention::plan),
        RETENTION_RUN => at(route, retention::run),
        ESTIMATE => at(route, estimate),
        IMPORTS => at(route, imports::list),
        START_IMPORT => at(route, imports::start),
        IMPORT => at(route, imports::show),
        STOP_IMPORT => at(route, imports::stop),
        HOOKS => at(route, hooks::list),
        HOOK_FAILED => at(route, hooks::failed),
        HOOK_RETRY => at(route, hooks::retry),
        SOURCES => at(route, sources),
        CHECK_SOURCE => at(route, check_source),
        EVENTS => at(route, events::stream),
        STATE => at(route, state),
        AGENTS => at(route, agents),
        NEW_AGENT => at(route, new_agent),
        PASSWORD => at(route, password),
        AGENT_TOKEN => at(route, agent_token),
        KEY => at(route, key),
        KEYS => at(route, keys),
        ROTATE_KEY => at(route, rotate_key),
        RETIRE_KEY => at(route, retire_key),
        STORAGE => at(route, storage::list),
        MOVE => at(route, storage::start_move),
        STOP_MOVE => at(route, storage::stop_move),
        METRICS => at(route, metrics::metrics),
        _ => return None,
    })
}

type Core = State<Arc<Farm>>;

async fn missing(State(farm): Core, call: Call) -> Answer {
    json(farm.missing(call.body.json(MESSAGE_LIMIT).await?).await?)
}

async fn missing_sources(State(farm): Core) -> Answer {
    json(farm.missing_sources().await?)
}

async fn sources(State(farm): Core, call: Call) -> Answer {
    json(farm.sources(call.query()?).await?)
}

async fn check_source(State(farm): Core, call: Call) -> Answer {
    let item = call.item()?;
    json(to_its_end(async move { farm.check_source(item).await }).await?)
}

async fn submit(State(farm): Core, call: Call) -> Answer {
    let submission: Submission = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.submit(submission).await }).await?)
}

async fn builds(State(farm): Core, call: Call) -> Answer {
    json(farm.builds(call.query()?).await?)
}

async fn wait(State(farm): Core, call: Call) -> Answer {
    let question: WaitQuestion = call.body.json(MESSAGE_LIMIT).await?;
    json(farm.wait(question).await?)
}

async fn build(State(farm): Core, call: Call) -> Answer {
    json(farm.show(call.part("build")?).await?)
}

async fn cancel(State(farm): Core, call: Call) -> Answer {
    let build: BuildId = call.part("build")?;
    json(to_its_end(async move { farm.cancel(build).await }).await?)
}

async fn item(State(farm): Core, call: Call) -> Answer {
    json(farm.item(&call.item()?, false).await?)
}

async fn state(State(farm): Core) -> Answer {
    json(farm.state().await?)
}

async fn agents(State(farm): Core) -> Answer {
    json(farm.agents().await?)
}

async fn new_agent(State(farm): Core, call: Call) -> Answer {
    let new: NewAgent = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.new_agent(new).await }).await?)
}

async fn password(State(farm): Core, call: Call) -> Answer {
    let agent: AgentId = call.part("agent")?;
    json(to_its_end(async move { farm.new_password(agent).await }).await?)
}

async fn agent_token(State(farm): Core, call: Call) -> Answer {
    let new: NewToken = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.new_agent_token(new).await }).await?)
}

async fn keys(State(farm): Core) -> Answer {
    json(farm.keys().await?)
}

async fn rotate_key(State(farm): Core, call: Call) -> Answer {
    let rotation: KeyRotation = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.rotate_key(rotation).await }).await?)
}

async fn retire_key(State(farm): Core, call: Call) -> Answer {
    let key: u64 = call.part("key")?;
    let retirement: KeyRetirement = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.retire_key(key, retirement).await }).await?)
}

async fn estimate(State(farm): State<Arc<Farm>>) -> Answer {
    json(farm.estimate_ages().await?)
}
