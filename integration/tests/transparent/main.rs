//! Redirection by real processes in network namespaces: what is taken, what is left alone, what closed ports say.
//!
//! Needs root and iproute2; without them each test says aloud that it is skipped, and fails if `CI=true`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod init;
mod mesh;
mod net;
mod odd;
mod ownership;
mod traffic;
