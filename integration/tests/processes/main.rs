//! Tests of real processes on loopback: controller, sidecars and test servers, raw clients, paced loads.
//!
//! One program rather than one a file: it is linked once, and tests that only wait do so side by side (`support/turn.rs`).
//! `cargo test -p mesh-integration --test processes retries::` runs one file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod h2_frames;

mod access_log;
mod as_without;
mod authorization;
mod balance;
mod bulk;
mod certificates;
mod connection_routes;
mod deadlines;
mod detection;
mod drain;
mod failover;
mod filters;
mod floods;
mod framings;
mod h2spec;
mod hostile;
mod hostile_http2;
mod http;
mod http_endings;
mod http_upgrades;
mod identity;
mod isolation;
mod large_routes;
mod many_routes;
mod mirror;
mod outage;
mod ownership;
mod responses;
mod retries;
mod routing;
mod sessions;
mod specification;
mod specification_judge;
mod tap;
mod tcp;
mod telemetry;
