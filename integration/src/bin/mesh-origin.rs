//! The test server of Mesh; see [`mesh_integration::origin`].

use clap::Parser;
use mesh_integration::origin::{Options, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    serve(Options::parse()).await
}
