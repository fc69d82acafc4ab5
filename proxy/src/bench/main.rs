//! `mesh-parts`: what `cargo xtask bench` measures of our HTTP/1 and TLS records, and of the libraries for them. Everything
//! is in the library.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    mesh_proxy::bench::main_from_args(env::args().skip(1))
}
