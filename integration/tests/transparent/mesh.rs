//! A mesh of such pods: the controller on the node, and for each meshed pod its redirection and its sidecar, as in a
//! cluster: the same user, the same ports, the same environment.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use mesh_integration::harness::{
    Answer, Controller, Manifests, Process, Sandbox, binary, eventually, free_port, http_get, series,
};

use crate::net::{NODE, Net, Pod};

pub const NAMESPACE: &str = "shop";
/// The user of sidecars.
pub const UID: u32 = 4640;
/// The Service `web` of [`Mesh::service`].
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const WEB6: &str = "[fd96::10]";
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Mesh {
    // Dropped in this order: processes before the network they use.
    pub controller: Option<Controller>,
    pub sandbox: Sandbox,
    pub net: Net,
}

/// A pod with a sidecar.
pub struct Meshed {
    pub pod: Pod,
    pub proxy: Process,
}

/// Copies of the binary that every user may run: one plain, one with the file capability of the image.
pub struct Binaries {
    _dir: tempfile::TempDir,
    plain: PathBuf,
    capable: PathBuf,
}

/// The copies, shared by the tests that run at once; they vanish with the last of them.
pub fn binaries() -> Arc<Binaries> {
    static BINARIES: Mutex<Weak<Binaries>> = Mutex::new(Weak::new());
    let mut shared = BINARIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(binaries) = shared.upgrade() {
        return binaries;
    }
    let dir = tempfile::Builder::new().prefix("mesh-bin-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (plain, capable) = (dir.path().join("plain"), dir.path().join("capable"));
    for copy in [&plain, &capable] {
        fs::copy(binary("mesh-proxy").unwrap(), copy).unwrap();
    }
    let set = Command::new("setcap").arg("cap_net_admin=p").arg(&capable).status();
    assert!(set.expect("setcap (libcap2-bin) is installed").success());
    let binaries = Arc::new(Binaries { _dir: dir, plain, capable });
    *shared = Arc::downgrade(&binaries);
    binaries
}

impl Mesh {
    /// A controller and nothing else; `None` where there can be no namespaces.
    pub async fn new() -> Option<Self> {
        let net = Net::new()?;
        let sandbox = Sandbox::new().unwrap();
        // Sidecars run as another user.
        fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut mesh = Self { controller: None, sandbox, net };
        mesh.controller = Some(mesh.start_controller().await);
        Some(mesh)
    }

    async fn start_controller(&self) -> Controller {
        let at = |port| SocketAddr::from((NODE, port));
        let addresses =
            mesh_integration::harness::Addresses { identity: at(4650), destination: at(4651), metrics: at(4652) };
        Controller::start_at(&self.sandbox, addresses, &[]).await.unwrap()
    }

    /// Stops the controller.
    pub async fn without_controller(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.process.stop(PATIENCE).await.unwrap();
    }

    pub fn manifests(&self) -> Manifests {
        self.sandbox.manifests().unwrap()
    }

    /// A pod that the controller knows, redirected, with a sidecar that is ready. `init` is more environment of init.
    pub async fn meshed(&mut self, name: &str, init: &[(&str, &str)]) -> Meshed {
        let pod = self.net.pod();
        self.meshed_at(pod, name, init).await
    }

    /// The same of a pod that is there already.
    pub async fn meshed_at(&mut self, pod: Pod, name: &str, init: &[(&str, &str)]) -> Meshed {
        let Pod { v4, v6, .. } = &pod;
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  \
             labels: {{app: {name}, meshctl.dev/inject: enabled}}\nspec:\n  serviceAccountName: {name}\n  \
             containers: [{{name: app, image: app}}]\n\
             status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}\n"
        );
        self.manifests().write(&format!("pod-{name}"), &yaml).unwrap();
        let done = run_init(&pod, UID, true, init);
        assert!(done.status.success(), "{}", text(&done));
        let proxy = self.spawn_proxy(name, &pod).await;
        let mut meshed = Meshed { pod, proxy };
        meshed.gate().await;
        meshed
    }

    async fn spawn_proxy(&self, name: &str, pod: &Pod) -> Process {
        let controller = self.controller.as_ref().unwrap();
        let workload = format!("{NAMESPACE}/{name}");
        let token = self.readable(&controller.token(&workload).await.unwrap(), name);
        let bundle = self.readable(&controller.trust_bundle(), "bundle");
        let mut command = as_sidecar(&binaries().plain);
        command
            .env("MESH_WORKLOAD", &workload)
            .env("MESH_POD_IPS", format!("{},{}", pod.v4, pod.v6))
            .env("MESH_IDENTITY_ADDR", controller.addresses.identity.to_string())
            .env("MESH_DESTINATION_ADDR", controller.addresses.destination.to_string())
            .env("MESH_TOKEN_FILE", token)
            .env("MESH_TRUST_BUNDLE_FILE", bundle)
            .env("MESH_LOG", "info,mesh_proxy=debug");
        let log = self.sandbox.log(&format!("proxy-{name}"));
        pod.run(|| Process::spawn(&format!("mesh-proxy of {name}"), command, &log)).unwrap()
    }

    /// A copy that every user may read.
    fn readable(&self, file: &Path, name: &str) -> PathBuf {
        let copy = self.sandbox.path().join(format!("{name}.readable"));
        fs::copy(file, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        copy
    }

    /// The Service `web` at [`WEB`] and [`WEB6`], ports 80 and 5432, on ports 8080 and 5432 of a pod. Comes back when the
    /// controller knows it.
    pub async fn service(&self, pod: &Pod, name: &str) {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {NAMESPACE}}}\nspec:\n  \
             clusterIP: {WEB}\n  clusterIPs: [{WEB}, \"{}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n  \
             - {{name: http, port: 80, targetPort: 8080, protocol: TCP}}\n  \
             - {{name: db, port: 5432, targetPort: 5432, protocol: TCP}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: web-1\n  \
             namespace: {NAMESPACE}\n  labels: {{kubernetes.io/service-name: web}}\nendpoints:\n\
             - addresses: [{}]\n  conditions: {{ready: true, serving: true, terminating: false}}\n  \
             targetRef: {{kind: Pod, name: {name}, namespace: {NAMESPACE}}}\nports:\n\
             - {{name: http, port: 8080, protocol: TCP}}\n- {{name: db, port: 5432, protocol: TCP}}\n",
            WEB6.trim_matches(['[', ']']),
            pod.v4,
        );
        self.manifests().write("service-web", &yaml).unwrap();
        // Whoever has read this pod, which came later, has read the Service.
        let manifests = self.manifests();
        manifests.pod(NAMESPACE, "later", "later", "later", mesh_integration::harness::Meshed::Yes).unwrap();
        self.controller.as_ref().unwrap().token(&format!("{NAMESPACE}/later")).await.unwrap();
    }

    /// An application in a pod: `mesh-origin`, listening where it says.
    pub async fn app(&self, pod: &Pod, name: &str, listen: impl ToString, args: &[&str]) -> Process {
        let mut command = Command::new(binary("mesh-origin").unwrap());
        command.args(["--listen", &listen.to_string(), "--name", name]).args(args);
        let log = self.sandbox.log(&format!("app-{name}-{}", free_port()));
        let mut process = pod.run(|| Process::spawn(name, command, &log)).unwrap();
        let listening = async || {
            process.must_run()?;
            Ok(process.log().contains("listening on ").then_some(()))
        };
        eventually("an application to listen", PATIENCE, listening).await.unwrap();
        process
    }
}

