//! The command line of `mesh-controller`: one subcommand a role, one struct a role's flags.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use mesh_policy::{
    duration,
    well_known::{
        CONTROL_NAMESPACE, DESTINATION_PORT, IDENTITY_ADDRESS, IDENTITY_PORT, ISSUER_SECRET, MESH_INJECTOR, PAGES_PORT,
        WEBHOOK_PORT,
    },
};
use mesh_resources::IpNet;

/// The control plane of Mesh. One role a process: on Kubernetes `identity`, `destination` and `injector`; without it
/// `folder` is all of them (but the injector) at once, and what runs without a subcommand.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "mesh-controller", version)]
pub struct Args {
    /// What this process is.
    #[command(subcommand)]
    pub role: Role,
}

/// What a process is.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Role {
    /// Everything, from a folder of manifests, without Kubernetes
    Folder(FolderArgs),
    /// Certificates for workloads and the trust bundle
    Identity(IdentityArgs),
    /// Policies and endpoints for proxies
    Destination(DestinationArgs),
    /// The mutating webhook
    Injector(InjectorArgs),
}

impl Role {
    /// What to log.
    pub fn log(&self) -> &str {
        match self {
            Self::Folder(args) => &args.log,
            Self::Identity(args) => &args.common.log,
            Self::Destination(args) => &args.common.log,
            Self::Injector(args) => &args.common.log,
        }
    }
}

impl Args {
    /// Reads a command line whose first word is the program's name. Flags without a subcommand are those of `folder`.
    pub fn from_command_line(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<_> = args.into_iter().collect();
        let asks_for_help = |word: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|flag| word == flag);
        let begins_with_flag = args.get(1).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
        if begins_with_flag && !args.get(1).is_some_and(asks_for_help) {
            args.insert(1, "folder".into());
        }
        Self::try_parse_from(args)
    }
}

/// Flags of `folder`.
#[derive(Clone, Debug, clap::Args)]
pub struct FolderArgs {
    /// Folder of Kubernetes manifests (*.yaml, *.yml, *.json; sub-folders too). It is watched.
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Folder for the certificate authority, the trust bundle and the tokens of workloads. Made with mode 0700.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where certificates are issued (gRPC service Identity).
    #[arg(long, value_name = "ADDR", default_value_t = loopback(IDENTITY_PORT))]
    pub identity_listen: SocketAddr,
    /// Where policies and endpoints are served (gRPC services Policy and Destination).
    #[arg(long, value_name = "ADDR", default_value_t = loopback(DESTINATION_PORT))]
    pub destination_listen: SocketAddr,
    /// Where /live, /ready, /metrics and /problems are served (HTTP).
    #[arg(long, value_name = "ADDR", default_value_t = loopback(PAGES_PORT))]
    pub metrics_listen: SocketAddr,
    /// The trust domain of every identity.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Networks of pods and Services beside the podCIDRs of Nodes, as in 10.244.0.0/16,fd00:10:244::/56: an address in
    /// them that nobody is known to have is never taken for one outside of the mesh.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub cluster_networks: Vec<IpNet>,
    /// How long an issued certificate lasts, as in 24h, 30m or 10s.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub leaf_lifetime: Duration,
    /// How long a workload's token lasts; it is written anew after half of it.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    pub token_lifetime: Duration,
    /// What to log: error, warn, info, debug, trace, or a filter as in info,mesh_controller::source=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MESH_LOG")]
    pub log: String,
}

/// Flags of every role on Kubernetes. The API server is found as kubectl finds it: KUBECONFIG or ~/.kube/config where
/// there is one, else the ServiceAccount of the pod.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CommonArgs {
    /// Namespace of the control plane.
    #[arg(long, value_name = "NAME", default_value = CONTROL_NAMESPACE)]
    pub(crate) namespace: String,
    /// Where /live, /ready, /metrics and /problems are served (HTTP). 0.0.0.0 is every address of both families.
    #[arg(long, value_name = "ADDR", default_value_t = everywhere(PAGES_PORT))]
    pub(crate) metrics_listen: SocketAddr,
    /// The trust domain of every identity.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) trust_domain: String,
    /// What to log: error, warn, info, debug, trace, or a filter as in info,mesh_controller::source=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MESH_LOG")]
    pub(crate) log: String,
}

