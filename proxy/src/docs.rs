//! The pages for users name everything that the code has: a reason, a metric or a knob without a line in docs/ fails.

#![allow(clippy::panic)]

use std::{fs, path::Path};

use crate::{error::Reason, metrics::CATALOGUE};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()))
}

#[test]
fn every_reason_is_explained() {
    let page = read("docs/errors.md");
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} | {} |", reason.as_str(), reason.status().as_u16(), reason.grpc_status());
        assert!(page.contains(&row), "docs/errors.md has no row {row}");
        assert!(page.contains(reason.hint()), "docs/errors.md has not the hint of {}", reason.as_str());
    }
}

#[test]
fn every_metric_is_explained() {
    let page = read("docs/metrics.md");
    for (name, help) in CATALOGUE {
        assert!(page.contains(&format!("| `{name}` |")) && page.contains(help), "docs/metrics.md lacks {name}: {help}");
    }
}

#[test]
fn every_knob_is_explained() {
    let page = read("docs/configuration.md");
    for (file, at_least) in [
        ("proxy/src/config.rs", 15),
        ("proxy/src/config/limits.rs", 20),
        ("proxy/src/config/probes.rs", 1),
        ("proxy/src/init/config.rs", 6),
        ("proxy/src/gate.rs", 1),
    ] {
        let source = read(file);
        let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((&source, ""));
        let names: Vec<&str> =
            code.split('"').filter(|text| text.starts_with("MESH_") && !text.contains(['=', ' '])).collect();
        assert!(names.len() >= at_least, "the knobs were not found in {file}");
        for name in names {
            assert!(page.contains(&format!("| `{name}` |")), "docs/configuration.md lacks {name}");
        }
    }
}

#[test]
fn every_limit_is_in_the_table() {
    let page = read("docs/limits.md");
    let source = read("proxy/src/config/limits.rs");
    let names: Vec<&str> = source.split('"').filter(|text| text.starts_with("MESH_")).collect();
    assert!(names.len() >= 20, "the knobs were not found");
    // These are no bounds of what anyone sends.
    let no_bounds = ["MESH_SHUTDOWN_GRACE", "MESH_EWMA_DECAY", "MESH_FAILURE_PENALTY"];
    for name in names.iter().filter(|name| !no_bounds.contains(name)) {
        assert!(page.contains(&format!("`{name}`")), "docs/limits.md lacks {name}");
    }
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| What")) {
        assert_eq!(row.matches(" |").count(), 6, "six columns: {row}");
    }
}
