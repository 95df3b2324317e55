//! The one table of routes: which listener, which method, which address, what it is for.

use std::fmt::Display;

/// Who speaks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listener {
    /// Agents, with their own password or a dynamic token. Port 8745 by default.
    Agents,
    /// Clients, with a client token. Port 8746 by default.
    Clients,
    /// Everybody: it only reads, and shows only what was published. Port 8747 by default.
    Public,
    /// People, with a browser. Beside the clients' addresses, after a login; some of them beside the public's, too, where
    /// that is switched on.
    Pages,
}

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Asks or changes; may be sent again.
    Post,
    /// Appends bytes at an offset.
    Patch,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where.
    pub listener: Listener,
    /// How.
    pub method: Method,
    /// The address, with `{name}` for each variable part.
    pub pattern: &'static str,
    /// What it is for, with the types that it reads and answers.
    pub purpose: &'static str,
}

impl Route {
    /// The address with its variable parts filled in, in their order. Parts are identifiers, hashes, and names of store
    /// items, of whose characters only the question mark means something in an address.
    #[must_use]
    pub fn path(&self, parts: &[&dyn Display]) -> String {
        let mut parts = parts.iter();
        let mut path = String::with_capacity(self.pattern.len() + 40);
        for segment in self.pattern.split('/').skip(1) {
            path.push('/');
            match parts.next_if_variable(segment) {
                Some(part) => path.push_str(&part.to_string().replace('?', "%3F")),
                None => path.push_str(segment),
            }
        }
        path
    }
}

trait NextIfVariable<'a> {
    fn next_if_variable(&mut self, segment: &str) -> Option<&'a dyn Display>;
}

impl<'a> NextIfVariable<'a> for std::slice::Iter<'a, &'a dyn Display> {
    fn next_if_variable(&mut self, segment: &str) -> Option<&'a dyn Display> {
        if segment.starts_with('{') { self.next().copied() } else { None }
    }
}

macro_rules! routes {
    ($listener:ident { $($name:ident $method:ident $pattern:literal $purpose:literal;)+ }) => {
        use super::{Listener, Method, Route};
        $(
            #[doc = concat!("`", $pattern, "`: ", $purpose)]
            pub const $name: Route = Route {
                listener: Listener::$listener,
                method: Method::$method,
                pattern: $pattern,
                purpose: $purpose,
            };
        )+
        /// All routes of this listener.
        pub const ALL: &[Route] = &[$($name),+];
    };
}

/// What agents ask.
pub mod agents {
    routes!(Agents {
        ENROL Post "/v1/enrol" "`Enrolment` → `Enrolled`, with a dynamic token and a name only";
        HELLO Post "/v1/hello" "`Hello` → `Welcome`";
        POLL Post "/v1/poll" "`Poll` → `Orders`, held open";
        HEARTBEAT Post "/v1/heartbeat" "`Heartbeat` → `Orders`";
        CLOSURE Get "/v1/leases/{lease}/closure" "→ `Closure`";
        BUNDLE Post "/v1/bundle" "`BundleRequest` → a bundle of derivations and sources";
        NAR Get "/v1/nars/{item}" "→ the zstd-compressed nar of a store item, named by its base name; ranges";
        FILE Get "/v1/file/{name}/sha256/{hash}" "→ the contents of a fixed output that is one file, published or not, by their SHA-256 in base32";
        LOG Patch "/v1/leases/{lease}/log" "bytes at `?offset=` → `Received`";
        DECLARE Post "/v1/leases/{lease}/outputs" "`Output` → `Received`: where to go on";
        UPLOAD Patch "/v1/leases/{lease}/outputs/{item}" "bytes of the zstd-compressed nar at `?offset=`, to its end → `Received`";
        REPORT Post "/v1/leases/{lease}/report" "`Report` → `Reported`";
        KEY Get "/v1/key" "→ the public Guix key that signs, an s-expression";
    });
}

