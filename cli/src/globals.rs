//! The flags that every command which talks to a cluster takes, with kubectl's names and meanings.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::clock;

/// Where the flags are listed in `--help`.
const HEADING: &str = "Cluster options";

/// Which cluster, which namespace, and how long to wait.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Globals {
    /// The context of the kubeconfig to use; its current one if not given
    #[arg(long, global = true, value_name = "NAME", help_heading = HEADING)]
    pub context: Option<String>,
    /// The namespace; that of the context if not given
    #[arg(long, short, global = true, value_name = "NAME", help_heading = HEADING)]
    pub namespace: Option<String>,
    /// The kubeconfig file; $KUBECONFIG or ~/.kube/config if not given
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    pub kubeconfig: Option<PathBuf>,
    /// How long to wait for what is still coming up, as in 30s, 5m or 0
    #[arg(long, global = true, value_name = "DURATION", value_parser = wait, help_heading = HEADING)]
    pub wait: Option<Duration>,
    /// Say on standard error what is asked of the API server
    #[arg(long, short, global = true, help_heading = HEADING)]
    pub verbose: bool,
}

/// Longest wait that is accepted: beyond a day it is a mistake.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

fn wait(text: &str) -> Result<Duration, String> {
    clock::duration(text, MAX_WAIT)
}
