//! A controller, sidecars and test servers, put together the way each test wants them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mesh_integration::harness::{
    Controller, Manifests, Meshed, Origin, PortSpec, Proxy, ProxyConfig, Sandbox, eventually, free_port, http_get,
    series,
};
use tokio::sync::SemaphorePermit;

use super::{Answer, TEST_WAIT, get, turn::turn};

/// A mesh: its controller and the folder that tells it what there is. All objects are in the namespace `shop`; a
/// Service has the port 80, named `http`.
pub struct Mesh {
    pub sandbox: Sandbox,
    pub manifests: Manifests,
    pub controller: Controller,
    _turn: SemaphorePermit<'static>,
}

/// A server's sidecar and where its application is.
pub struct Server {
    pub proxy: Proxy,
    /// The sidecar's port that stands for the application's.
    pub listen: u16,
    /// The application.
    pub app: SocketAddr,
    /// The application, if it is a test server.
    pub origin: Option<Origin>,
    /// Gets one byte for each request of the test server.
    pub accept_log: PathBuf,
    pub service: String,
    pub pod: String,
}

/// A client's sidecar.
pub struct Client {
    pub proxy: Proxy,
    /// A port for each destination that was asked for, in that order.
    pub ports: Vec<SocketAddr>,
}

impl Client {
    /// The port of the first destination.
    pub fn entry(&self) -> SocketAddr {
        self.ports[0]
    }
}

impl Mesh {
    /// Starts a controller that knows one meshed client Pod, `shop/client`.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more flags of the controller.
    pub async fn start_with(args: &[&str]) -> Self {
        let turn = turn().await;
        let sandbox = Sandbox::new().unwrap();
        let manifests = sandbox.manifests().unwrap();
        manifests.pod("shop", "client", "client", "client", Meshed::Yes).unwrap();
        let controller = Controller::start_with(&sandbox, args).await.unwrap();
        Self { sandbox, manifests, controller, _turn: turn }
    }

    /// A Service `shop/NAME` with the port 80.
    pub fn service(&self, name: &str, app_protocol: Option<&str>) {
        let port = PortSpec { name: "http", port: 80, target: 80, app_protocol };
        self.manifests.service("shop", name, &[port]).unwrap();
    }

    /// Says where a Pod of a Service is.
    pub fn endpoint(&self, service: &str, pod: &str, port: u16) {
        let port = PortSpec { name: "http", port: 80, target: port, app_protocol: None };
        self.manifests.endpoint("shop", service, pod, &[port]).unwrap();
    }

    /// Says that a Pod of a Service is gone.
    pub fn remove_endpoint(&self, service: &str, pod: &str) {
        self.manifests.remove(&format!("endpoints-shop-{pod}-{service}")).unwrap();
    }

    /// A Pod with a test server and a sidecar, in the endpoints of a Service. Its service account has the Service's name.
    pub async fn server(&self, service: &str, pod: &str, args: &[&str]) -> Server {
        self.server_with(service, pod, args, &[]).await
    }

