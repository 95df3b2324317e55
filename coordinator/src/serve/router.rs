//! From the table of routes to handlers, with what goes before and after each of them.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};
use drover_wire::Code;
use drover_wire::route::clients::METRICS;
use drover_wire::route::{self, Listener, Method, Route};

use super::observe::{Observer, observe};
use super::problem::Refusal;
use super::{agents, auth, clients, health, leftover, metrics, public};
use crate::farm::Farm;

/// What agents speak to.
pub(super) fn for_agents(farm: &Arc<Farm>) -> Router {
    let known = from_fn_with_state(Arc::clone(farm), auth::agents);
    let table = mount(route::agents::ALL, agents::handler).layer(known);
    around(table, farm, Listener::Agents).with_state(Arc::clone(farm))
}

/// What clients speak to.
pub(super) fn for_clients(farm: &Arc<Farm>) -> Router {
    let known = from_fn_with_state(Arc::clone(farm), auth::clients);
    let table = mount(route::clients::ALL, clients::handler).layer(known);
    // Behind the others: nobody has to be known for these.
    let table = routed(table, route::health::ALL, health::handler);
    around(table, farm, Listener::Clients).with_state(Arc::clone(farm))
}

/// What those of this machine speak to who have no token: numbers, and whether the coordinator is there.
pub(super) fn for_metrics(farm: &Arc<Farm>) -> Router {
    let table = mount(route::health::ALL, health::handler);
    let table = table.route(METRICS.pattern, at(&METRICS, metrics::metrics));
    around(table, farm, Listener::Clients).with_state(Arc::clone(farm))
}

/// What everybody speaks to: bodies are not read, and strangers' addresses not repeated.
pub(super) fn for_public(farm: &Arc<Farm>) -> Router {
    let table = mount(route::public::ALL, public::handler);
    let nothing = async |State(farm): State<Arc<Farm>>| public::nothing(&farm);
    let observer = Observer::new(farm, Listener::Public);
    table.fallback(nothing).layer(from_fn_with_state(observer, observe)).with_state(Arc::clone(farm))
}

/// A handler for any method; the table says which one it gets.
pub(super) type Mounted = MethodRouter<Arc<Farm>>;

/// Puts a handler where its route says.
pub(super) fn at<T: 'static>(route: &Route, handler: impl Handler<T, Arc<Farm>>) -> Mounted {
    let method = match route.method {
        // HEAD is answered as GET is, without the body.
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
    };
    on(method, handler)
}

fn mount(table: &[Route], handler: fn(&Route) -> Option<Mounted>) -> Router<Arc<Farm>> {
    let router = routed(Router::new(), table, handler);
    router.fallback(unknown_address).method_not_allowed_fallback(wrong_method)
}

fn routed(
    router: Router<Arc<Farm>>,
    table: &[Route],
    handler: fn(&Route) -> Option<Mounted>,
) -> Router<Arc<Farm>> {
    let mounted = table.iter().filter_map(|route| Some((route.pattern, handler(route)?)));
    mounted.fold(router, |router, (pattern, handler)| router.route(pattern, handler))
}

fn around(router: Router<Arc<Farm>>, farm: &Arc<Farm>, listener: Listener) -> Router<Arc<Farm>> {
    let observer = Observer::new(farm, listener);
    router.layer(from_fn(leftover::discard)).layer(from_fn_with_state(observer, observe))
}

async fn unknown_address(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(Code::NotFound, format_args!("there is nothing at the address {path} of this coordinator"))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(
        Code::MethodNotAllowed,
        format_args!("the address {path} is not for {method}; see the header Allow for what it is for"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_the_table_has_a_handler_on_its_own_listener_only() {
        let unmounted = |table: &'static [Route], handler: fn(&Route) -> Option<Mounted>| -> Vec<&str> {
            table.iter().filter(|route| handler(route).is_none()).map(|route| route.pattern).collect()
        };
        assert_eq!(unmounted(route::agents::ALL, agents::handler), Vec::<&str>::new());
        assert_eq!(unmounted(route::clients::ALL, clients::handler), Vec::<&str>::new());
        assert_eq!(unmounted(route::public::ALL, public::handler), Vec::<&str>::new());
        assert_eq!(unmounted(route::health::ALL, health::handler), Vec::<&str>::new());
        assert_eq!(unmounted(route::agents::ALL, public::handler).len(), route::agents::ALL.len());
        assert_eq!(unmounted(route::clients::ALL, public::handler).len(), route::clients::ALL.len());
        assert_eq!(unmounted(route::agents::ALL, clients::handler).len(), route::agents::ALL.len());
        assert_eq!(unmounted(route::clients::ALL, agents::handler).len(), route::clients::ALL.len());
    }

    #[test]
    fn no_two_routes_are_in_each_other_s_way() {
        // Addresses that collide make the router panic.
        let _ = mount(route::agents::ALL, agents::handler);
        let table = mount(route::clients::ALL, clients::handler);
        let _ = routed(table, route::health::ALL, health::handler);
        let _ = mount(route::public::ALL, public::handler);
    }
}
