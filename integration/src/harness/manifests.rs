//! A folder of ordinary Kubernetes manifests, as the controller reads it without a cluster.
//!
//! One file per object, replaced by a rename, so that the watching controller never reads half a file.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A port of a Service and the port of its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PortSpec<'a> {
    /// The name that ties the Service's port to the EndpointSlice's.
    pub name: &'a str,
    /// The Service's port.
    pub port: u16,
    /// The endpoint's port; on loopback the sidecar's LISTEN port.
    pub target: u16,
    /// `appProtocol`, for example `http`, `kubernetes.io/h2c` or `tcp`; `None` leaves it to detection.
    pub app_protocol: Option<&'a str>,
}

/// Whether a Pod has a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meshed {
    /// It has one, and a token is written for it.
    Yes,
    /// It has none.
    No,
}

/// The folder and what was written into it.
#[derive(Clone, Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Uses (and creates) a folder.
    ///
    /// # Errors
    ///
    /// When it cannot be created.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes (or replaces) a file of any manifests; `name` comes without an extension.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let (part, whole) = (self.dir.join(format!("{name}.part")), self.file(name));
        fs::write(&part, yaml).with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &whole).with_context(|| format!("cannot write {}", whole.display()))
    }

    /// Removes a file that [`Manifests::write`] made under this name.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// A Service without a cluster address, in `service-NS-NAME`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn service(&self, namespace: &str, name: &str, ports: &[PortSpec<'_>]) -> Result<()> {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  ports:\n"
        );
        for PortSpec { name, port, target, app_protocol } in ports {
            let _ = write!(yaml, "  - {{name: {name}, port: {port}, targetPort: {target}, protocol: TCP");
            if let Some(protocol) = app_protocol {
                let _ = write!(yaml, ", appProtocol: {protocol}");
            }
            yaml.push_str("}\n");
        }
        self.write(&format!("service-{namespace}-{name}"), &yaml)
    }

    /// An EndpointSlice with one ready endpoint on 127.0.0.1, the Pod `pod`, in `endpoints-NS-POD-SERVICE`. On loopback
    /// each replica has a slice of its own, for its ports differ.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn endpoint(&self, namespace: &str, service: &str, pod: &str, ports: &[PortSpec<'_>]) -> Result<()> {
        let mut yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  \
             name: {service}-{pod}\n  namespace: {namespace}\n  labels: {{kubernetes.io/service-name: {service}}}\n\
             endpoints:\n- addresses: [127.0.0.1]\n  conditions: {{ready: true, serving: true, terminating: false}}\n  \
             targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}\nports:\n"
        );
        for PortSpec { name, target, app_protocol, .. } in ports {
            let _ = write!(yaml, "- {{name: {name}, port: {target}, protocol: TCP");
            if let Some(protocol) = app_protocol {
                let _ = write!(yaml, ", appProtocol: {protocol}");
            }
            yaml.push_str("}\n");
        }
        self.write(&format!("endpoints-{namespace}-{pod}-{service}"), &yaml)
    }

    /// A running Pod on 127.0.0.1 labelled `app: APP`, in `pod-NS-NAME`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn pod(&self, namespace: &str, name: &str, service_account: &str, app: &str, meshed: Meshed) -> Result<()> {
        let inject = if meshed == Meshed::Yes { "enabled" } else { "disabled" };
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
             labels: {{app: {app}, meshctl.dev/inject: {inject}}}\nspec:\n  serviceAccountName: {service_account}\n  \
             containers: [{{name: app, image: app}}]\nstatus: {{phase: Running, podIP: 127.0.0.1}}\n"
        );
        self.write(&format!("pod-{namespace}-{name}"), &yaml)
    }

    /// An HTTPRoute with one rule: everything that is sent to `service:port` goes to `backend:port`, in
    /// `httproute-NS-NAME`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn http_route(&self, namespace: &str, name: &str, service: &str, port: u16, backend: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: {service}, port: {port}}}]\n  rules:\n  \
             - matches: [{{path: {{type: PathPrefix, value: /}}}}]\n    \
             backendRefs: [{{name: {backend}, port: {port}}}]\n"
        );
        self.write(&format!("httproute-{namespace}-{name}"), &yaml)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.yaml"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_are_written_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = Manifests::new(dir.path().join("m")).unwrap();
        let port = PortSpec { name: "http", port: 80, target: 4643, app_protocol: Some("http") };
        manifests.service("shop", "web", &[port]).unwrap();
        manifests.service("shop", "web", &[PortSpec { port: 8080, ..port }]).unwrap();
        manifests.endpoint("shop", "web", "web-1", &[port]).unwrap();
        manifests.pod("shop", "web-1", "web", "web", Meshed::Yes).unwrap();
        manifests.http_route("shop", "all", "web", 8080, "web").unwrap();
        let files = || fs::read_dir(manifests.dir()).unwrap().count();
        assert_eq!(files(), 4, "one file an object, no leftovers");
        let service = fs::read_to_string(manifests.dir().join("service-shop-web.yaml")).unwrap();
        assert!(service.contains("port: 8080, targetPort: 4643") && service.contains("appProtocol: http"), "{service}");
        manifests.remove("pod-shop-web-1").unwrap();
        assert_eq!(files(), 3);
    }
}
