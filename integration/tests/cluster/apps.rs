//! Manifests of the applications under test: ordinary ones, that know nothing of the mesh.

use std::env;

use super::kube::{VERSION, apply, pod, rolled_out};

/// The image of `mesh-origin` and `mesh-load`, from where `cargo xtask test` says that the cluster has its images from.
pub fn image() -> String {
    let registry = env::var("MESH_TEST_REGISTRY").unwrap_or_else(|_| "docker.io/mesh".to_owned());
    format!("{registry}/mesh-test:{VERSION}")
}

/// A Deployment of the test server, as its manifest.
#[derive(Clone, Debug)]
pub struct App<'a> {
    /// Name of Deployment and ServiceAccount, and label `app`.
    pub name: &'a str,
    /// Replicas.
    pub replicas: u32,
    /// More arguments of `mesh-origin`.
    pub args: &'a [&'a str],
    /// More fields of the container, as flow YAML: `readinessProbe: {...}`.
    pub container: &'a str,
    /// More fields of the pod's spec, as flow YAML.
    pub spec: &'a str,
    /// Labels and annotations of the pod, as flow YAML: `annotations: {...}`.
    pub metadata: &'a str,
}

impl<'a> App<'a> {
    /// One replica of the plain test server.
    pub fn new(name: &'a str) -> Self {
        Self { name, replicas: 1, args: &[], container: "", spec: "", metadata: "" }
    }

    /// The ServiceAccount and the Deployment.
    pub fn manifest(&self, namespace: &str) -> String {
        let Self { name, replicas, container, spec, metadata, .. } = self;
        let args: String = self.args.iter().map(|arg| format!(", {arg:?}")).collect();
        let line = |text: &str, indent: usize| match text {
            "" => String::new(),
            text => format!("\n{:indent$}{text}", ""),
        };
        let (container, spec, metadata) = (line(container, 8), line(spec, 6), line(metadata, 6));
        format!(
            "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}}}{metadata}
    spec:{spec}
      serviceAccountName: {name}
      containers:
      - name: app
        image: {image}
        command: [/mesh-origin, --listen, '[::]:8080', --name, {name}{args}]
        ports: [{{name: http, containerPort: 8080}}]{container}
",
            image = image()
        )
    }
}

/// A Service: port 80 to the container's 8080, for the pods with label `app` of one of these applications.
pub fn service(namespace: &str, name: &str, selector: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
    )
}

/// `web` with its Service, and a client, all of them running: the client's pod.
pub fn web_and_client(namespace: &str) -> String {
    let apps = ["web", "client"].map(|name| App::new(name).manifest(namespace)).concat();
    apply(&format!("{apps}{}", service(namespace, "web", "app: web")));
    rolled_out(namespace, &["deployment/web", "deployment/client"]);
    pod(namespace, "app=client")
}