impl Meshed {
    /// Waits as a container's postStart hook does.
    async fn gate(&mut self) {
        let done =
            self.pod.run(|| as_sidecar(&binaries().plain).arg("await").env("MESH_AWAIT", "30s").output()).unwrap();
        assert!(done.status.success(), "{}\n{}", text(&done), self.proxy.log_tail());
    }

    /// The value of a metric: the sum over its series that have all these labels.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        series(&http_get(self.pod.at(4692), "/metrics").await.unwrap().body, name, labels).sum()
    }
}

/// GET from a process of a pod.
pub fn get(pod: &Pod, address: impl ToString) -> anyhow::Result<Answer> {
    let address: SocketAddr = address.to_string().parse().unwrap();
    pod.block_on(|| http_get(address, "/"))
}

/// The name of the application that answered.
pub fn answered(answer: &anyhow::Result<Answer>) -> &str {
    let answer = answer.as_ref().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let header = answer.head.lines().find_map(|line| line.strip_prefix("x-version: "));
    header.unwrap_or_else(|| panic!("{answer:?}"))
}

/// Runs `mesh-proxy init` in a pod as a user; `capable` with the image's file capability.
pub fn run_init(pod: &Pod, uid: u32, capable: bool, env: &[(&str, &str)]) -> Output {
    let binaries = binaries();
    let mut command = Command::new(if capable { &binaries.capable } else { &binaries.plain });
    command.arg("init").env_clear().envs(env.iter().copied()).uid(uid).gid(uid);
    pod.run(|| command.output()).unwrap()
}

/// Runs `mesh-proxy await` in a pod.
pub fn run_await(pod: &Pod, limit: &str) -> Output {
    pod.run(|| as_sidecar(&binaries().plain).arg("await").env("MESH_AWAIT", limit).output()).unwrap()
}

fn as_sidecar(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().uid(UID).gid(UID);
    command
}

/// What a program said.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
