//! What talks to an API server of Kubernetes.

pub mod lease;
pub mod named;
mod review_limit;
pub mod token_review;
