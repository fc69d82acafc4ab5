//! The mesh on a real Kubernetes, as its users see it: real kubelet, real webhook, real redirection.
//!
//! `cargo xtask test` boots the cluster, loads the images, installs Mesh with the README's own commands
//! (`quickstart`), and then runs these. They need the feature `cluster`, so that nothing else runs them by mistake.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod apps;
mod kube;

mod authorization;
mod commands;
mod ha;
mod measures;
mod odd_traffic;
mod operator;
mod outage;
mod probes;
mod rollout;
mod seed;
mod startup;
mod status;
mod tap;
mod tenant;
