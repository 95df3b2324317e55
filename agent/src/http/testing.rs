//! A tiny HTTP server for tests.
