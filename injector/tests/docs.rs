//! docs/injection.md says what the code does: every annotation, in its words, and every reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_injector::{annotations::ANNOTATIONS, skip::Skip};
use mesh_policy::well_known::CONFIG_PREFIX;

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/injection.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_annotation_is_a_row_and_every_row_an_annotation() {
    let expected: Vec<String> =
        ANNOTATIONS.iter().map(|a| format!("| `{}` | {} | {} |", a.name, a.allowed, a.purpose)).collect();
    let page = page();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(&format!("| `{CONFIG_PREFIX}"))).collect();
    assert_eq!(rows, expected, "the table should be:\n{}", expected.join("\n"));
}

#[test]
fn every_reason_is_a_row() {
    let page = page();
    for skip in [
        Skip::Namespace(String::new()),
        Skip::OptedOut,
        Skip::HostNetwork,
        Skip::Windows,
        Skip::StaticPod,
        Skip::OtherMesh { mesh: "Istio", evidence: String::new() },
        Skip::AlreadyInjected,
        Skip::OtherVersion(String::new()),
        Skip::Nameless,
    ] {
        assert!(page.contains(&format!("\n| `{}` |", skip.slug())), "{skip:?}");
    }
}
