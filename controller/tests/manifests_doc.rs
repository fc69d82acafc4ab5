//! The examples of docs/manifests.md are good manifests, and its example of `/problems` is what the controller says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, sync::Arc};

use mesh_controller::{Index, Metrics};
use mesh_resources::{Options, Snapshot, parse_manifests};

fn blocks(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifests.md");
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_example_is_taken_without_a_problem() {
    let text = blocks("yaml").join("---\n");
    let objects = parse_manifests(&text, "manifests.md").unwrap();
    let (snapshot, problems) =
        Snapshot::from_objects(&objects, Options { meshed_by_label: true, ..Options::default() });
    assert!(problems.is_empty(), "{problems:?}");
    let counts = [
        snapshot.services.len(),
        snapshot.pods.len(),
        snapshot.endpoint_slices.len(),
        snapshot.http_routes.len(),
        snapshot.grpc_routes.len(),
        snapshot.reference_grants.len(),
    ];
    assert_eq!(counts, [2, 1, 1, 1, 1, 1]);
    assert!(snapshot.pods.values().all(mesh_resources::Pod::is_meshed));
    assert!(snapshot.endpoint_slices.values().all(|slice| slice.endpoints.len() == 1));
}

#[test]
fn the_example_of_a_problem_is_what_is_said() {
    let (mut index, rx) = Index::new(Options::default(), Metrics::new());
    let file: Arc<str> = "20-route.yaml".into();
    let all = blocks("yaml").join("---\n");
    let (name, route) =
        ("world.yaml".into(), blocks("yaml").into_iter().find(|b| b.contains("kind: HTTPRoute\nm")).unwrap());
    index.apply(&name, parse_manifests(&all.replace(&route, ""), "world.yaml").unwrap());
    index.apply(&file, parse_manifests(&route, &file).unwrap());
    index.publish();
    assert!(rx.borrow().problems.is_empty(), "{:?}", rx.borrow().problems);
    index.apply(&file, parse_manifests(&route.replace("weight: 10", "weight: -5"), &file).unwrap());
    index.publish();
    let said = serde_json::to_value(&rx.borrow().problems[..]).unwrap();
    let console = blocks("console").remove(0);
    let shown: serde_json::Value = serde_json::from_str(console.split_once('\n').unwrap().1).unwrap();
    assert_eq!(said, shown);
}
