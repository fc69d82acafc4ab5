//! The command line of `mesh-controller`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The control plane of Mesh, from a folder of manifests.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "mesh-controller", version)]
pub struct Args {
    /// Folder of Kubernetes manifests (*.yaml, *.yml, *.json; sub-folders too). It is watched.
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Folder for the certificate authority, the trust bundle and the tokens of workloads. Made with mode 0700.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where certificates are issued (gRPC service Identity).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4650")]
    pub identity_listen: SocketAddr,
    /// Where policies and endpoints are served (gRPC services Policy and Destination).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4651")]
    pub destination_listen: SocketAddr,
    /// Where /live, /ready, /metrics and /problems are served (HTTP).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4652")]
    pub metrics_listen: SocketAddr,
    /// The trust domain of every identity.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// How long an issued certificate lasts, as in 24h, 30m or 10s.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub leaf_lifetime: Duration,
    /// How long a workload's token lasts; it is written anew after half of it.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub token_lifetime: Duration,
    /// What to log: error, warn, info, debug, trace, or a filter as in info,mesh_controller::folder=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MESH_LOG")]
    pub log: String,
}

/// Shortest and longest lifetime accepted: a certificate must outlive the making of the next, and the root.
const LIFETIME_SECONDS: std::ops::RangeInclusive<u64> = 2..=365 * 24 * 3600;

fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = [("h", 3600), ("m", 60), ("s", 1)];
    let seconds = unit
        .iter()
        .find_map(|(suffix, seconds)| text.strip_suffix(suffix).map(|number| (number, seconds)))
        .and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(*seconds))
        .ok_or("write a whole number and h, m or s, as in 24h")?;
    if LIFETIME_SECONDS.contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err("a lifetime is from 2s to 8760h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "h", "10", "-1s", "1.5h", "1s", "9000h", "99999999999999999999h", "18446744073709551615h"] {
            parse_duration(wrong).unwrap_err();
        }
    }
}
