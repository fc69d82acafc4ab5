//! The processes of a mesh on loopback: controller, sidecars, test servers.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Manifests, Process, binary, eventually, free_port, ready};

/// How long a process may take until it is ready; a debug build on a busy machine takes seconds.
const START: Duration = Duration::from_secs(30);

/// A folder that one test owns. It vanishes with its handle, unless the test fails.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    /// Where its controller and sidecars are from, if not from this build.
    binaries: Option<PathBuf>,
}

impl Sandbox {
    /// Makes a new folder.
    ///
    /// # Errors
    ///
    /// When the temporary folder cannot be written.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::Builder::new().prefix("mesh-").tempdir()?, binaries: None })
    }

    /// The same for `mesh-controller` and `mesh-proxy` of another build, which are in `folder`.
    ///
    /// # Errors
    ///
    /// When one of them is not there, or the temporary folder cannot be written.
    pub fn with_binaries(folder: &Path) -> Result<Self> {
        for name in ["mesh-controller", "mesh-proxy"] {
            ensure!(folder.join(name).is_file(), "there is no {name} in {}", folder.display());
        }
        let mut sandbox = Self::new()?;
        sandbox.binaries = Some(folder.to_owned());
        Ok(sandbox)
    }

    /// The program of this name that its processes run.
    fn binary(&self, name: &str) -> Result<PathBuf> {
        self.binaries.as_ref().map_or_else(|| binary(name), |folder| Ok(folder.join(name)))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the process `name` logs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join(format!("{}.log", name.replace('/', ".")))
    }

    /// The manifests of this sandbox.
    ///
    /// # Errors
    ///
    /// When their folder cannot be created.
    pub fn manifests(&self) -> Result<Manifests> {
        Manifests::new(self.path().join("manifests"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("kept for a look: {}", self.path().display());
        }
    }
}

/// A running `mesh-controller` that reads the sandbox's manifests.
#[derive(Debug)]
pub struct Controller {
    /// The process.
    pub process: Process,
    /// Where it serves what.
    pub addresses: Addresses,
    state: PathBuf,
}

/// What the controller writes into `addresses.json` of its state folder.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Addresses {
    /// The Identity service.
    pub identity: SocketAddr,
    /// The Policy and Destination services.
    pub destination: SocketAddr,
    /// `/live`, `/ready`, `/metrics` and `/problems`.
    pub metrics: SocketAddr,
}

impl Controller {
    /// Starts it on free ports and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready; with the end of its log.
    pub async fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_with(sandbox, &[]).await
    }

    /// The same with more of its flags.
    ///
    /// # Errors
    ///
    /// When it does not become ready; with the end of its log.
    pub async fn start_with(sandbox: &Sandbox, flags: &[&str]) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(sandbox, Addresses { identity: any, destination: any, metrics: any }, flags).await
    }

    /// Starts it on given addresses, for example those of a controller that was stopped before. The state folder stays
    /// the same, and with it the trust root.
    ///
    /// # Errors
    ///
    /// When it does not become ready; with the end of its log.
    pub async fn start_at(sandbox: &Sandbox, at: Addresses, flags: &[&str]) -> Result<Self> {
        let state = sandbox.path().join("state");
        fs::create_dir_all(&state)?;
        let file = state.join("addresses.json");
        // What an earlier controller left there must not be taken for this one's.
        let _ = fs::remove_file(&file);
        let mut command = Command::new(sandbox.binary("mesh-controller")?);
        command.arg("--manifests").arg(sandbox.manifests()?.dir()).arg("--state").arg(&state);
        command.args(["--identity-listen", &at.identity.to_string()]);
        command.args(["--destination-listen", &at.destination.to_string()]);
        command.args(["--metrics-listen", &at.metrics.to_string()]).args(flags);
        let mut process = Process::spawn("mesh-controller", command, &sandbox.log("controller"))?;
        let written = async || {
            process.must_run()?;
            // A file that is still being written does not parse yet.
            Ok(fs::read(&file).ok().and_then(|json| serde_json::from_slice::<Addresses>(&json).ok()))
        };
        let addresses = eventually("the controller's addresses.json", START, written).await?;
        ready(&mut process, addresses.metrics, START).await?;
        Ok(Self { process, addresses, state })
    }

    /// The trust bundle that a proxy starts with.
    pub fn trust_bundle(&self) -> PathBuf {
        self.state.join("trust-bundle.pem")
    }

    /// Waits for the token of the Pod `namespace/name` and returns its file.
    ///
    /// # Errors
    ///
    /// When none is written within 30 s: the Pod is not in the manifests or not meshed.
    pub async fn token(&self, workload: &str) -> Result<PathBuf> {
        let file = self.state.join("tokens").join(workload.replace('/', "."));
        let there = async || Ok(file.is_file().then(|| file.clone()));
        eventually(&format!("the controller to write a token for the Pod {workload}"), START, there).await
    }
}

