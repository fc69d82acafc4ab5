//! The cluster under test, through `kubectl` and `meshctl`: what a person would type.
//!
//! Every test has namespaces of its own and leaves nothing. Waiting is always for a state, never for a time.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use mesh_integration::load::Report;
use serde_json::Value;

/// Names the kubeconfig of the cluster under test; `cargo xtask test` sets it.
const KUBECONFIG: &str = "MESH_TEST_KUBECONFIG";
/// Longest wait for anything that Kubernetes does: images are there, so seconds are usual.
const PATIENCE: Duration = Duration::from_secs(120);
/// The images' version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The control plane's namespace.
pub const SYSTEM: &str = "mesh-system";

/// Whether what is promised is asserted, not only printed: on a machine with nothing else to do (`cargo xtask test --long`).
pub fn is_long() -> bool {
    env::var_os("MESH_TEST_LONG").is_some()
}

/// Runs `kubectl` with these arguments and gives what it printed; a failure ends the test with what it said.
pub fn kubectl(args: &[&str]) -> String {
    said(&format!("kubectl {}", args.join(" ")), try_kubectl(args))
}

/// Runs `kubectl`, whatever comes of it.
pub fn try_kubectl(args: &[&str]) -> Output {
    command("kubectl").args(args).stdin(Stdio::null()).output().expect("kubectl is installed")
}

/// Applies manifests.
pub fn apply(manifests: &str) {
    said("kubectl apply", try_apply(manifests));
}

/// Applies manifests, whatever comes of it.
pub fn try_apply(manifests: &str) -> Output {
    let mut child = command("kubectl")
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is installed");
    child.stdin.take().expect("piped").write_all(manifests.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}

/// Runs `meshctl`, whatever comes of it.
pub fn try_meshctl(args: &[&str]) -> Output {
    let binary = PathBuf::from(env::var_os("MESH_BIN_DIR").expect("MESH_BIN_DIR")).join("meshctl");
    command(binary).args(args).stdin(Stdio::null()).output().expect("meshctl is built")
}

/// Runs `meshctl` and gives what it printed.
pub fn meshctl(args: &[&str]) -> String {
    said(&format!("meshctl {}", args.join(" ")), try_meshctl(args))
}

/// A program that talks to the cluster under test.
pub fn command(program: impl Into<PathBuf>) -> Command {
    let kubeconfig = env::var_os(KUBECONFIG)
        .unwrap_or_else(|| panic!("{KUBECONFIG} names no cluster: run `cargo xtask test`, which sets one up"));
    let mut command = Command::new(program.into());
    command.env("KUBECONFIG", kubeconfig);
    command
}

/// A program on the node, whose network is a namespace of its own; `cargo xtask test` names it.
pub fn in_node(program: &str) -> Command {
    let namespace = env::var_os("MESH_TEST_NODE").expect("MESH_TEST_NODE names the node's network namespace");
    let mut command = Command::new("ip");
    command.args(["netns", "exec"]).arg(namespace).arg(program);
    command
}

fn said(what: &str, output: Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// An object, or objects, as JSON.
pub fn get(namespace: &str, what: &[&str]) -> Value {
    let text = kubectl(&[&["get", "-n", namespace, "-o", "json"], what].concat());
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

/// A page of a pod, through the API server.
pub fn page(namespace: &str, pod: &str, port: u16, path: &str) -> String {
    kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")])
}

/// The cluster address of a Service.
pub fn cluster_ip(namespace: &str, service: &str) -> String {
    text(&get(namespace, &["service", service]), "/spec/clusterIP")
}

/// A string within an object.
pub fn text(object: &Value, pointer: &str) -> String {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("{pointer} is not in {object}")).to_owned()
}

/// The first pod with a label.
pub fn pod(namespace: &str, selector: &str) -> String {
    text(
        &get(namespace, &["pods", "-l", selector, "--field-selector", "status.phase=Running"]),
        "/items/0/metadata/name",
    )
}

/// Waits until every Deployment and StatefulSet named is rolled out.
pub fn rolled_out(namespace: &str, what: &[&str]) {
    for what in what {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let output = try_kubectl(&["rollout", "status", "-n", namespace, what, &timeout]);
        if !output.status.success() {
            let pods = try_kubectl(&["describe", "pods", "-n", namespace]);
            panic!(
                "{what} in {namespace} is not ready: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&pods.stdout)
            );
        }
    }
}

/// Asks until the answer is there; `what` says in a failure what was waited for.
pub fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        pause(Duration::from_millis(200));
    }
}

/// Between two looks at a state.
#[allow(clippy::disallowed_methods)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Runs a program in a pod's container and gives what it printed.
pub fn exec(namespace: &str, pod: &str, program: &[&str]) -> String {
    kubectl(&[&["exec", "-n", namespace, pod, "-c", "app", "--"], program].concat())
}

/// Sends load from a pod: what `mesh-load` reports.
pub fn load(namespace: &str, pod: &str, args: &[&str]) -> Report {
    let text = exec(namespace, pod, &[&["/mesh-load"], args].concat());
    serde_json::from_str(&text).expect("mesh-load prints its report")
}

/// Load that runs while the test does something else.
pub struct Running(Option<Child>);

/// Starts load in a pod.
pub fn start_load(namespace: &str, pod: &str, args: &[&str]) -> Running {
    let mut kubectl = command("kubectl");
    kubectl.args(["exec", "-n", namespace, pod, "-c", "app", "--", "/mesh-load"]).args(args);
    kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Running(Some(kubectl.spawn().expect("kubectl is installed")))
}

impl Running {
    /// Waits for its end.
    pub fn report(mut self) -> Report {
        let output = self.0.take().expect("started").wait_with_output().expect("kubectl ends");
        serde_json::from_str(&said("mesh-load", output)).expect("mesh-load prints its report")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A namespace that is deleted with the value.
pub struct Namespace(pub String);

impl Namespace {
    /// Makes it. `injected` decides its label.
    pub fn new(name: &str, injected: bool) -> Self {
        let _ = try_kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait=true"]);
        let label = if injected { "enabled" } else { "disabled" };
        apply(&format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{meshctl.dev/inject: {label}}}}}}}"
        ));
        Self(name.to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What went wrong is in there; the next run begins anew.
            return;
        }
        let _ = try_kubectl(&["delete", "namespace", &self.0, "--wait=false"]);
    }
}
