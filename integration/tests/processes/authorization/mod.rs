//! Who may call whom, decided by the server's sidecar: every source, tier, action, level and protocol.

mod bypass;
mod live;
mod matrix;
mod policies;
mod sources;

use std::{collections::BTreeSet, net::SocketAddr};

use mesh_integration::harness::{Proxy, eventually, http_get};

use crate::support::{Mesh, Server, TEST_WAIT};

/// Two servers: `web` serves HTTP/1, HTTP/2, gRPC and upgrades, `echo` sends back bytes.
struct Governed {
    mesh: Mesh,
    web: Server,
    echo: Server,
}

impl Governed {
    async fn start() -> Self {
        let mesh = Mesh::start().await;
        ["web", "echo"].iter().for_each(|name| mesh.service(name, None));
        let web = mesh.server("web", "web-1", &[]).await;
        let echo = mesh.server("echo", "echo-1", &["--tcp-echo"]).await;
        Self { mesh, web, echo }
    }

    /// Where a server's sidecar takes connections for it.
    fn inbound(server: &Server) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], server.listen))
    }

    /// Puts policies in force in the place of all others, and waits until both sidecars have those that are about them.
    async fn govern(&self, yaml: &str, web: &[&str], echo: &[&str]) {
        self.mesh.manifests.write("policies", yaml).unwrap();
        in_force(&self.web.proxy, web).await;
        in_force(&self.echo.proxy, echo).await;
    }
}

/// Waits until a sidecar has these policies, and no others.
async fn in_force(proxy: &Proxy, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut last = BTreeSet::new();
    let told = async || {
        let config: serde_json::Value = serde_json::from_str(&http_get(proxy.admin, "/config").await?.body)?;
        let policies = config["inbound"]["authorization"].as_array().cloned().unwrap_or_default();
        last = policies.iter().filter_map(|policy| policy["name"].as_str().map(str::to_owned)).collect();
        Ok((last == wanted).then_some(()))
    };
    let waited = eventually("policies to be in force", TEST_WAIT, told).await;
    assert!(waited.is_ok(), "wanted {wanted:?}, have {last:?}");
}
