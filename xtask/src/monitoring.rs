//! `cargo xtask monitoring`: dashboards for Grafana and alert rules for Prometheus, written to docs/monitoring.
//!
//! They are values of this program rather than files that somebody edits, so that a test holds every metric in them to those that
//! the programs have, and the files to what is written here.

mod alerts;
mod dashboards;

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::step::root;

/// Where the files are.
const FOLDER: &str = "docs/monitoring";

/// Writes the files.
pub fn run_monitoring() -> Result<()> {
    for (name, text) in files() {
        let path = root().join(FOLDER).join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", Path::new(FOLDER).join(name).display());
    }
    Ok(())
}

/// The files by name.
fn files() -> [(&'static str, String); 3] {
    [
        ("alerts.yaml", alerts::rules()),
        ("overview.json", dashboards::text(&dashboards::overview())),
        ("workload.json", dashboards::text(&dashboards::workload())),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;

    use super::*;

    /// Every metric that a text names, without what a histogram adds.
    fn named(text: &str) -> BTreeSet<String> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let words = text.split(|c: char| !is_name(c)).filter(|word| word.starts_with("mesh_"));
        words.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
    }

    /// The source of the programs' metrics.
    fn sources() -> String {
        let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
        ["proxy/src/metrics/catalogue.rs", "controller/src/metrics.rs", "injector/src/metrics.rs"].map(read).concat()
    }

    #[test]
    fn the_files_are_what_is_written_here() {
        for (name, text) in files() {
            let found = fs::read_to_string(root().join(FOLDER).join(name)).unwrap_or_default();
            assert!(found == text, "{FOLDER}/{name} is not what it must be: cargo xtask monitoring");
        }
    }

    #[test]
    fn every_metric_exists() {
        let sources = sources();
        for (name, text) in files() {
            let metrics = named(&text);
            assert!(metrics.len() >= 2, "{name}: {metrics:?}");
            for metric in metrics {
                assert!(sources.contains(&format!("\"{metric}\"")), "{name} has {metric}, which no program has");
            }
        }
    }

    #[test]
    fn every_alert_has_its_part_of_the_page() {
        let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
        for name in alerts::names() {
            assert!(page.contains(&format!("`{name}`")), "docs/monitoring.md lacks {name}");
        }
    }
}
