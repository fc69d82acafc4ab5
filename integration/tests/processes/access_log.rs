//! Lines of the access log agree with the counters, and come and go with annotations.

use std::collections::BTreeMap;

use mesh_integration::harness::{Proxy, eventually};
use serde_json::Value;

use crate::support::{Mesh, TEST_WAIT, get, metric};

/// An annotation of the namespace `shop`.
fn logged(mesh: &Mesh, wanted: &str) {
    let annotation = format!("config.meshctl.dev/access-log: '{wanted}'");
    let yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{{annotation}}}}}\n");
    mesh.manifests.write("namespace", &yaml).unwrap();
}

async fn in_force(proxy: &Proxy, wanted: &str) {
    let told = async || {
        let page = mesh_integration::harness::http_get(proxy.admin, "/config").await?.body;
        let config: Value = serde_json::from_str(&page)?;
        Ok((config["inbound"]["accessLog"] == wanted).then_some(()))
    };
    eventually("the access log to be as wanted", TEST_WAIT, told).await.unwrap();
}

/// The lines that a sidecar has written so far.
pub(super) fn lines(proxy: &Proxy) -> Vec<Value> {
    let log = proxy.process.log();
    log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many there are of each class and direction.
fn by_class(lines: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut all = BTreeMap::new();
    for line in lines {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        *all.entry((text("mesh.direction"), text("mesh.class"))).or_default() += 1;
    }
    all
}

#[tokio::test]
async fn every_line_is_a_request_that_was_counted() {
    let mesh = Mesh::start().await;
    ["web", "empty"].iter().for_each(|name| mesh.service(name, None));
    let server = mesh.server("web", "web-1", &[]).await;
    let client = mesh.client(&["web.shop:80", "empty.shop:80"]).await;
    mesh.until_ok(&client).await;
    let empty = client.ports[1];
    logged(&mesh, "all");
    for proxy in [&client.proxy, &server.proxy] {
        in_force(proxy, "all").await;
    }
    let count = async |proxy: &Proxy, direction: &str| {
        metric(proxy, "mesh_requests_total", &[&format!("direction=\"{direction}\"")]).await as usize
    };
    let before = (count(&client.proxy, "outbound").await, count(&server.proxy, "inbound").await);
    for path in ["/1k", "/1k", "/64k", "/1k?token=secret"] {
        assert_eq!(get(client.entry(), "web.shop", path).await.unwrap().head.status, 200);
    }
    assert_eq!(get(empty, "empty.shop", "/1k").await.unwrap().head.status, 503);
    for (proxy, direction, before, expected) in [
        (&client.proxy, "outbound", before.0, &[("failure", 1), ("success", 4)][..]),
        (&server.proxy, "inbound", before.1, &[("success", 4)][..]),
    ] {
        let all: usize = expected.iter().map(|(_, count)| count).sum();
        let written = async || Ok((lines(proxy).len() == all).then_some(()));
        eventually("the lines", TEST_WAIT, written).await.unwrap();
        let expected = expected.iter().map(|(class, count)| ((direction.to_owned(), (*class).to_owned()), *count));
        assert_eq!(by_class(&lines(proxy)), expected.collect(), "{:?}", lines(proxy));
        assert_eq!(count(proxy, direction).await, before + all);
    }
    let outbound = lines(&client.proxy);
    let large = outbound.iter().find(|line| line["url.path"] == "/64k").unwrap();
    assert_eq!((&large["mesh.bytes.received"], &large["mesh.attempts"]), (&65_536.into(), &1.into()), "{large}");
    assert_eq!(large["mesh.destination.identity"], "spiffe://cluster.local/ns/shop/sa/web", "{large}");
    assert!(!client.proxy.process.log().contains("secret"));

    // Only what failed from now on, without a restart.
    logged(&mesh, "errors");
    in_force(&client.proxy, "errors").await;
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
    assert_eq!(get(empty, "empty.shop", "/1k").await.unwrap().head.status, 503);
    let written = async || Ok((lines(&client.proxy).len() == outbound.len() + 1).then_some(()));
    eventually("one more line", TEST_WAIT, written).await.unwrap();
    assert_eq!(lines(&client.proxy).last().unwrap()["error.type"], "no-endpoints");
}
