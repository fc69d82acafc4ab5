//! What talks to an API server of Kubernetes.

mod kinds;
mod lean;
pub mod lease;
mod list_watch;
pub mod named;
mod review_limit;
pub mod token_review;
pub mod world;
