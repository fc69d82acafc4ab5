//! The injector: what is added to a pod so that it is part of the mesh, and the webhook that adds it.
//!
//! The core is pure and dynamic (JSON in, JSON patch out), so that no field of a newer Kubernetes is ever lost.

pub mod annotations;
pub mod config;
pub mod ports;
pub mod quantity;

/// The version that injected pods are marked with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
