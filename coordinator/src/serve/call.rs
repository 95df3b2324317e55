//! What handlers share: the parts of a request's address, and work that outlives its caller.

use std::fmt::Display;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::RequestExt;
use axum::extract::{FromRequest, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use drover_store::StorePath;
use drover_wire::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::Incoming;
use super::problem::Refusal;
use crate::farm::{self, Farm};

/// What a handler answers.
pub(super) type Answer = Result<Response, Refusal>;

/// A request, of which nothing but the head was read.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) parts: Parts,
    /// Not read yet.
    pub(super) body: Incoming,
    variables: Vec<(String, String)>,
}

impl FromRequest<Arc<Farm>> for Call {
    type Rejection = Refusal;

    async fn from_request(mut request: Request, _: &Arc<Farm>) -> Result<Self, Refusal> {
        let variables: RawPathParams = request.extract_parts().await.map_err(|error| {
            Refusal::new(Code::BadRequest, format_args!("the address is not text: {error}"))
        })?;
        let variables = variables.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (parts, body) = request.into_parts();
        let body = Incoming::new(&parts.headers, body);
        Ok(Self { parts, body, variables })
    }
}

impl Call {
    /// The variable part of the address with this name.
    pub(super) fn part<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Refusal> {
        self.text(name)?.parse().map_err(|error| bad_address(&error))
    }

    /// The store item that the address names by its base name.
    pub(super) fn item(&self) -> Result<StorePath, Refusal> {
        StorePath::parse_base(self.text("item")?).map_err(|error| bad_address(&error))
    }

    fn text(&self, name: &str) -> Result<&str, Refusal> {
        let found = self.variables.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).ok_or_else(|| bad_address(&format_args!("it has no {name}")))
    }

    /// What the query of the address says.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        match Query::try_from_uri(&self.parts.uri) {
            Ok(Query(query)) => Ok(query),
            Err(error) => Err(bad_address(&error)),
        }
    }
}

fn bad_address(error: &dyn Display) -> Refusal {
    Refusal::new(
        Code::BadRequest,
        format_args!("the address of the request is not one of this coordinator: {error}"),
    )
}

/// Does work to its end although the caller may go away in the middle of it.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, farm::Error>> + Send + 'static,
) -> Result<T, Refusal> {
    match crate::traced::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Refusal::internal(&error)),
    }
}

/// Does work that blocks, to its end.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    crate::traced::spawn_blocking(work).await.map_err(|error| Refusal::internal(&error))
}

/// A message as an answer.
pub(super) fn json(value: impl Serialize) -> Answer {
    Ok(Json(value).into_response())
}
