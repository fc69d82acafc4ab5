//! The load generator of Mesh; see [`mesh_integration::load`].

use clap::Parser;
use mesh_integration::load::{Options, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&run(Options::parse()).await?)?);
    Ok(())
}
