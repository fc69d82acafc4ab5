//! The chart and the documentation spell the names of `mesh_policy::well_known` as the code does, and know no others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use mesh_policy::well_known::{CONFIG_PREFIX, CONTROL_NAMESPACE, IDENTITY_ADDRESS, IDENTITY_PORT, MESH_IDENTITY};

use super::{identity, render};

/// The module's own text: a constant that is added there is looked for here.
const MODULE: &str = include_str!("../../../policy/src/well_known.rs");
/// What no object of an installation says, for pods or flags say it. No annotation is there either. (The outbound port is, for it
/// is the number of the user too.)
const NOT_IN_CHART: [&str; 8] = [
    "INBOUND_PORT",
    "ADMIN_PORT",
    "METRICS_PORT",
    "INIT_CONTAINER",
    "VERSION_LABEL",
    "PROBE_PATH",
    "CONFIG_PREFIX",
    "IDENTITY_ADDRESS",
];

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The constants: what each is called, and what it is.
fn constants() -> Vec<(&'static str, &'static str)> {
    let constant = |line: &'static str| {
        let (name, value) = line.strip_prefix("pub const ")?.strip_suffix(';')?.split_once(" = ")?;
        Some((name.split_once(':')?.0, value.trim_matches('"')))
    };
    MODULE.lines().filter_map(constant).collect()
}

/// The texts below a folder, or of a file, with the name of each.
fn texts(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| texts(&entry.unwrap().path())).collect();
    }
    fs::read_to_string(path).map(|text| (path.to_owned(), text)).into_iter().collect()
}

/// Whether a text has a name by itself, and not as a part of a longer one.
fn has(text: &str, name: &str) -> bool {
    let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-');
    text.match_indices(name).any(|(at, _)| {
        let (before, behind) = (text[..at].chars().next_back(), text[at + name.len()..].chars().next());
        !goes_on(before) && (name.ends_with('/') || !goes_on(behind))
    })
}

#[test]
fn every_name_is_in_the_chart_and_in_the_documentation() {
    let manifests = render(identity::make("cluster.local").unwrap().material.values()).unwrap();
    let chart: String = manifests.iter().map(|manifest| manifest.text.as_str()).collect();
    let docs: String = texts(&root("docs")).into_iter().map(|(_, text)| text).collect();
    let constants = constants();
    assert!(constants.len() > 40, "{constants:?}");
    let mut missing = Vec::new();
    for (constant, name) in &constants {
        let in_chart = !NOT_IN_CHART.contains(constant) && !constant.ends_with("_ANNOTATION");
        if has(&chart, name) != in_chart {
            missing.push(format!("{constant} ({name}): in the chart: {}, expected: {in_chart}", !in_chart));
        }
        if !has(&docs, name) && *name != IDENTITY_ADDRESS {
            missing.push(format!("{constant} ({name}) is on no page of docs/"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn nothing_has_a_name_that_the_module_does_not_have() {
    let constants = constants();
    let is_known = |name: &str| constants.iter().any(|(_, known)| *known == name);
    let parts =
        ["policy", "resources", "proto", "proxy", "credentials", "controller", "injector", "cli", "integration"];
    let sources = parts.iter().map(|part| format!("{part}/src"));
    let ours = CONFIG_PREFIX.trim_start_matches("config.");
    let all = ["charts", "docs", "README.md"].into_iter().map(str::to_owned).chain(sources);
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "./-_".contains(c);
    for (path, text) in all.flat_map(|path| texts(&root(&path))) {
        for word in text.split(|c| !is_of_name(c)) {
            if word.starts_with(ours) || word.starts_with(CONFIG_PREFIX) {
                // A sentence ends with a dot, and kubectl takes a label off with a dash behind it.
                let name = word.trim_end_matches(['.', '-']);
                assert!(is_known(name), "{}: {word} is no name of well_known", path.display());
            }
        }
    }
}

#[test]
fn an_address_is_made_of_its_names() {
    assert_eq!(IDENTITY_ADDRESS, format!("{MESH_IDENTITY}.{CONTROL_NAMESPACE}.svc:{IDENTITY_PORT}"));
}
