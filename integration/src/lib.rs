//! What tests and benchmarks of Mesh share; nothing here is part of a product binary.
//!
//! - [`harness`] starts and stops real processes (controller, proxies, servers), writes their manifests and reads what
//!   they cost.
//! - [`origin`] is the test server behind the proxies (`mesh-origin`).
//! - [`load`] is the load generator in front of them (`mesh-load`).
//! - [`mod@bench`] measures a Mesh pair beside an Envoy pair and no proxy at all (`mesh-bench`, run by `cargo xtask bench`).

pub mod bench;
pub mod harness;
pub mod load;
pub mod origin;
