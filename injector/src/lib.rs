//! The injector: what is added to a pod so that it is part of the mesh, and the webhook that adds it.
//!
//! The core is pure and dynamic (JSON in, JSON patch out), so that no field of a newer Kubernetes is ever lost. Reading
//! order: [`config`] and [`annotations`] (what is asked for), [`patch`] (the decision and the patch, with [`skip`],
//! [`refusal`] and the rendered containers), [`manifest`] (the same for files).

pub mod annotations;
pub mod config;
mod containers;
pub mod manifest;
pub mod patch;
pub mod pod;
pub mod ports;
mod pre_stop;
pub mod quantity;
pub mod refusal;
pub mod skip;

/// The version that injected pods are marked with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
