//! What clients ask about sets.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::bundle::BundleError;
use drover_wire::set::{RevisionName, SetName, SetRef};

use super::body::BlockingBody;
use super::bundle::decompressed;
use super::call::{Answer, Call, json, to_its_end};
use crate::farm::{Coming, Farm};

type Core = State<Arc<Farm>>;

pub(super) async fn list(State(farm): Core, call: Call) -> Answer {
    json(farm.sets(call.query()?).await?)
}

pub(super) async fn show(State(farm): Core, call: Call) -> Answer {
    let named: SetRef = call.part("set")?;
    json(farm.set(named).await?)
}

pub(super) async fn blockers(State(farm): Core, call: Call) -> Answer {
    let named: SetRef = call.part("set")?;
    json(farm.set_blockers(named, call.query()?).await?)
}

pub(super) async fn diff(State(farm): Core, call: Call) -> Answer {
    json(farm.set_diff(call.query()?).await?)
}

pub(super) async fn submit(State(farm): Core, call: Call) -> Answer {
    let set: SetName = call.part("set")?;
    let revision: RevisionName = call.part("revision")?;
    let coming = Coming { set, revision, terms: call.query()? };
    let body = BlockingBody::new(call.body);
    let submitted = to_its_end(async move {
        let rows = decompressed(body).map_err(|source| BundleError::Io { entries: 0, source })?;
        farm.submit_set(coming, rows).await
    });
    json(submitted.await?)
}

pub(super) async fn forget(State(farm): Core, call: Call) -> Answer {
    let set: SetName = call.part("set")?;
    json(to_its_end(async move { farm.drop_set(set).await }).await?)
}
