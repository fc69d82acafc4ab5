//! The flags that every command which talks to a cluster takes, with kubectl's names and meanings.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// Where the flags are listed in `--help`.
const HEADING: &str = "Cluster options";

/// Which cluster, which namespace, and how long to wait.
#[derive(Clone, Debug, Default, Args)]
pub struct Globals {
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
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, help_heading = HEADING)]
    pub wait: Option<Duration>,
    /// Say on standard error what is asked of the API server
    #[arg(long, short, global = true, help_heading = HEADING)]
    pub verbose: bool,
}

/// Longest wait that is accepted: beyond a day it is a mistake.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Reads `90s`, `5m`, `1h`, or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let help = || "write a whole number and s, m or h, as in 30s or 5m, or 0".to_owned();
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let seconds = match units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds))) {
        Some((number, seconds)) => number.parse::<u64>().ok().and_then(|n| n.checked_mul(*seconds)),
        None => (text == "0").then_some(0),
    };
    let wait = Duration::from_secs(seconds.ok_or_else(help)?);
    if wait <= MAX_WAIT { Ok(wait) } else { Err("the longest wait is 24h".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("90s", 90), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "5", "m", "-1s", "1.5m", "1d", "25h", "99999999999999999999h", "18446744073709551615h"] {
            duration(wrong).unwrap_err();
        }
    }
}
