//! What agents ask, each route with its handler.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use drover_wire::agent::{Enrolment, Heartbeat, Hello, Poll};
use drover_wire::route::Route;
use drover_wire::route::agents::{
    BUNDLE, CLOSURE, DECLARE, ENROL, FILE, HEARTBEAT, HELLO, KEY, LOG, NAR, POLL, REPORT, UPLOAD,
};
use drover_wire::{LOG_CHUNK_LIMIT, LeaseId};
use serde::Deserialize;

use super::body::{MESSAGE_LIMIT, SMALL_MESSAGE_LIMIT};
use super::call::{Answer, Call, json, to_its_end};
use super::router::{Mounted, at};
use super::{bundle, contents, nar};
use crate::farm::Farm;
use crate::farm::change::AgentRow;
use crate::farm::enrol::Enroller;

/// The handler of a route; none if it is no route of agents.
pub(super) fn handler(route: &Route) -> Option<Mounted> {
    Some(match *route {
        ENROL => at(route, enrol),
        HELLO => at(route, hello),
        POLL => at(route, poll),
        HEARTBEAT => at(route, heartbeat),
        CLOSURE => at(route, closure),
        BUNDLE => at(route, bundle::download),
        NAR => at(route, nar::download),
        FILE => at(route, contents::download),
        LOG => at(route, log),
        DECLARE => at(route, declare),
        UPLOAD => at(route, upload),
        REPORT => at(route, report),
        KEY => at(route, key),
        _ => return None,
    })
}

type Caller = Extension<AgentRow>;
type Core = State<Arc<Farm>>;

/// The query of what is appended to.
#[derive(Debug, Deserialize)]
struct At {
    offset: u64,
}

async fn enrol(State(farm): Core, Extension(machine): Extension<Enroller>, call: Call) -> Answer {
    let enrolment: Enrolment = call.body.json(SMALL_MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.enrol(machine, enrolment).await }).await?)
}

async fn hello(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let hello: Hello = call.body.json(SMALL_MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.hello(&agent, hello).await }).await?)
}

/// Ends when the agent goes away: what it waited for goes to somebody else.
async fn poll(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let poll: Poll = call.body.json(SMALL_MESSAGE_LIMIT).await?;
    json(farm.poll(&agent, poll).await?)
}

async fn heartbeat(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let heartbeat: Heartbeat = call.body.json(SMALL_MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.heartbeat(&agent, heartbeat).await }).await?)
}

async fn closure(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    json(farm.closure(&agent, call.part("lease")?).await?)
}

async fn log(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let (lease, At { offset }) = (call.part::<LeaseId>("lease")?, call.query()?);
    let chunk = call.body.bytes(LOG_CHUNK_LIMIT).await?;
    json(to_its_end(async move { farm.append_log(&agent, lease, offset, chunk).await }).await?)
}

async fn declare(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let lease: LeaseId = call.part("lease")?;
    let output = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.declare(&agent, lease, output).await }).await?)
}

async fn upload(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let (lease, path, At { offset }) = (call.part::<LeaseId>("lease")?, call.item()?, call.query()?);
    let body = call.body.stream();
    json(to_its_end(async move { farm.upload(&agent, lease, path, offset, body).await }).await?)
}

async fn report(State(farm): Core, Extension(agent): Caller, call: Call) -> Answer {
    let lease: LeaseId = call.part("lease")?;
    let report = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.report(&agent, lease, report).await }).await?)
}

/// For both listeners.
pub(super) async fn key(State(farm): Core) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], farm.public_key())
}
