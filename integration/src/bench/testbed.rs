//! Everything that runs while it is measured: the servers, the controller, and a pair of either kind.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use super::{envoy, mesh};
use crate::harness::{Controller, Origin, Process, Sandbox, Usage, free_ports, usage};

/// Who carries the requests.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Two `mesh-proxy`.
    Mesh,
    /// Two Envoys.
    Envoy,
    /// Nobody: the client speaks with the server.
    Direct,
    /// Two `mesh-proxy` of another build, with its controller.
    Before,
    /// The library that does what is our own in the proxy, where it is measured without the rest.
    Library,
}

impl Party {
    /// The kind of pair; `None` for those that are none.
    pub(super) fn kind(self) -> Option<PairKind> {
        match self {
            Self::Mesh => Some(PairKind::Mesh),
            Self::Before => Some(PairKind::Before),
            Self::Envoy => Some(PairKind::Envoy),
            Self::Direct | Self::Library => None,
        }
    }

    /// The key of its figures in JSON.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Envoy => "envoy",
            Self::Direct => "direct",
            Self::Before => "before",
            Self::Library => "library",
        }
    }
}

/// The kinds of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairKind {
    /// Two `mesh-proxy` and their controller.
    Mesh,
    /// The same of another build.
    Before,
    /// Two Envoys.
    Envoy,
}

/// A port for each kind of traffic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) http: u16,
    pub(super) grpc: u16,
    pub(super) sink: u16,
    pub(super) echo: u16,
    /// HTTP by a Service with a hundred rules (Mesh); otherwise the same as `http`.
    pub(super) rules: u16,
}

impl Ports {
    pub(super) fn free() -> Self {
        let [http, grpc, sink, echo, rules] = free_ports();
        Self { http, grpc, sink, echo, rules }
    }
}

/// The servers behind all parties.
pub(super) struct Servers {
    pub(super) http: Origin,
    pub(super) sink: Origin,
    pub(super) echo: Origin,
}

/// Two proxies and where clients reach the first.
pub(super) struct Pair {
    pub(super) outbound: Process,
    pub(super) inbound: Process,
    /// Where the inbound side tells its metrics.
    pub(super) inbound_admin: SocketAddr,
    pub(super) ports: Ports,
}

/// The readings of both proxies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PairUsage {
    pub(super) outbound: Usage,
    pub(super) inbound: Usage,
}

impl Pair {
    pub(super) fn usage(&self) -> Result<PairUsage> {
        Ok(PairUsage { outbound: usage(self.outbound.pid())?, inbound: usage(self.inbound.pid())? })
    }
}

/// A build of Mesh, whose controller starts when first needed, so that Envoy can be measured alone.
struct Build {
    sandbox: Sandbox,
    /// Where the inbound `mesh-proxy` listens: the manifests name these ports, so one pair runs at a time.
    between: Ports,
    controller: OnceCell<Controller>,
    /// Whether authorization policies are about its server.
    has_policies: bool,
}

impl Build {
    fn new(sandbox: Sandbox, has_policies: bool) -> Self {
        Self { sandbox, between: Ports::free(), controller: OnceCell::new(), has_policies }
    }

    async fn pair(&self, servers: &Servers) -> Result<Pair> {
        let Self { sandbox, between, controller, has_policies } = self;
        let governed = has_policies.then(|| servers.http.address.port());
        let controller = controller.get_or_try_init(|| mesh::controller(sandbox, between, governed)).await?;
        mesh::start(sandbox, controller, between, servers).await
    }
}

/// What stays for all rounds.
pub(super) struct Testbed {
    mesh: Build,
    before: Option<Build>,
    /// The binary and its version.
    envoy: Option<(PathBuf, String)>,
    servers: Servers,
}

impl Testbed {
    /// Starts the servers. `before` is the folder of another build; `policies`: policies are about the server of this one.
    pub(super) async fn start(envoy: Option<&Path>, before: Option<&Path>, policies: bool) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let servers = Servers {
            http: Origin::start(&sandbox, "origin", ["--name", "bench"]).await?,
            sink: Origin::start(&sandbox, "sink", ["--tcp-sink"]).await?,
            echo: Origin::start(&sandbox, "echo", ["--tcp-echo"]).await?,
        };
        Ok(Self {
            mesh: Build::new(sandbox, policies),
            before: before
                .map(|folder| Sandbox::with_binaries(folder).map(|sandbox| Build::new(sandbox, false)))
                .transpose()?,
            envoy: envoy.map(|envoy| anyhow::Ok((envoy.to_owned(), envoy::version(envoy)?))).transpose()?,
            servers,
        })
    }

    /// Starts a fresh pair, gives it to `measure` and stops it: only one pair is ever there, and none is warmer than
    /// the other.
    pub(super) async fn with_pair<T>(
        &self,
        kind: PairKind,
        measure: impl AsyncFnOnce(&mut Pair) -> Result<T>,
    ) -> Result<T> {
        let mut pair = match kind {
            PairKind::Mesh => self.mesh.pair(&self.servers).await?,
            PairKind::Before => self.before.as_ref().context("no build to compare with")?.pair(&self.servers).await?,
            PairKind::Envoy => {
                let (envoy, _) = self.envoy.as_ref().context("no Envoy to compare with")?;
                envoy::start(&self.mesh.sandbox, envoy, &self.servers).await?
            }
        };
        let measured = measure(&mut pair).await;
        pair.outbound.must_run()?;
        pair.inbound.must_run()?;
        let measured = measured?;
        match kind {
            PairKind::Mesh | PairKind::Before => mesh::check_handshakes(&pair).await?,
            PairKind::Envoy => envoy::check_handshakes(&pair).await?,
        }
        Ok(measured)
    }

    /// Where a client reaches the server without a proxy.
    pub(super) fn direct(&self) -> Ports {
        let Servers { http, sink, echo } = &self.servers;
        let port = |origin: &Origin| origin.address.port();
        Ports { http: port(http), grpc: port(http), sink: port(sink), echo: port(echo), rules: port(http) }
    }

    /// The machine and the versions, in one line without names or dates.
    pub(super) fn describe(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let envoy = self.envoy.as_ref().map(|(_, version)| format!(", Envoy {version}")).unwrap_or_default();
        format!("{cores} cores; Mesh {}{envoy}", env!("CARGO_PKG_VERSION"))
    }
}

/// A loopback address.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
