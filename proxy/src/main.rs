//! `mesh-proxy`: the sidecar as a program of its own. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_proxy::main_from_args(std::env::args_os().skip(1))
}