    /// The same with more environment of the sidecar.
    pub async fn server_with(&self, service: &str, pod: &str, args: &[&str], env: &[(&str, &str)]) -> Server {
        let accept_log = self.sandbox.path().join(format!("{pod}.accepted"));
        let origin = self.origin(pod, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), args).await;
        let mut server = self.sidecar(service, pod, origin.address, env).await;
        server.origin = Some(origin);
        server.accept_log = accept_log;
        server
    }

    /// A test server named as its Pod, with an accept log, at an address.
    pub async fn origin(&self, pod: &str, at: SocketAddr, args: &[&str]) -> Origin {
        let accept_log = self.sandbox.path().join(format!("{pod}.accepted")).display().to_string();
        let mut all = vec!["--name", pod, "--accept-log", &accept_log];
        all.extend(args);
        Origin::start_at(&self.sandbox, &format!("origin-{pod}"), at, all).await.unwrap()
    }

    /// A Pod whose application is the test's own, and its sidecar.
    pub async fn sidecar(&self, service: &str, pod: &str, app: SocketAddr, env: &[(&str, &str)]) -> Server {
        let server = self.hidden_sidecar(service, pod, app, env).await;
        self.endpoint(service, pod, server.listen);
        server
    }

    /// A Pod and its sidecar that no EndpointSlice names yet.
    pub async fn hidden_sidecar(&self, service: &str, pod: &str, app: SocketAddr, env: &[(&str, &str)]) -> Server {
        self.manifests.pod("shop", pod, service, service, Meshed::Yes).unwrap();
        let listen = free_port();
        let config = ProxyConfig {
            workload: format!("shop/{pod}"),
            inbound: vec![(listen, app.port())],
            outbound: Vec::new(),
            env: owned(env),
        };
        let proxy = Proxy::start(&self.sandbox, &self.controller, config).await.unwrap();
        let (service, pod) = (service.to_owned(), pod.to_owned());
        Server { proxy, listen, app, origin: None, accept_log: PathBuf::new(), service, pod }
    }

    /// The client's sidecar with a port for each destination.
    pub async fn client(&self, destinations: &[&str]) -> Client {
        self.client_with(destinations, &[]).await
    }

    /// The same with more environment.
    pub async fn client_with(&self, destinations: &[&str], env: &[(&str, &str)]) -> Client {
        let outbound: Vec<_> = destinations.iter().map(|d| (free_port(), (*d).to_owned())).collect();
        let ports = outbound.iter().map(|(port, _)| SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).collect();
        let config = ProxyConfig { workload: "shop/client".to_owned(), inbound: Vec::new(), outbound, env: owned(env) };
        Client { proxy: Proxy::start(&self.sandbox, &self.controller, config).await.unwrap(), ports }
    }

    /// The usual pair: one replica of `web` behind its sidecar, and a client whose first port leads to it.
    pub async fn pair() -> (Self, Client, Server) {
        let mesh = Self::start().await;
        mesh.service("web", None);
        let server = mesh.server("web", "web-1", &[]).await;
        let client = mesh.client(&["web.shop:80"]).await;
        mesh.until_ok(&client).await;
        (mesh, client, server)
    }

    /// A pair around an application of the test.
    pub async fn around(app: SocketAddr) -> (Self, Client, Server) {
        let mesh = Self::start().await;
        mesh.service("web", None);
        let server = mesh.sidecar("web", "web-1", app, &[]).await;
        let client = mesh.client(&["web.shop:80"]).await;
        mesh.until_endpoints("shop/web:80", client.entry(), &client, 1).await;
        (mesh, client, server)
    }

    /// Waits until the client's sidecar answers 200 for a GET of `/` at its first port.
    pub async fn until_ok(&self, client: &Client) {
        until_answered(client.entry(), "/", |answer| answer.head.status == 200).await;
    }

    /// Waits until the client's sidecar knows so many endpoints of a Service (`shop/web:80`). It learns of them when it is
    /// first asked, hence requests for `/probe`, which an application of the test must bear.
    pub async fn until_endpoints(&self, service: &str, entry: SocketAddr, client: &Client, count: usize) {
        let known = async || {
            let _ = get(entry, "probe.test", "/probe").await;
            let config: serde_json::Value = serde_json::from_str(&http_get(client.proxy.admin, "/config").await?.body)?;
            let sets = config["endpoints"].as_array().cloned().unwrap_or_default();
            let set = sets.iter().find(|set| set["service"] == service);
            let found = set.and_then(|set| set["endpoints"].as_array()).map_or(0, Vec::len);
            Ok((found == count).then_some(()))
        };
        eventually(&format!("{service} to have {count} endpoints"), TEST_WAIT, known).await.unwrap();
    }
}

/// Waits until a GET of this path of `web` is answered as it should be.
pub async fn until_answered(entry: SocketAddr, path: &str, is: impl Fn(&Answer) -> bool) {
    let mut last = String::new();
    let answered = async || {
        let answer = get(entry, "web.shop", path).await;
        last = format!("{answer:?}");
        Ok(answer.is_ok_and(|answer| is(&answer)).then_some(()))
    };
    let waited = eventually("an answer", TEST_WAIT, answered).await;
    assert!(waited.is_ok(), "{path} was never answered as it should be; the last was {last}");
}

/// The same, with what the route of a test sets once it is in force.
pub async fn until_routed(entry: SocketAddr, path: &str) {
    until_answered(entry, path, |answer| answer.head.get("x-route").is_some()).await;
}

fn owned(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The metrics page of a proxy.
pub async fn metrics(proxy: &Proxy) -> String {
    http_get(proxy.metrics, "/metrics").await.unwrap().body
}

/// The sum of all series of a family whose labels contain every one of `labels` (`name="value"`).
pub async fn metric(proxy: &Proxy, family: &str, labels: &[&str]) -> f64 {
    series(&metrics(proxy).await, family, labels).sum()
}

/// Long enough for a debug build on a busy machine.
pub const START: Duration = Duration::from_secs(30);