/// Flags of roles that have their own certificate from identity.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdentityClientArgs {
    /// Where mesh-identity serves, host:port.
    #[arg(long, value_name = "HOST:PORT", default_value = IDENTITY_ADDRESS)]
    pub(crate) identity_addr: String,
    /// File of the ServiceAccount token for the audience identity.meshctl.dev. Read anew for each certificate.
    #[arg(long, value_name = "FILE", default_value = "/var/run/mesh/token")]
    pub(crate) token_file: PathBuf,
    /// File of the trust bundle (PEM) that is trusted until identity streams one. Read again when it changes.
    #[arg(long, value_name = "FILE", default_value = "/var/run/mesh/ca-bundle.pem")]
    pub(crate) trust_bundle_file: PathBuf,
}

/// Flags of `identity`.
#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// What all roles have.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Where certificates are issued (gRPC service Identity). 0.0.0.0 is every address of both families.
    #[arg(long, value_name = "ADDR", default_value_t = everywhere(IDENTITY_PORT))]
    pub(crate) listen: SocketAddr,
    /// The Secret (kubernetes.io/tls, with ca.crt) that holds the issuer's certificate and key.
    #[arg(long, value_name = "NAME", default_value = ISSUER_SECRET)]
    pub(crate) issuer_secret: String,
    /// A ConfigMap with trust anchors (ca-bundle.pem) beside those in ca.crt of the Secret. It is waited for.
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_anchors_config_map: Option<String>,
    /// How long an issued certificate lasts, as in 24h, 30m or 10s.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub(crate) leaf_lifetime: Duration,
    /// Someone else, such as cert-manager, keeps the Secret.
    #[arg(long)]
    pub(crate) external_issuer: bool,
    /// The MutatingWebhookConfiguration whose caBundle is kept current.
    #[arg(long, value_name = "NAME", default_value = MESH_INJECTOR)]
    pub(crate) webhook: String,
}

/// Flags of `destination`.
#[derive(Clone, Debug, clap::Args)]
pub struct DestinationArgs {
    /// What all roles have.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Whom to ask for the certificate.
    #[command(flatten)]
    pub(crate) identity: IdentityClientArgs,
    /// Where policies and endpoints are served (gRPC services Policy and Destination). 0.0.0.0 is every address of both
    /// families.
    #[arg(long, value_name = "ADDR", default_value_t = everywhere(DESTINATION_PORT))]
    pub(crate) listen: SocketAddr,
    /// The domain of the cluster's DNS names.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Networks of pods and Services beside the podCIDRs of Nodes, as in 10.244.0.0/16,10.96.0.0/12: an address in them that
    /// nobody is known to have is never taken for one outside of the mesh.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) cluster_networks: Vec<IpNet>,
}

/// Flags of `injector`.
#[derive(Clone, Debug, clap::Args)]
pub struct InjectorArgs {
    /// What all roles have.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Whom to ask for the certificate.
    #[command(flatten)]
    pub(crate) identity: IdentityClientArgs,
    /// Where the webhook is served (HTTPS). 0.0.0.0 is every address of both families.
    #[arg(long, value_name = "ADDR", default_value_t = everywhere(WEBHOOK_PORT))]
    pub(crate) listen: SocketAddr,
    /// File of the injector's configuration (YAML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn everywhere(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// Shortest and longest lifetime accepted: a certificate must outlive the making of the next, and the root.
const LIFETIME: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(365 * 24 * 3600);

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration::read(text).ok_or("write a number and h, m or s, as in 24h")?;
    if LIFETIME.contains(&lifetime) { Ok(lifetime) } else { Err("a lifetime is from 2s to 8760h".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "h", "10", "-1s", "1.5", "1s", "9000h", "99999999999999999999h", "18446744073709551615h"] {
            lifetime(wrong).unwrap_err();
        }
    }

    #[test]
    fn each_role_and_the_folder_without_a_word() {
        let role = |line: &str| {
            let words = ["mesh-controller"].into_iter().chain(line.split_whitespace()).map(OsString::from);
            Args::from_command_line(words).map(|args| args.role)
        };
        assert!(matches!(role("--manifests a --state b").unwrap(), Role::Folder(_)));
        assert!(matches!(role("folder --manifests a --state b --log debug").unwrap(), Role::Folder(_)));
        assert!(matches!(role("identity --external-issuer").unwrap(), Role::Identity(a) if a.external_issuer));
        assert!(matches!(role("destination --log warn").unwrap(), Role::Destination(a) if a.listen.port() == 4651));
        assert!(matches!(role("injector --config c.yaml").unwrap(), Role::Injector(_)));
        for wrong in ["", "nonsense", "--manifests a", "injector", "identity --manifests a"] {
            role(wrong).unwrap_err();
        }
        assert_eq!(role("--version").unwrap_err().kind(), clap::error::ErrorKind::DisplayVersion);
    }
}