/// How a sidecar is configured.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// The Pod it belongs to, `namespace/name`.
    pub workload: String,
    /// Listening ports that stand for application ports.
    pub inbound: Vec<(u16, u16)>,
    /// Listening ports that stand for destinations, `host:port`.
    pub outbound: Vec<(u16, String)>,
    /// More environment variables; they win over those that the harness sets.
    pub env: Vec<(String, String)>,
}

/// A running `mesh-proxy`.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Its HTTP proxy for clients that are not redirected.
    pub outbound: SocketAddr,
    /// Its admin page (`/config`, `/log-level`).
    pub admin: SocketAddr,
    /// `/live`, `/ready` and `/metrics`.
    pub metrics: SocketAddr,
}

impl Proxy {
    /// Starts a sidecar under the controller and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When there is no token for its Pod or it does not become ready; with the end of its log.
    pub async fn start(sandbox: &Sandbox, controller: &Controller, config: ProxyConfig) -> Result<Self> {
        let mut proxy = Self::spawn(sandbox, controller, config).await?;
        ready(&mut proxy.process, proxy.metrics, START).await?;
        Ok(proxy)
    }

    /// Starts a sidecar without waiting until it is ready, for tests of what happens before.
    ///
    /// # Errors
    ///
    /// When there is no token for its Pod or no binary.
    pub async fn spawn(sandbox: &Sandbox, controller: &Controller, config: ProxyConfig) -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (outbound, admin, metrics) = (local(free_port()), local(free_port()), local(free_port()));
        let mut command = Command::new(sandbox.binary("mesh-proxy")?);
        let mut set = |name: &str, value: &dyn ToString| {
            command.env(name, value.to_string());
        };
        set("MESH_WORKLOAD", &config.workload);
        set("MESH_IDENTITY_ADDR", &controller.addresses.identity);
        set("MESH_DESTINATION_ADDR", &controller.addresses.destination);
        set("MESH_TOKEN_FILE", &controller.token(&config.workload).await?.display());
        set("MESH_TRUST_BUNDLE_FILE", &controller.trust_bundle().display());
        set("MESH_INBOUND_PORTS", &pairs(&config.inbound));
        set("MESH_OUTBOUND_PORTS", &pairs(&config.outbound));
        set("MESH_OUTBOUND_LISTEN", &outbound);
        set("MESH_INBOUND_LISTEN", &local(free_port()));
        set("MESH_ADMIN_LISTEN", &admin);
        set("MESH_METRICS_LISTEN", &metrics);
        command.envs(config.env);
        let name = format!("mesh-proxy of {}", config.workload);
        let process = Process::spawn(&name, command, &sandbox.log(&config.workload))?;
        Ok(Self { process, outbound, admin, metrics })
    }
}

fn pairs<T: std::fmt::Display>(pairs: &[(u16, T)]) -> String {
    pairs.iter().map(|(left, right)| format!("{left}={right}")).collect::<Vec<_>>().join(",")
}

/// A running `mesh-origin`.
#[derive(Debug)]
pub struct Origin {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Origin {
    /// Starts a test server on a free port with more of its flags, and waits until it listens. `name` names its log.
    ///
    /// # Errors
    ///
    /// When it ends early; with the end of its log.
    pub async fn start<A: Into<OsString>>(
        sandbox: &Sandbox,
        name: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::start_at(sandbox, name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), args).await
    }

    /// The same on a given address, for a server that comes back.
    ///
    /// # Errors
    ///
    /// When it ends early; with the end of its log.
    pub async fn start_at<A: Into<OsString>>(
        sandbox: &Sandbox,
        name: &str,
        at: SocketAddr,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let log = sandbox.log(name);
        let _ = fs::remove_file(&log);
        let mut command = Command::new(binary("mesh-origin")?);
        command.args(["--listen", &at.to_string()]).args(args.into_iter().map(Into::into));
        let mut process = Process::spawn(name, command, &log)?;
        let listening = async || {
            process.must_run()?;
            let log = process.log();
            let line = log.lines().find_map(|line| line.strip_prefix("listening on "));
            line.map(|address| address.parse().context("the server's address")).transpose()
        };
        let address = eventually(&format!("{name} to listen"), START, listening).await?;
        Ok(Self { process, address })
    }
}