/// What clients ask.
pub mod clients {
    routes!(Clients {
        MISSING Post "/v1/missing" "`MissingQuestion` → `MissingAnswer`";
        UPLOAD Post "/v1/bundle" "a bundle of derivations and sources → `Uploaded`";
        MISSING_SOURCES Get "/v1/missing-sources" "→ `MissingAnswer`: sources that derivations which are here name, and nobody has uploaded";
        SUBMIT Post "/v1/builds" "`Submission` → `Submitted`";
        BUILDS Get "/v1/builds" "`BuildFilter` as the query → `BuildList`";
        WAIT Post "/v1/wait" "`WaitQuestion` → `WaitAnswer`, held open";
        BUILD Get "/v1/builds/{build}" "→ `BuildDetails`";
        LOG Get "/v1/builds/{build}/log" "`LogQuery` as the query → the log's bytes, with where they begin and how many there are in headers";
        CANCEL Post "/v1/builds/{build}/cancel" "→ `BuildDetails`";
        ITEM Get "/v1/items/{item}" "→ `ItemInfo`";
        NAR Get "/v1/nars/{item}" "→ the zstd-compressed nar of a store item; ranges";
        SETS Get "/v1/sets" "`SetsQuestion` as the query → a list of `SetSummary`";
        SET Get "/v1/sets/{set}" "→ `SetDetails`; the set may be named with its revision, as `NAME@REVISION`";
        SUBMIT_SET Post "/v1/sets/{set}/revisions/{revision}" "`SetSubmission` as the query, rows as the body → `SetSubmitted`";
        BLOCKERS Get "/v1/sets/{set}/blockers" "`BlockersQuestion` as the query → `Blockers`";
        DROP_SET Post "/v1/sets/{set}/drop" "→ `SetDropped`";
        HOOKS Get "/v1/hooks" "→ a list of `HookSummary`";
        HOOK_FAILED Get "/v1/hooks/{hook}/failed" "→ `FailedRuns`";
        HOOK_RETRY Post "/v1/hooks/{hook}/retry" "→ `HookRetried`: all that it gave up is tried again";
        RETENTION Get "/v1/retention" "→ `RetentionStatus`";
        RETENTION_PLAN Post "/v1/retention/plan" "`RetentionQuestion` → `RetentionPlan`";
        RETENTION_RUN Post "/v1/retention/run" "has it looked soon what may go → `RetentionStatus`";
        ESTIMATE Get "/v1/estimate" "→ `Estimate`: what logs, history and the like will take";
        DIFF Get "/v1/set-diff" "`DiffQuestion` as the query → `SetDiff`";
        IMPORTS Get "/v1/imports" "→ a list of `ImportSummary`, the newest first";
        START_IMPORT Post "/v1/imports" "`NewImport` → `ImportSummary`";
        IMPORT Get "/v1/imports/{import}" "→ `ImportDetails`";
        STOP_IMPORT Post "/v1/imports/{import}/stop" "→ `ImportDetails`";
        SOURCES Get "/v1/sources" "`SourceQuestion` as the query → `SourceList`";
        CHECK_SOURCE Post "/v1/sources/{item}/check" "→ `Source`, whose upstream was looked at just now";
        EVENTS Get "/events" "`EventsQuery` as the query → server-sent events, each a `FarmEvent`; held open";
        STATE Get "/state" "→ `FarmState`, and the event that it is true at";
        AGENTS Get "/v1/agents" "→ a list of `AgentSummary`";
        NEW_AGENT Post "/v1/agents" "`NewAgent` → `AgentSummary`";
        PASSWORD Post "/v1/agents/{agent}/passwords" "→ `Secret`: one more password";
        AGENT_TOKEN Post "/v1/agent-tokens" "`NewToken` → `Secret`: a dynamic token, with which agents enrol themselves";
        KEY Get "/v1/key" "→ the public Guix key that signs, an s-expression";
        KEYS Get "/v1/keys" "→ a list of `KeyInfo`, the newest first";
        ROTATE_KEY Post "/v1/keys" "`KeyRotation` → `KeyRotated`";
        RETIRE_KEY Post "/v1/keys/{key}/retire" "`KeyRetirement` → `KeyInfo`";
        STORAGE Get "/v1/storage" "→ a list of `PlaceSummary`";
        MOVE Post "/v1/storage/{place}/move" "`Move` → a list of `PlaceSummary`: the place is emptied from now on";
        STOP_MOVE Post "/v1/storage/{place}/stop" "→ a list of `PlaceSummary`: the place is not emptied any more";
        METRICS Get "/metrics" "→ numbers about the farm, for Prometheus";
    });
}

