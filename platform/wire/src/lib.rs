//! What agents, clients and coordinator say to each other: types, routes, version.
