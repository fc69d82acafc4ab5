//! Makes the Rust of `proto/mesh/v1/control.proto`. `protox` reads the file, so no `protoc` need be installed.

use std::error::Error;

const FILES: [&str; 1] = ["mesh/v1/control.proto"];
const INCLUDE: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    tonic_prost_build::compile_fds(protox::compile(FILES, [INCLUDE])?)?;
    Ok(())
}
