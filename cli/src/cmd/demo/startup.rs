//! Starts the demo's processes in the order in which they need each other, and says how far it is.
//!
//! Nothing is assumed to be ready: every step waits until the process itself says so, within the time limit.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use mesh_policy::well_known::PROXY_UID;
use tokio::time::sleep;

use super::{
    folder::Folder,
    load::{self, LoadPlan},
    metrics,
    process::{ProcessPlacement, Processes},
    progress::Progress,
    topology::{CLIENT, NAMESPACE, Sidecar, Topology},
};
use crate::cmd::run::FOLDER;

/// Between two looks at something that is not ready yet.
const POLL: Duration = Duration::from_millis(20);

/// `MESH_SHUTDOWN_GRACE` of the sidecars; below the bound after which they are killed.
const GRACE: &str = "2s";

/// Name of the controller's process.
const CONTROLLER: &str = "controller";

/// What a start needs.
pub(super) struct Startup<'s> {
    /// Who takes part.
    pub topology: &'s Topology,
    /// Where files are.
    pub folder: &'s Folder,
    /// Where processes are put.
    pub processes: &'s mut Processes,
    /// How far it is.
    pub progress: &'s mut Progress,
    /// When to give up.
    pub deadline: Instant,
}

impl Startup<'_> {
    /// Starts everything and returns when a first request was answered.
    pub(super) async fn run(mut self, plan: &LoadPlan) -> anyhow::Result<()> {
        self.controller().await?;
        self.pods().await?;
        self.first_request(plan).await
    }

    async fn controller(&mut self) -> anyhow::Result<()> {
        self.progress.begin("starting the controller");
        let Topology { identity, destination, controller, .. } = self.topology;
        let (manifests, state) = (self.folder.manifests(), self.folder.state());
        let (manifests, state) = (manifests.to_string_lossy(), state.to_string_lossy());
        let listen = [identity, destination, controller].map(SocketAddr::to_string);
        #[rustfmt::skip]
        let args = [
            "controller", "--manifests", &manifests, "--state", &state, "--identity-listen", &listen[0],
            "--destination-listen", &listen[1], "--metrics-listen", &listen[2],
        ];
        // The controller clears a temporary folder away if this process is killed and cannot.
        let folder = self.folder.temporary().map(|path| (FOLDER, path.to_string_lossy().into_owned()));
        self.processes.start(CONTROLLER, &args, folder.as_slice())?;
        let (addresses, controller) = (self.folder.state().join("addresses.json"), *controller);
        self.until("the controller is not ready", CONTROLLER, async || match addresses.exists() {
            true => metrics::page(controller, "/ready").await.map(drop),
            false => Err(anyhow!("it has not written {}", addresses.display())),
        })
        .await?;
        self.progress.done("controller ready");
        let tokens = self.folder.state().join("tokens");
        let bundle = self.folder.state().join("trust-bundle.pem");
        let needed: Vec<_> = self
            .topology
            .sidecars()
            .map(|(pod, _)| tokens.join(format!("{NAMESPACE}.{pod}")))
            .chain([bundle])
            .collect();
        self.until("the controller has not made every pod's token", CONTROLLER, async || {
            let missing = needed.iter().find(|file| !file.exists());
            missing.map_or(Ok(()), |file| Err(anyhow!("{} is missing", file.display())))
        })
        .await
    }

    async fn pods(&mut self) -> anyhow::Result<()> {
        self.progress.begin("starting the service, the client and their sidecars");
        for replica in &self.topology.replicas {
            let listen = replica.app.to_string();
            let args = ["app", "--listen", &listen, "--version", replica.version, "--pod", &replica.pod];
            let namespace = replica.sidecar.namespace.as_deref();
            self.processes.start_in(ProcessPlacement { namespace, uid: None }, &replica.pod, &args, &[])?;
            let ports = format!("{}={}", replica.listen.port(), replica.app.port());
            self.sidecar(&replica.pod, &replica.sidecar, Some(ports))?;
        }
        self.sidecar(CLIENT, &self.topology.client, None)?;

        let sidecars: Vec<_> = self.topology.sidecars().map(|(pod, s)| (sidecar_name(pod), s.metrics)).collect();
        self.progress.begin("issuing identities");
        for (name, address) in &sidecars {
            self.until(&format!("{name} has no certificate"), name, async || {
                let samples = metrics::samples(*address).await?;
                let issued = samples.iter().any(|s| s.name == "mesh_certificates_total" && s.value >= 1.0);
                if issued { Ok(()) } else { Err(anyhow!("it has not obtained one yet")) }
            })
            .await?;
        }
        self.progress.done(&format!("{} identities issued", sidecars.len()));
        self.progress.begin("waiting for the sidecars");
        for (name, address) in &sidecars {
            self.until(&format!("{name} is not ready"), name, async || {
                metrics::page(*address, "/ready").await.map(drop)
            })
            .await?;
        }
        self.progress.done(&format!("{} sidecars ready", sidecars.len()));
        Ok(())
    }

    fn sidecar(&mut self, pod: &str, sidecar: &Sidecar, inbound_ports: Option<String>) -> anyhow::Result<()> {
        let state = self.folder.state();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (mut token, mut bundle) =
            (state.join("tokens").join(format!("{NAMESPACE}.{pod}")), state.join("trust-bundle.pem"));
        let mut place = ProcessPlacement::default();
        if let Some(namespace) = &sidecar.namespace {
            token = self.folder.hand_over(&token, &format!("{pod}.token"), PROXY_UID)?;
            bundle = self.folder.hand_over(&bundle, &format!("{pod}.pem"), PROXY_UID)?;
            place = ProcessPlacement { namespace: Some(namespace), uid: Some(PROXY_UID) };
            self.processes.complete(namespace, &["init"], &[])?;
        }
        let mut variables = vec![
            ("MESH_WORKLOAD", format!("{NAMESPACE}/{pod}")),
            ("MESH_IDENTITY_ADDR", self.topology.identity.to_string()),
            ("MESH_DESTINATION_ADDR", self.topology.destination.to_string()),
            ("MESH_TOKEN_FILE", text(&token)),
            ("MESH_TRUST_BUNDLE_FILE", text(&bundle)),
            ("MESH_OUTBOUND_LISTEN", sidecar.outbound.to_string()),
            ("MESH_INBOUND_LISTEN", sidecar.inbound.to_string()),
            ("MESH_ADMIN_LISTEN", sidecar.admin.to_string()),
            ("MESH_METRICS_LISTEN", sidecar.metrics.to_string()),
            ("MESH_SHUTDOWN_GRACE", GRACE.to_owned()),
        ];
        if sidecar.namespace.is_some() {
            variables.push(("MESH_POD_IPS", sidecar.pod_ip().to_string()));
        } else {
            variables.extend(inbound_ports.map(|ports| ("MESH_INBOUND_PORTS", ports)));
        }
        self.processes.start_in(place, &sidecar_name(pod), &["proxy"], &variables)
    }

    async fn first_request(&mut self, plan: &LoadPlan) -> anyhow::Result<()> {
        self.progress.begin("sending a first request");
        let client = sidecar_name(CLIENT);
        self.until("no request succeeds", &client, async || load::probe(plan).await).await?;
        self.progress.done("first request ok");
        Ok(())
    }

    /// Waits until `ready` succeeds. Errors when a process ends meanwhile, or at the deadline, with the last lines of
    /// the log of `process`.
    async fn until(
        &mut self,
        complaint: &str,
        process: &str,
        ready: impl AsyncFn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            self.processes.check()?;
            let Err(reason) = ready().await else { return Ok(()) };
            if Instant::now() >= self.deadline {
                let log = self.processes.last_words(process);
                bail!("{complaint} in time: {reason:#}\n{log}\n  Try a longer --timeout, or MESH_LOG=debug for more.");
            }
            sleep(POLL).await;
        }
    }
}

fn sidecar_name(pod: &str) -> String {
    format!("sidecar of {pod}")
}
