//! Who takes part in the demo, and at which addresses. Everything else (manifests, processes, report) follows from it.

use std::net::SocketAddr;

use super::ports::Ports;

/// Namespace of everything in the demo.
pub const NAMESPACE: &str = "demo";
/// The Service that the client calls.
pub const SERVICE: &str = "web";
/// Port of the Services.
pub const SERVICE_PORT: u16 = 80;
/// The versions of the service, in the order shown.
pub const VERSIONS: [&str; 2] = ["v1", "v2"];
/// Replicas of each version.
pub const REPLICAS: usize = 2;
/// Name and service account of the client's pod.
pub const CLIENT: &str = "client";

/// A pod's sidecar: the listeners that it has besides those for application ports.
#[derive(Clone, Copy, Debug)]
pub struct Sidecar {
    /// `MESH_OUTBOUND_LISTEN`.
    pub outbound: SocketAddr,
    /// `MESH_INBOUND_LISTEN`.
    pub inbound: SocketAddr,
    /// `MESH_ADMIN_LISTEN`.
    pub admin: SocketAddr,
    /// `MESH_METRICS_LISTEN`.
    pub metrics: SocketAddr,
}

/// One pod of the service: an application and its sidecar.
#[derive(Clone, Debug)]
pub struct Replica {
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
pub struct Topology {
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
}

impl Topology {
    /// Gives everyone free ports.
    pub fn plan(ports: &mut Ports) -> anyhow::Result<Self> {
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
        })
    }

    /// Pods with a sidecar and the sidecar, the client last.
    pub fn sidecars(&self) -> impl Iterator<Item = (&str, &Sidecar)> {
        self.replicas.iter().map(|r| (r.pod.as_str(), &r.sidecar)).chain([(CLIENT, &self.client)])
    }
}

impl Sidecar {
    fn plan(ports: &mut Ports) -> anyhow::Result<Self> {
        Ok(Self { outbound: ports.free()?, inbound: ports.free()?, admin: ports.free()?, metrics: ports.free()? })
    }
}

impl Replica {
    /// Name of its Service, and of its service account.
    pub fn service(&self) -> String {
        format!("{SERVICE}-{}", self.version)
    }
}
