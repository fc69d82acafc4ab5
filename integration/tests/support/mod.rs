//! What the loopback tests share: a small mesh of real processes, raw clients, and a paced load.
//!
//! Each test owns its processes, ports and folder. Those that measure run one after another (`turn.rs` says which do not);
//! nothing here decides whether a test passes.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // each file uses a part

mod app;
mod h1;
mod h2client;
mod load;
mod mesh;
mod scripted;
mod turn;

pub use app::{App, TEST_WAIT, relay};
pub use h1::{Answer, H1, Head, get, sha256};
pub use h2client::{Grpc, finish, grpc_message, grpc_status, next};
pub use load::{Load, Shot, ShotOutcome, share};
pub use mesh::{Client, Mesh, Server, metric, metrics, until_answered, until_routed};
pub use scripted::{Does, Received, Scripted};

/// Whether the run may take long: `MESH_TEST_LONG=1`, which `cargo xtask test --long` sets.
pub fn is_long() -> bool {
    std::env::var_os("MESH_TEST_LONG").is_some_and(|value| value == "1")
}
