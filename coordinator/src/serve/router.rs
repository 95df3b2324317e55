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
use super::{agents, auth, clients, health, leftover, metrics, pages, public};
use crate::farm::Farm;

/// What agents speak to.
pub(super) fn for_agents(farm: &Arc<Farm>) -> Router {
    let known = from_fn_with_state(Arc::clone(farm), auth::agents);
    around(mount(&[AGENTS]).layer(known), farm, Listener::Agents).with_state(Arc::clone(farm))
}

/// What clients speak to, with programs and with browsers.
pub(super) fn for_clients(farm: &Arc<Farm>) -> Router {
    let known = from_fn_with_state(Arc::clone(farm), auth::clients);
    let inside = mount(&[CLIENTS, PAGES]).layer(from_fn(pages::in_words)).layer(known);
    // Nobody has to be known for these.
    let door = routes(&[DOOR, HEALTH]).method_not_allowed_fallback(wrong_method);
    // Once more around all of it, for those who are not known.
    let table = inside.merge(door).layer(from_fn(pages::in_words));
    around(table, farm, Listener::Clients).with_state(Arc::clone(farm))
}

/// What those of this machine speak to who have no token: numbers, and whether the coordinator is there.
pub(super) fn for_metrics(farm: &Arc<Farm>) -> Router {
    let table = mount(&[HEALTH]).route(METRICS.pattern, at(&METRICS, metrics::metrics));
    around(table, farm, Listener::Clients).with_state(Arc::clone(farm))
}

/// What everybody speaks to: bodies are not read, and strangers' addresses not repeated.
pub(super) fn for_public(farm: &Arc<Farm>) -> Router {
    let mut table = mount(&[PUBLIC]);
    if farm.config().public_pages {
        let all = routes(&[PUBLIC_PAGES]).method_not_allowed_fallback(wrong_method);
        let look = from_fn_with_state(Arc::clone(farm), auth::everybody);
        table = table.merge(all.layer(from_fn(pages::in_words)).layer(look).layer(from_fn(pages::in_words)));
    }
    let nothing = async |State(farm): State<Arc<Farm>>| public::nothing(&farm);
    let observer = Observer::new(farm, Listener::Public);
    table.fallback(nothing).layer(from_fn_with_state(observer, observe)).with_state(Arc::clone(farm))
}

/// A table of routes, with the function that knows the handlers of some of them.
type Table = (&'static [Route], fn(&Route) -> Option<Mounted>);

const AGENTS: Table = (route::agents::ALL, agents::handler);
const CLIENTS: Table = (route::clients::ALL, clients::handler);
const PUBLIC: Table = (route::public::ALL, public::handler);
const PAGES: Table = (route::pages::ALL, pages::handler);
const DOOR: Table = (route::pages::ALL, pages::door);
const HEALTH: Table = (route::health::ALL, health::handler);
const PUBLIC_PAGES: Table = (route::pages::ALL, |route| pages::public(route).or_else(|| pages::asset(route)));

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

fn routes(tables: &[Table]) -> Router<Arc<Farm>> {
    let all = tables.iter().flat_map(|(table, handler)| table.iter().map(move |route| (route, handler)));
    let mounted = all.filter_map(|(route, handler)| Some((route.pattern, handler(route)?)));
    mounted.fold(Router::new(), |router, (pattern, handler)| router.route(pattern, handler))
}

fn mount(tables: &[Table]) -> Router<Arc<Farm>> {
    routes(tables).fallback(unknown_address).method_not_allowed_fallback(wrong_method)
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
        let all = [AGENTS, CLIENTS, PUBLIC, HEALTH, (route::pages::ALL, any_page)];
        for (own, (table, handler)) in all.iter().enumerate() {
            assert_eq!(unmounted(table, *handler), Vec::<&str>::new());
            for (_, (others, _)) in all.iter().enumerate().filter(|(other, _)| *other != own) {
                assert_eq!(unmounted(others, *handler).len(), others.len());
            }
        }
    }

    fn any_page(route: &Route) -> Option<Mounted> {
        pages::handler(route).or_else(|| pages::door(route))
    }

    #[test]
    fn no_two_routes_are_in_each_other_s_way() {
        // Addresses that collide make the router panic.
        let _ = mount(&[AGENTS]);
        let _ = mount(&[CLIENTS, PAGES, DOOR, HEALTH]);
        let _ = mount(&[PUBLIC, PUBLIC_PAGES]);
    }
}
