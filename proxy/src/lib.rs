//! The sidecar of Mesh: every connection of one pod goes through it, both ways.
//!
//! # The way of a request, top to bottom, each file once
//! [`listen`] (accept, original destination, limits, drain) -> [`outbound`] | [`inbound`] (a connection's life) ->
//! [`detect`] (TLS, HTTP/1, HTTP/2, bytes; `undecided` while it does not tell) -> [`http::server`] -> [`http::outbound`] |
//! [`http::inbound`] (facts, decision, plan, attempts, record) -> [`balance`] (pick an endpoint) -> [`tls`] -> [`connect`]
//! (the only place that opens upstream sockets) -> [`tls_stream`]. Bytes: outbound -> `outbound::opaque` -> balance -> tls -> connect ->
//! [`tcp`].
//!
//! Beside it: `authorization` carries out who may call this pod, [`control`] keeps snapshots of what the controller says, [`worker`] holds what the connections of a thread
//! share, [`app`] starts and ends it all. `init` redirects a pod's connections here, `gate` waits until it is ready.
//! `probe` answers kubelet for the application. `record` is what is known of a request, and `access_log` writes it down.
//!
//! It never sees Kubernetes: `kube` and `k8s-openapi` are not among its dependencies.

#![warn(unreachable_pub)]

mod access_log;
mod admin;
mod app;
mod attempts;
mod authorization;
mod balance;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod capability;
mod config;
mod config_dump;
mod connect;
mod connections;
mod control;
mod detect;
#[cfg(test)]
mod docs;
mod error;
mod expiry;
mod finished;
mod first_line;
mod gate;
mod hairpin;
mod http;
mod inbound;
mod init;
mod io;
mod listen;
mod metered;
mod metrics;
mod outbound;
mod probe;
mod random;
mod record;
mod remembered;
mod sni;
mod tap;
mod target;
mod tcp;
mod tls;
mod tls_stream;
mod transport;
mod undecided;
mod unfinished;
mod worker;
mod write_buffer;

/// Why every proxy refuses a request of such a method and target: the reason's name, and what to do about it. What is asked of
/// `meshctl explain` is judged as a request is.
pub fn refusal(method: &::http::Method, uri: &::http::Uri) -> Option<(&'static str, &'static str)> {
    http::refusal(method, uri)
}

pub use app::{main_from_args, main_from_env};
