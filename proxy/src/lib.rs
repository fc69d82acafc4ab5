//! The sidecar of Mesh: every connection of one pod goes through it, both ways.
//!
//! # The way of a request, top to bottom, each file once
//! [`listen`] (accept, original destination, limits, drain) -> [`outbound`] | [`inbound`] (a connection's life) ->
//! [`detect`] (TLS, HTTP/1, HTTP/2, bytes; `undecided` while it does not tell) -> [`http::server`] -> [`http::exchange`] |
//! [`http::inbound`] (facts, decision, filters, attempts, record) -> [`balance`] (pick an endpoint) -> [`tls`] -> [`connect`]
//! (the only place that opens upstream sockets) -> [`tls_stream`]. Bytes: outbound -> `opaque` -> balance -> tls -> connect ->
//! [`tcp`].
//!
//! Beside it: [`control`] keeps snapshots of what the controller says, [`worker`] holds what the connections of a thread
//! share, [`app`] starts and ends it all. `init` redirects a pod's connections here, `gate` waits until it is ready.
//!
//! It never sees Kubernetes: `kube` and `k8s-openapi` are not among its dependencies.

pub mod admin;
pub mod app;
pub mod balance;
pub mod capability;
mod coalesce;
pub mod config;
pub mod connect;
pub mod connections;
pub mod control;
pub mod detect;
pub mod dump;
pub mod error;
mod expiry;
mod first_line;
mod gate;
mod handover;
pub mod http;
pub mod inbound;
mod init;
pub mod io;
pub mod listen;
mod metered;
pub mod metrics;
mod opaque;
pub mod outbound;
pub mod random;
mod record;
mod remembered;
pub mod sni;
mod target;
pub mod tcp;
pub mod tls;
pub mod tls_stream;
mod transport;
mod undecided;
mod unfinished;
pub mod worker;

pub use app::{main_from_args, main_from_env};
