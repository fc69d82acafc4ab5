//! Routes whose patterns are many and large: what they cost the sidecars of those who call their Service, and the controller.

use mesh_integration::harness::{eventually, usage};

use crate::support::{H1, Mesh, TEST_WAIT, metric};

/// Most that the sidecar of another namespace may grow by, in KiB.
const MAX_GROWTH: u64 = 16 * 1024;
/// Most that the controller may take, in KiB.
const MAX_CONTROLLER: u64 = 256 * 1024;

/// A Service of another namespace, and an HTTPRoute with 128 matches of 32 patterns each; about 300 KB.
fn tenants(n: usize) -> String {
    let list = |kind: char, matched: usize| -> String {
        let entry = |e: usize| {
            format!("{{type: RegularExpression, name: {kind}{e}, value: '{n}{matched}{kind}{e}[a-z0-9]{{700}}'}}")
        };
        (0..16).map(entry).collect::<Vec<_>>().join(", ")
    };
    let matched = |m: usize| {
        format!(
            "{{path: {{type: PathPrefix, value: /{m}}}, headers: [{}], queryParams: [{}]}}",
            list('h', m),
            list('q', m)
        )
    };
    let rule = |r: usize| {
        let matches = (0..64).map(|m| matched(64 * r + m)).collect::<Vec<_>>().join(", ");
        format!("  - matches: [{matches}]\n    backendRefs: [{{name: free-{n}, port: 80}}]\n")
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: free-{n}, namespace: tenant}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{n}, namespace: tenant}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: free-{n}}}]\n  rules:\n{}{}  \
         - matches: [{{path: {{type: PathPrefix, value: /plain}}}}]\n    backendRefs: [{{name: free-{n}, port: 80, weight: 0}}]\n",
        rule(0),
        rule(1)
    )
}

#[tokio::test]
async fn thousands_of_patterns_cost_their_callers_and_the_controller_little() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let _web = mesh.server("web", "web-0", &[]).await;
    let names: Vec<String> = (0..10).map(|n| format!("free-{n}.tenant:80")).collect();
    let mut destinations = vec!["web.shop:80"];
    destinations.extend(names.iter().map(String::as_str));
    let client = mesh.client(&destinations).await;
    mesh.until_ok(&client).await;
    let before = usage(client.proxy.process.pid()).unwrap().rss_kib;
    for n in 0..10 {
        mesh.manifests.write(&format!("tenant-{n}"), &tenants(n)).unwrap();
    }
    for port in &client.ports[1..] {
        // The rule that has no pattern goes on: its backend has no weight, which is answered 500.
        let served = async || {
            let mut connection = H1::connect(*port).await?;
            let answer = connection.ask("GET /plain HTTP/1.1\r\nhost: free.tenant\r\n\r\n".to_owned()).await?;
            Ok((answer.head.status == 500).then_some(()))
        };
        eventually("the route that is beside the patterns", TEST_WAIT, served).await.unwrap();
        // And what the patterns were to guard is open to nobody.
        let mut connection = H1::connect(*port).await.unwrap();
        let answer = connection.ask("GET /1 HTTP/1.1\r\nhost: free.tenant\r\n\r\n".to_owned()).await.unwrap();
        assert_eq!(answer.head.status, 404);
    }
    let after = usage(client.proxy.process.pid()).unwrap().rss_kib;
    let controller = usage(mesh.controller.process.pid()).unwrap().rss_kib;
    println!("the sidecar grew by {} KiB, the controller has {controller} KiB", after.saturating_sub(before));
    assert!(after.saturating_sub(before) < MAX_GROWTH, "{before} -> {after} KiB");
    assert!(controller < MAX_CONTROLLER, "{controller} KiB");
    assert_eq!(
        metric(&client.proxy, "mesh_control_rejected_total", &[]).await,
        0.0,
        "the controller sends no more than is taken"
    );
    mesh.until_ok(&client).await;
}
