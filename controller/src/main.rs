//! The controller as a program; everything is in the library, so that `meshctl` can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_controller::main_from_args(std::env::args_os())
}
