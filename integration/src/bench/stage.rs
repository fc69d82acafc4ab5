//! Everything that runs while it is measured: the servers, the controller, and a pair of either kind.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
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
}

impl Party {
    /// The kind of pair; `None` for [`Party::Direct`].
    pub(super) fn kind(self) -> Option<Kind> {
        match self {
            Self::Mesh => Some(Kind::Mesh),
            Self::Envoy => Some(Kind::Envoy),
            Self::Direct => None,
        }
    }

    /// The key of its figures in JSON.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Envoy => "envoy",
            Self::Direct => "direct",
        }
    }
}

/// The kinds of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Two `mesh-proxy` and their controller.
    Mesh,
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

/// What stays for all rounds. The Mesh part starts when first needed, so that Envoy can be measured alone.
pub(super) struct Stage {
    sandbox: Sandbox,
    envoy: PathBuf,
    version: String,
    servers: Servers,
    /// Where the inbound `mesh-proxy` listens: the manifests name these ports, so one pair runs at a time.
    between: Ports,
    controller: OnceCell<Controller>,
}

impl Stage {
    /// Starts the servers.
    pub(super) async fn start(envoy: &Path) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let servers = Servers {
            http: Origin::start(&sandbox, "origin", ["--name", "bench"]).await?,
            sink: Origin::start(&sandbox, "sink", ["--tcp-sink"]).await?,
            echo: Origin::start(&sandbox, "echo", ["--tcp-echo"]).await?,
        };
        Ok(Self {
            version: envoy::version(envoy)?,
            envoy: envoy.to_owned(),
            sandbox,
            servers,
            between: Ports::free(),
            controller: OnceCell::new(),
        })
    }

    /// Starts a fresh pair, gives it to `measure` and stops it: only one pair is ever there, and none is warmer than
    /// the other.
    pub(super) async fn with_pair<T>(
        &self,
        kind: Kind,
        measure: impl AsyncFnOnce(&mut Pair) -> Result<T>,
    ) -> Result<T> {
        let mut pair = match kind {
            Kind::Mesh => {
                let controller =
                    self.controller.get_or_try_init(|| mesh::controller(&self.sandbox, &self.between)).await?;
                mesh::start(&self.sandbox, controller, &self.between, &self.servers).await?
            }
            Kind::Envoy => envoy::start(&self.sandbox, &self.envoy, &self.servers).await?,
        };
        let measured = measure(&mut pair).await;
        pair.outbound.must_run()?;
        pair.inbound.must_run()?;
        let measured = measured?;
        match kind {
            Kind::Mesh => mesh::check_handshakes(&pair).await?,
            Kind::Envoy => envoy::check_handshakes(&pair).await?,
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
        format!("{cores} cores; Mesh {}, Envoy {}", env!("CARGO_PKG_VERSION"), self.version)
    }
}

/// A loopback address.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
