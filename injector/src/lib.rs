//! The injector: what is added to a pod so that it is part of the mesh, and the webhook that adds it.
//!
//! The core is pure and dynamic (JSON in, JSON patch out), so that no field of a newer Kubernetes is ever lost. Reading
//! order: [`config`] and [`annotations`] (what is asked for), [`patch`] (the decision and the patch, with [`skip`],
//! [`refusal`], the rewritten probes and the rendered containers), [`manifest`] (the same for files). Around it the webhook: [`app`] (start and
//! end), [`server`], [`webhook`], [`admission`], [`events`].

pub mod admission;
pub mod annotations;
pub mod app;
pub mod config;
pub mod config_file;
mod containers;
pub mod events;
pub mod manifest;
pub mod metrics;
pub mod misplaced;
mod other_mesh;
pub mod patch;
pub mod pod;
pub mod ports;
mod pre_stop;
mod probes;
pub mod quantity;
pub mod refusal;
mod scrape;
pub mod secret;
pub mod server;
pub mod skip;
pub mod webhook;

pub use app::{RunArgs, run};

/// The version that injected pods are marked with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
