//! Who takes part in the demo, and at which addresses. Everything else (manifests, processes, report) follows from it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use mesh_policy::well_known::{
    ADMIN_PORT, DESTINATION_PORT, IDENTITY_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, PAGES_PORT,
};

use super::{
    namespaces::{self, NODE, Namespace},
    ports::Ports,
};

/// Namespace of everything in the demo.
pub(crate) const NAMESPACE: &str = "demo";
/// The Service that the client calls.
pub(super) const SERVICE: &str = "web";
/// Port of the Services.
pub(super) const SERVICE_PORT: u16 = 80;
/// The versions of the service, in the order shown.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v2"];
/// Replicas of each version.
const REPLICAS: usize = 2;
/// Name and service account of the client's pod.
pub(super) const CLIENT: &str = "client";

/// Addresses of the Services `web`, `web-v1` and `web-v2` where pods are redirected.
pub(super) const CLUSTER_IPS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11), Ipv4Addr::new(10, 96, 0, 12)];
/// Where the application of a redirected pod listens.
const APP_PORT: u16 = 8080;

/// A pod's sidecar: the listeners that it has besides those for application ports.
#[derive(Clone, Debug)]
pub(super) struct Sidecar {
    /// `MESH_OUTBOUND_LISTEN`.
    pub outbound: SocketAddr,
    /// `MESH_INBOUND_LISTEN`.
    pub inbound: SocketAddr,
    /// `MESH_ADMIN_LISTEN`.
    pub admin: SocketAddr,
    /// `MESH_METRICS_LISTEN`.
    pub metrics: SocketAddr,
    /// Its pod's network, if that is redirected to it.
    pub namespace: Option<Arc<Namespace>>,
}

/// One pod of the service: an application and its sidecar.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    /// `v1` or `v2`.
    pub version: &'static str,
    /// The pod's name.
    pub pod: String,
    /// Where the application listens.
    pub app: SocketAddr,
    /// Where the sidecar listens for the application; what the EndpointSlice says.
    pub listen: SocketAddr,
    /// The sidecar's own listeners.
    pub sidecar: Sidecar,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    /// Identity service of the controller.
    pub identity: SocketAddr,
    /// Policy and destination services of the controller.
    pub destination: SocketAddr,
    /// Readiness, metrics and problems of the controller.
    pub controller: SocketAddr,
    /// The client's sidecar; the client itself is this process.
    pub client: Sidecar,
    /// The pods of the service, by version.
    pub replicas: Vec<Replica>,
    /// Whether pods have networks of their own, redirected to their sidecars.
    pub transparent: bool,
}

impl Topology {
    /// Gives everyone free ports.
    pub(super) fn plan(ports: &mut Ports) -> anyhow::Result<Self> {
        let mut replicas = Vec::with_capacity(VERSIONS.len() * REPLICAS);
        for version in VERSIONS {
            for index in 0..REPLICAS {
                replicas.push(Replica {
                    version,
                    pod: format!("{SERVICE}-{version}-{index}"),
                    app: ports.free()?,
                    listen: ports.free()?,
                    sidecar: Sidecar::plan(ports)?,
                });
            }
        }
        Ok(Self {
            identity: ports.free()?,
            destination: ports.free()?,
            controller: ports.free()?,
            client: Sidecar::plan(ports)?,
            replicas,
            transparent: false,
        })
    }

    /// Makes a network for every pod. From then on this thread is on their node.
    pub(super) fn transparent() -> anyhow::Result<Self> {
        let mut networks = namespaces::make(VERSIONS.len() * REPLICAS + 1)?.into_iter().enumerate();
        let mut pod = || {
            let (index, namespace) = networks.next().ok_or_else(|| anyhow::anyhow!("a pod has no network"))?;
            let ip = namespaces::address(index);
            anyhow::Ok((SocketAddr::from((ip, APP_PORT)), Sidecar::redirected(ip, namespace)))
        };
        let (_, client) = pod()?;
        let mut replicas = Vec::with_capacity(VERSIONS.len() * REPLICAS);
        for version in VERSIONS {
            for index in 0..REPLICAS {
                let (app, sidecar) = pod()?;
                replicas.push(Replica {
                    version,
                    pod: format!("{SERVICE}-{version}-{index}"),
                    app,
                    listen: app,
                    sidecar,
                });
            }
        }
        let node = |port| SocketAddr::from((NODE, port));
        Ok(Self {
            identity: node(IDENTITY_PORT),
            destination: node(DESTINATION_PORT),
            controller: node(PAGES_PORT),
            client,
            replicas,
            transparent: true,
        })
    }

    /// Pods with a sidecar and the sidecar, the client last.
    pub(super) fn sidecars(&self) -> impl Iterator<Item = (&str, &Sidecar)> {
        self.replicas.iter().map(|r| (r.pod.as_str(), &r.sidecar)).chain([(CLIENT, &self.client)])
    }
}

impl Sidecar {
    fn plan(ports: &mut Ports) -> anyhow::Result<Self> {
        let (outbound, inbound) = (ports.free()?, ports.free()?);
        Ok(Self { outbound, inbound, admin: ports.free()?, metrics: ports.free()?, namespace: None })
    }

    /// At the ports that a sidecar has in a cluster.
    fn redirected(pod: Ipv4Addr, namespace: Arc<Namespace>) -> Self {
        Self {
            outbound: (Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(),
            inbound: (Ipv4Addr::UNSPECIFIED, INBOUND_PORT).into(),
            admin: (Ipv4Addr::LOCALHOST, ADMIN_PORT).into(),
            metrics: (pod, METRICS_PORT).into(),
            namespace: Some(namespace),
        }
    }

    /// The pod's address.
    pub(super) fn pod_ip(&self) -> IpAddr {
        self.metrics.ip()
    }
}

impl Replica {
    /// Name of its Service, and of its service account.
    pub(super) fn service(&self) -> String {
        format!("{SERVICE}-{}", self.version)
    }
}
