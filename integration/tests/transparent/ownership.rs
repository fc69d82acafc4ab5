//! Connections to addresses: whoever has one decides how it is called, whatever slices say and whenever it is known.

use std::time::Duration;

use mesh_integration::harness::{eventually, http_get};

use crate::{
    mesh::{Mesh, Meshed, NAMESPACE, PATIENCE, answered, get},
    net::Pod,
};

const PLAIN: [&str; 2] = ["direction=\"inbound\"", "tls=\"none\""];

/// A Service with a cluster address, and its slice on port 8080 of an address.
fn service(namespace: &str, name: &str, cluster_ip: &str, pod: &Pod, target_ref: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{clusterIP: {cluster_ip}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{}], conditions: {{ready: true}}{target_ref}}}]\n",
        pod.v4
    )
}

/// What the sidecar of a pod believes of a target.
async fn believed(client: &Meshed, target: &str) -> serde_json::Value {
    let page = client.pod.block_on(|| http_get(([127, 0, 0, 1], 4691).into(), "/config")).unwrap().body;
    let config: serde_json::Value = serde_json::from_str(&page).unwrap();
    let targets = config["outbound"].as_array().cloned().unwrap_or_default();
    targets.iter().find(|it| it["target"] == target).map_or_else(Default::default, |it| it["policy"]["target"].clone())
}

async fn until_believed(client: &Meshed, target: &str, what: &str) {
    let is_it = async || Ok(believed(client, target).await.get(what).is_some().then_some(()));
    eventually(&format!("{target} to be {what}"), PATIENCE, is_it).await.unwrap();
}

#[tokio::test]
async fn slices_without_a_pod_or_of_another_namespace_take_no_identity_away() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let client = mesh.meshed("client", &[]).await;
    let _app = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    let manual = service(NAMESPACE, "manual", "10.96.0.11", &web.pod, "");
    mesh.manifests().write("manual", &manual).unwrap();
    let evil = service("evil", "x", "10.96.0.12", &web.pod, ", targetRef: {kind: Pod, name: x}");
    let nobody = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: evil}\nstatus: {phase: Pending}\n";
    mesh.manifests().write("evil", &format!("{nobody}---\n{evil}")).unwrap();
    mesh.service(&web.pod, "web").await;

    assert_eq!(answered(&get(&client.pod, "10.96.0.11:80")), "web", "the pod has the address, whatever the slice says");
    let evil = get(&client.pod, "10.96.0.12:80").unwrap();
    assert_eq!(evil.status, 503, "a claim that is wrong is no endpoint: {evil:?}");
    assert_eq!(answered(&get(&client.pod, web.pod.at(8080))), "web", "the owner's address stays the owner's");
    assert!(web.metric("mesh_requests_total", &PLAIN).await < 0.5, "nothing came in plain text");
}

#[tokio::test]
async fn an_address_that_gets_an_owner_is_never_plain_again() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let (pod, outside) = (mesh.net.pod(), mesh.net.pod());
    let _app = mesh.app(&pod, "web", "[::]:8080", &[]).await;
    assert_eq!(answered(&get(&client.pod, pod.at(8080))), "web", "nobody of the mesh yet");
    let target = pod.at(8080).to_string();
    until_believed(&client, &target, "outside").await;

    let web = mesh.meshed_at(pod, "web", &[]).await;
    // The client calls nobody meanwhile: the question stands.
    until_believed(&client, &target, "endpoint").await;
    // What an unmeshed pod calls, its sidecar knows without the controller.
    assert_eq!(answered(&get(&outside, web.pod.at(8080))), "web");
    let plain = web.metric("mesh_requests_total", &PLAIN).await;
    mesh.without_controller().await;
    for _ in 0..3 {
        assert_eq!(answered(&get(&client.pod, web.pod.at(8080))), "web");
    }
    let more = web.metric("mesh_requests_total", &PLAIN).await - plain;
    assert!(more < 0.5, "{more} of the client's came in plain text");
    // A request is counted when its response has ended, a moment after the client has it.
    let counted = async || {
        let requests = web.metric("mesh_requests_total", &["direction=\"inbound\"", "sa/client"]).await;
        Ok((requests > 2.5).then_some(()))
    };
    eventually("the client's requests to be counted with its identity", PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn in_the_networks_of_pods_nobody_is_called_before_it_is_known_who_it_is() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let pod = mesh.net.pod();
    let network = format!("{}/24", pod.v4);
    let node = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nspec: {{podCIDRs: [\"{network}\"]}}\n");
    mesh.manifests().write("node", &node).unwrap();
    let _app = mesh.app(&pod, "app", "[::]:8080", &[]).await;
    let target = pod.at(8080).to_string();
    let refused = async || {
        let answer = get(&client.pod, pod.at(8080))?;
        Ok((answer.status == 503 && answer.head.contains("unknown-address")).then_some(()))
    };
    eventually("an address of the network to be refused", PATIENCE, refused).await.unwrap();
    assert!(believed(&client, &target).await.get("unknown").is_some());
    assert_eq!(answered(&get(&client.pod, pod.at6(8080))), "app", "another network is outside");

    let known = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app, namespace: {NAMESPACE}}}\nstatus: {{phase: Running, podIP: {}}}\n",
        pod.v4
    );
    mesh.manifests().write("pod-app", &known).unwrap();
    until_believed(&client, &target, "endpoint").await;
    assert_eq!(answered(&get(&client.pod, pod.at(8080))), "app", "it is known, and has no sidecar");
    // Its Pod is gone: so is whoever had the address.
    mesh.manifests().remove("pod-app").unwrap();
    until_believed(&client, &target, "unknown").await;
    mesh.without_controller().await;
    let began = std::time::Instant::now();
    assert_eq!(get(&client.pod, pod.at(8080)).unwrap().status, 503, "also while the controller is away");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
