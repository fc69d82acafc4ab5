//! `cargo xtask cluster`: a Kubernetes to try Mesh on.
//!
//! Three kinds: a **node** of our own on this machine (as root on Linux, with no container engine), one made by
//! **kind**, and whatever an existing **context** names, which is used and never altered. docs/development/cluster.md
//! says how to work with it. Nothing here knows Mesh: it is installed with `meshctl`, as everybody does.

mod addons;
mod components;
mod described;
mod elsewhere;
mod files;
mod layout;
mod leftovers;
mod node;
pub mod processes;
mod programs;
mod status;
mod tools;
mod up;
mod wait;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};

pub use described::Described;
use layout::Layout;
pub use layout::{GATEWAY_API, KUBERNETES};

/// What to do with the cluster.
#[derive(Subcommand)]
pub enum Command {
    /// Bring a cluster up; one that is up stays as it is.
    Up(UpOptions),
    /// Take it down and leave nothing, but what was built for the next one (the user's cache).
    Down,
    /// What runs, with process, state and memory; fails unless all of it does.
    Status,
    /// Import images (archives of `docker save`, such as `cargo xtask images` writes).
    Load {
        /// Archives.
        #[arg(required = true, value_name = "IMAGES")]
        images: Vec<PathBuf>,
    },
    /// Stop a component, for a test of its outage: etcd, apiserver, controller-manager, scheduler, kubelet, proxy.
    Pause {
        /// Its name, with or without `kube-`.
        component: String,
    },
    /// Start a component that was paused, and wait for it.
    Resume {
        /// Its name, with or without `kube-`.
        component: String,
    },
}

/// Options of `up`.
#[derive(Args)]
pub struct UpOptions {
    /// Use kind, even as root.
    #[arg(long, conflicts_with = "context")]
    kind: bool,
    /// Use the cluster of this context in your kubeconfig as it is. Nothing of it is altered.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// IPv4 only; otherwise pods, nodes and Services have both families where the machine has IPv6.
    #[arg(long)]
    single_stack: bool,
    /// The Gateway API's resource definitions to install.
    #[arg(long, value_enum, default_value_t = GatewayApi::Standard)]
    gateway_api: GatewayApi,
}

/// A channel of the Gateway API.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GatewayApi {
    /// What is generally available.
    Standard,
    /// With what may still change.
    Experimental,
    /// None: for tests of a cluster that lacks it.
    None,
}

/// Builds Kubernetes and CoreDNS, if they are not in the cache yet.
pub fn build_programs() -> Result<()> {
    tools::build_programs(&Layout::new()?)
}

/// Runs the command.
pub fn run_cluster(command: &Command) -> Result<()> {
    let layout = Layout::new()?;
    // A command is for what is up, or, with nothing up, for what would be.
    let is_elsewhere = layout.is_up_elsewhere()?;
    match command {
        Command::Up(options) if elsewhere::is_wanted(&layout, options)? => elsewhere::up(&layout, options),
        Command::Up(options) => up::up(&layout, options),
        Command::Down if is_elsewhere => elsewhere::down(&layout),
        Command::Down => leftovers::down(&layout),
        Command::Status if is_elsewhere => elsewhere::status(&layout),
        Command::Status => status::status(&layout),
        Command::Load { images } => {
            for image in images {
                ensure!(image.is_file(), "there is no archive {}: `cargo xtask images` makes ours", image.display());
            }
            if is_elsewhere { elsewhere::load(&layout, images) } else { node::load(&layout, images) }
        }
        Command::Pause { .. } | Command::Resume { .. } if is_elsewhere => elsewhere::no_components(),
        Command::Pause { component } => status::pause(&layout, component),
        Command::Resume { component } => status::resume(&layout, component),
    }
}