/// What is asked on the clients' listener without a token: whether the coordinator is there.
pub mod health {
    routes!(Clients {
        HEALTHY Get "/healthz" "→ that the coordinator runs";
        READY Get "/readyz" "→ that it can do its work, or why not";
    });
}

/// What everybody can ask; the addresses are those of Guix's substitute servers.
pub mod public {
    routes!(Public {
        CACHE_INFO Get "/nix-cache-info" "→ which store it serves";
        NARINFO Get "/{narinfo}" "→ the narinfo of a published item: `HASH.narinfo`, HASH the first part of its base name";
        NAR Get "/nar/{compression}/{item}" "→ the compressed nar of a published item, named by its base name; ranges";
        FILE Get "/file/{name}/sha256/{hash}" "→ the contents of a published fixed output that is one file, by their SHA-256 in base32";
        LOG Get "/log/{item}" "→ the log of the newest build of a published output, or of its derivation";
        PUBLISHED Get "/drover/published" "`PublishedQuestion` as the query → `PublishedPage`: what was published, for mirrors";
        KEY Get "/signing-key.pub" "→ the public Guix key that signs, an s-expression, as `guix archive --authorize` reads it";
        KEYS Get "/signing-keys" "→ all public Guix keys that what is served here may be signed by, a line each";
    });
}

/// What people look at with a browser: pages in HTML.
pub mod pages {
    routes!(Pages {
        ACTIVITY Get "/" "→ what every agent does, what just ended, and what comes next";
        LOGIN Get "/login" "→ where a client's token is asked for; `?to=` is the address to go on to";
        LOG_IN Post "/login" "a form with `token` and `to` → a cookie, and on to that address";
        LOG_OUT Post "/logout" "→ the session ends";
        QUEUE Get "/queue" "→ builds in the order in which they will go; `?system=`, `?tag=`, `?state=`, `?after=`";
        SEARCH Get "/search" "→ builds and derivations whose name contains `?q=`";
        BUILD Get "/builds/{build}" "→ a build";
        BUILD_LOG Get "/builds/{build}/log" "→ its log, in colours; `?attempt=`, and `?from=` for a part of a long one";
        BUILD_LOG_LIVE Get "/builds/{build}/log/live" "→ pieces of its log in HTML, a line each, as they come, from the byte `?from=` on";
        DERIVATION Get "/derivations/{item}" "→ a derivation, named by its base name";
        AGENT Get "/agents/{agent}" "→ an agent, named by its UUID or its name";
        SETS Get "/sets" "→ all sets";
        SET Get "/sets/{set}" "→ a set; it may be named with its revision, as `NAME@REVISION`";
        STORAGE Get "/storage" "→ how full the places for nars are, and when they will be";
        HOOKS Get "/hooks" "→ hooks, and what they could not do";
        ASSET Get "/assets/{file}" "→ styles, the script and the icon, by names that change with what is in them";
    });
}
/// All tables of routes.
pub const TABLES: &[&[Route]] = &[agents::ALL, clients::ALL, health::ALL, public::ALL, pages::ALL];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn variable_parts_are_filled_in_their_order() {
        assert_eq!(agents::UPLOAD.path(&[&7, &"abc-hello"]), "/v1/leases/7/outputs/abc-hello");
        assert_eq!(agents::HELLO.path(&[]), "/v1/hello");
        assert_eq!(agents::FILE.path(&[&"a?b=c", &"0"]), "/v1/file/a%3Fb=c/sha256/0");
    }

    #[test]
    fn no_route_is_there_twice() {
        for all in [agents::ALL, [clients::ALL, pages::ALL].concat().as_slice()] {
            let mut seen = HashSet::new();
            assert!(all.iter().all(|r| seen.insert((r.method, r.pattern))));
        }
    }
}
