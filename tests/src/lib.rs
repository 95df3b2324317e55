//! End-to-end tests, test grounds, the demonstration graph and the benches of drover.
