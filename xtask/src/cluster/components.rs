//! The parts of Kubernetes, in the order in which they start, each with its flags and how one sees that it is ready.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Result, bail};

use super::{
    layout::{API_SERVICE, Layout, NODE, families, joined},
    node::{ctr, kubectl},
};
use crate::step::quiet;

/// How long a readiness page may take.
const PAGE: Duration = Duration::from_secs(2);
/// Bytes of a readiness page that are read.
const PAGE_BYTES: u64 = 4096;

/// A part.
pub struct Component {
    /// The name of its process, its log and its pid.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its flags.
    pub arguments: Vec<String>,
    /// How its readiness shows.
    pub ready: Ready,
}

/// How readiness shows.
#[derive(Clone, Copy)]
pub enum Ready {
    /// A page over plain HTTP on the node's address.
    Page(u16, &'static str),
    /// A port of the node that is open.
    Port(u16),
    /// The API server's own page.
    Api,
    /// containerd answers on its socket.
    Containerd,
}

/// All of them.
pub fn all(layout: &Layout, is_dual: bool) -> Vec<Component> {
    let bin = &layout.kubernetes;
    let run = layout.run.display().to_string();
    let of_kubernetes = |name, arguments, ready| Component { name, program: bin.join(name), arguments, ready };
    let config = |name: &str| format!("{run}/config/{name}");
    let pki = |name: &str| format!("{run}/pki/{name}");
    vec![
        etcd(&run),
        of_kubernetes("kube-apiserver", api_server(is_dual, &config, &pki), Ready::Api),
        of_kubernetes("kube-controller-manager", controller_manager(&config, &pki, is_dual), Ready::Port(10257)),
        of_kubernetes(
            "kube-scheduler",
            vec![format!("--kubeconfig={}", config("kube-scheduler.kubeconfig")), "--leader-elect=false".into()],
            Ready::Port(10259),
        ),
        Component {
            name: "containerd",
            program: "containerd".into(),
            arguments: vec![format!("--config={}", config("containerd.toml"))],
            ready: Ready::Containerd,
        },
        of_kubernetes(
            "kubelet",
            vec![
                format!("--config={}", config("kubelet.yaml")),
                format!("--kubeconfig={}", config("kubelet.kubeconfig")),
                format!("--root-dir={run}/kubelet"),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={}", joined(is_dual, |family| family.node)),
            ],
            Ready::Page(10248, "/healthz"),
        ),
        of_kubernetes(
            "kube-proxy",
            vec![format!("--config={}", config("kube-proxy.yaml"))],
            Ready::Page(10256, "/livez"),
        ),
    ]
}

/// One by name; `kube-` may be left out.
pub fn named(components: Vec<Component>, name: &str) -> Result<Component> {
    let names: Vec<_> = components.iter().map(|component| component.name).collect();
    let is_it = |component: &Component| component.name == name || component.name.strip_prefix("kube-") == Some(name);
    match components.into_iter().find(is_it) {
        Some(component) => Ok(component),
        None => bail!("there is no component {name}; there are {}", names.join(", ")),
    }
}

fn etcd(run: &str) -> Component {
    let node = families(false)[0].node;
    let arguments = vec![
        "--name=cluster".into(),
        format!("--data-dir={run}/etcd"),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-cluster=cluster=http://127.0.0.1:2380".into(),
        format!("--listen-metrics-urls=http://{node}:2381"),
        "--unsafe-no-fsync".into(), // nobody keeps anything in this cluster
    ];
    Component { name: "etcd", program: "etcd".into(), arguments, ready: Ready::Page(2381, "/health") }
}

fn api_server(is_dual: bool, config: &dyn Fn(&str) -> String, pki: &dyn Fn(&str) -> String) -> Vec<String> {
    let authority = pki("ca.crt");
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={}", families(false)[0].node),
        "--secure-port=6443".into(),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={authority}"),
        format!("--requestheader-client-ca-file={authority}"),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--service-account-key-file={}", pki("service-account.pub")),
        format!("--service-account-signing-key-file={}", pki("service-account.key")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-cluster-ip-range={}", joined(is_dual, |family| family.services)),
        "--authorization-mode=Node,RBAC".into(),
        format!("--token-auth-file={}", config("tokens.csv")),
        "--allow-privileged=true".into(),
    ]
}

fn controller_manager(config: &dyn Fn(&str) -> String, pki: &dyn Fn(&str) -> String, is_dual: bool) -> Vec<String> {
    // The node's podCIDR is all that its pods have.
    let masks: &[&str] = match is_dual {
        true => &["--node-cidr-mask-size-ipv4=16", "--node-cidr-mask-size-ipv6=64"],
        false => &["--node-cidr-mask-size=16"],
    };
    let mut arguments = vec![
        format!("--kubeconfig={}", config("kube-controller-manager.kubeconfig")),
        format!("--service-account-private-key-file={}", pki("service-account.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
        // Tests make and delete namespaces by the dozen.
        "--concurrent-namespace-syncs=20".into(),
        "--kube-api-qps=200".into(),
        "--kube-api-burst=400".into(),
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={}", joined(is_dual, |family| family.pods)),
    ];
    arguments.extend(masks.iter().map(|mask| (*mask).to_owned()));
    arguments
}

impl Component {
    /// Whether it is ready now.
    pub fn is_ready(&self, layout: &Layout) -> bool {
        match self.ready {
            Ready::Page(port, path) => page(port, path).is_some_and(|answer| answer.contains(" 200 ")),
            Ready::Port(port) => connect(port).is_some(),
            Ready::Api => {
                let mut readyz = kubectl(layout);
                readyz.args(["get", "--raw=/readyz", "--request-timeout=2s"]);
                quiet(readyz).is_ok()
            }
            Ready::Containerd => {
                let mut version = ctr(layout);
                version.args(["--connect-timeout=2s", "version"]);
                quiet(version).is_ok()
            }
        }
    }

    /// The address of the Service that stands for the API server, and all others it is reached by.
    pub fn api_addresses(is_dual: bool) -> Vec<&'static str> {
        let nodes = families(is_dual).iter().map(|family| family.node);
        ["127.0.0.1", API_SERVICE].into_iter().chain(nodes).collect()
    }
}

fn connect(port: u16) -> Option<TcpStream> {
    let node: Ipv4Addr = families(false)[0].node.parse().ok()?;
    TcpStream::connect_timeout(&SocketAddr::from((node, port)), PAGE).ok()
}

fn page(port: u16, path: &str) -> Option<String> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(PAGE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES).read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn components_go_by_both_names() {
        let layout = Layout::new().unwrap();
        for name in ["apiserver", "kube-apiserver"] {
            assert_eq!(named(all(&layout, true), name).unwrap().name, "kube-apiserver");
        }
        let error = named(all(&layout, true), "nonsense").err().expect("there is none").to_string();
        assert!(error.contains("nonsense") && error.contains("kube-scheduler"), "{error}");
    }

    #[test]
    fn flags_name_both_families_where_there_are_two() {
        let flag = |is_dual: bool| {
            let api = named(all(&Layout::new().unwrap(), is_dual), "apiserver").unwrap();
            api.arguments.into_iter().find(|flag| flag.starts_with("--service-cluster-ip-range")).unwrap()
        };
        assert_eq!(flag(false), "--service-cluster-ip-range=10.96.0.0/16");
        assert_eq!(flag(true), "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112");
    }
}
