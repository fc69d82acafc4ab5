//! What talks to an API server of Kubernetes.

pub mod lease;
