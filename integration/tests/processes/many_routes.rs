//! A thousand routes on one Service: what one change costs.

use std::time::Duration;

use crate::support::{H1, Mesh, TEST_WAIT, metric};
use mesh_integration::harness::{eventually, http_get, series};
use tokio::time::Instant;

/// An HTTPRoute of the Service `web` for one path.
fn route(n: usize, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{n}, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  \
         - matches: [{{path: {{type: PathPrefix, value: /part-{n}}}}}]\n    backendRefs: [{{name: {backend}, port: 80}}]\n"
    )
}

/// Bytes that the controller sent as outbound policies.
async fn sent(mesh: &Mesh) -> f64 {
    let page = http_get(mesh.controller.addresses.metrics, "/metrics").await.unwrap().body;
    series(&page, "mesh_controller_policy_bytes_total", &["kind=\"outbound\""]).sum()
}

#[tokio::test]
async fn one_changed_rule_is_sent_alone_and_soon_in_force() {
    const EDITS: usize = 50;
    let mesh = Mesh::start().await;
    for service in ["web", "web-v1", "web-v2"] {
        mesh.service(service, None);
    }
    let _v1 = mesh.server("web-v1", "v1-1", &[]).await;
    let _v2 = mesh.server("web-v2", "v2-1", &[]).await;
    let others: Vec<String> = (0..999).map(|n| route(n, "web-v1")).collect();
    mesh.manifests.write("others", &others.join("---\n")).unwrap();
    mesh.manifests.write("route", &route(999, "web-v1")).unwrap();
    let client = mesh.client(&["web.shop:80", "web-v1.shop:80", "web-v2.shop:80"]).await;
    mesh.until_endpoints("shop/web-v1:80", client.ports[1], &client, 1).await;
    mesh.until_endpoints("shop/web-v2:80", client.ports[2], &client, 1).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let mut served_by = async |n: usize| {
        let answer = connection.ask(format!("GET /part-{n} HTTP/1.1\r\nhost: web.shop\r\n\r\n")).await.unwrap();
        answer.head.get("x-version").map(str::to_owned)
    };
    let settled = async || {
        let both = [served_by(0).await, served_by(999).await];
        Ok((both == [Some("v1-1".to_owned()), Some("v1-1".to_owned())]).then_some(()))
    };
    eventually("all routes to be in force", TEST_WAIT, settled).await.unwrap();
    let config = http_get(client.proxy.admin, "/config").await.unwrap().body;
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let held = config["outbound"].as_array().unwrap().iter().find(|o| o["target"] == "web.shop:80").unwrap();
    assert_eq!(held["policy"]["routes"].as_array().unwrap().len(), 1_000);

    let before = sent(&mesh).await;
    let mut took: Vec<Duration> = Vec::new();
    for edit in 0..EDITS {
        let (backend, pod) = if edit % 2 == 0 { ("web-v2", "v2-1") } else { ("web-v1", "v1-1") };
        let edited = Instant::now();
        mesh.manifests.write("route", &route(999, backend)).unwrap();
        while served_by(999).await.as_deref() != Some(pod) {
            assert!(edited.elapsed() < TEST_WAIT, "edit {edit} is not in force");
        }
        took.push(edited.elapsed());
    }
    took.sort();
    let each = (sent(&mesh).await - before) / EDITS as f64;
    println!(
        "in force after {:?} (median), {:?} (the slowest of {EDITS}); {each:.0} bytes an edit",
        took[EDITS / 2],
        took[EDITS - 1]
    );
    // A whole policy of so many routes has more than 50 bytes for each.
    assert!(each < 1_000.0, "{each} bytes an edit");
    assert_eq!(metric(&client.proxy, "mesh_control_rejected_total", &[]).await, 0.0);
}
