//! Real processes for tests and benchmarks: start, wait until ready, read their cost, stop.
//!
//! A [`Sandbox`] is the folder that one test owns: manifests, state, logs. [`Controller`] and [`Proxy`] run the built
//! binaries with the environment and flags that a user would give them. Every process dies with its handle. Nothing
//! here decides whether a test passes.

mod any_server;
mod manifests;
mod metrics;
mod ports;
mod process;
mod sidecar;
mod usage;
mod wait;

pub use any_server::AnyServer;
pub use manifests::{Manifests, Meshed, PortSpec};
pub use metrics::series;
pub use ports::{free_port, free_ports};
pub use process::{Process, binary};
pub use sidecar::{Addresses, Controller, Origin, Proxy, ProxyConfig, Sandbox};
pub use usage::{Usage, raise_file_limit, usage};
pub use wait::{Answer, eventually, http_get, ready};
