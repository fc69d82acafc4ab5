//! What is generated from the values and kept in the repository: `values.schema.json` and the table in
//! docs/install.md. The tests here compare, and write anew with `MESH_WRITE=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{env, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{files, values, values::Values};
use crate::yaml;

/// A line of values.yaml that has a value, with the comment above it.
struct DocumentedValue {
    path: String,
    comment: String,
}

/// Every value with its comment, in the order of the file. A map of defaults (resources) is one value.
fn documented_values() -> Vec<DocumentedValue> {
    let (mut found, mut parents, mut comment) = (Vec::new(), Vec::<(usize, String)>::new(), Vec::new());
    for line in files::VALUES.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.is_empty() {
            comment.clear();
        } else if let Some(more) = text.strip_prefix('#') {
            comment.push(more.trim());
        } else if let Some((name, rest)) = text.split_once(':') {
            parents.retain(|(of, _)| *of < indent);
            let path: Vec<_> = parents.iter().map(|(_, name)| name.as_str()).chain([name]).collect();
            found.push(DocumentedValue { path: path.join("."), comment: comment.join(" ") });
            if rest.trim().is_empty() {
                parents.push((indent, name.to_owned()));
            }
            comment.clear();
        }
    }
    // Amounts and node labels are parts of a value that is one.
    found.retain(|entry: &DocumentedValue| {
        !entry.path.contains(".resources.") && !entry.path.starts_with("nodeSelector.")
    });
    found
}

fn at<'v>(values: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(values, |value, name| value.get(name))
}

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares a file with what it must be, or writes it.
fn compare(path: &str, expected: &str) {
    let file = repository(path);
    if env::var("MESH_WRITE").is_ok_and(|write| write == "1") {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap();
    assert!(
        found == expected,
        "{path} is not what the values are: MESH_WRITE=1 cargo test -p meshctl chart::documents"
    );
}

#[test]
fn defaults_are_valid_and_every_value_has_a_comment() {
    let defaults = values::defaults().unwrap();
    let read = Values::read(&defaults).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), defaults, "values.yaml has every value, and no other");
    for entry in documented_values() {
        let value = at(&defaults, &entry.path).unwrap_or_else(|| panic!("{} was read wrongly", entry.path));
        assert!(value.is_object() || !entry.comment.is_empty(), "{} has no comment", entry.path);
    }
}

#[test]
fn the_schema_is_that_of_the_types() {
    let mut schema = schemars::schema_for!(Values).to_value();
    schema["title"] = "Values of the chart mesh".into();
    let descriptions: Vec<_> = documented_values().into_iter().filter(|entry| !entry.comment.is_empty()).collect();
    for entry in descriptions {
        describe(&mut schema, &entry.path, &entry.comment);
    }
    let mut text = serde_json::to_string_pretty(&schema).unwrap();
    text.push('\n');
    compare("charts/mesh/values.schema.json", &text);
}

/// Puts the comment of a value into the schema, where the value has a place of its own.
fn describe(schema: &mut Value, path: &str, comment: &str) {
    let mut place = String::new();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        place = format!("{place}/properties/{name}");
        if names.peek().is_some() {
            let reference = schema.pointer(&place).and_then(|found| found.get("$ref")).and_then(Value::as_str);
            let Some(reference) = reference.map(|reference| reference.trim_start_matches('#').to_owned()) else {
                return;
            };
            // Components share a type: the comment of one is not that of the other.
            if ["/$defs/Component", "/$defs/Resources"].contains(&&*reference) {
                return;
            }
            place = reference;
        }
    }
    if let Some(Value::Object(found)) = schema.pointer_mut(&place) {
        found.insert("description".into(), comment.into());
    }
}

#[test]
fn the_table_of_the_documentation_has_every_value() {
    let defaults = values::defaults().unwrap();
    let mut table = String::from("| Value | Default | Meaning |\n|---|---|---|\n");
    for entry in documented_values() {
        let value = at(&defaults, &entry.path).unwrap();
        let resources = entry.path.ends_with("resources") || entry.path == "nodeSelector";
        if value.as_object().is_some_and(|map| !map.is_empty()) && !resources {
            continue;
        }
        let default = if value.is_object() { value.to_string() } else { yaml::write(value) };
        table.push_str(&format!("| `{}` | `{default}` | {} |\n", entry.path, entry.comment));
    }
    let page = fs::read_to_string(repository("docs/install.md")).unwrap();
    let (before, rest) = page.split_once("<!-- values -->\n").expect("the page says where the table is");
    let (_, after) = rest.split_once("<!-- /values -->").expect("and where it ends");
    compare("docs/install.md", &format!("{before}<!-- values -->\n{table}<!-- /values -->{after}"));
}

#[test]
fn what_is_rendered_is_what_the_injector_reads() {
    use super::{identity, render};
    let mut given = identity::make("corp.example").unwrap().material.values();
    values::merge(
        &mut given,
        json!({
            "trustDomain": "corp.example", "ha": true, "preStopSeconds": 7, "preStopSleep": false,
            "image": {"registry": "r.example/m", "tag": "9.9.9", "pullPolicy": "Always"},
            "proxy": {"opaquePorts": [25, "3306-3310"], "workers": 4, "nativeSidecar": false, "resources": {"limits": {"cpu": 2}}},
            "init": {"enabled": false},
        }),
    );
    let manifests = render(given).unwrap();
    let is = |object: &Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "mesh-injector";
    let found = manifests.iter().find(|manifest| is(&manifest.object)).unwrap();
    let config =
        mesh_injector::config::Config::from_yaml(found.object["data"]["config.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(config.trust_domain, "corp.example");
    assert_eq!(config.proxy.image, "r.example/m/mesh-proxy:9.9.9");
    assert_eq!(config.proxy.image_pull_policy, "Always");
    assert_eq!(config.proxy.opaque_ports.to_string(), "25,3306-3310");
    assert_eq!((config.proxy.workers, config.proxy.native_sidecar, config.init.enabled), (4, false, false));
    assert_eq!((config.pre_stop_seconds, config.pre_stop_sleep), (7, false));
    assert_eq!(config.proxy.resources.limits["cpu"].as_str(), "2");
}

#[test]
fn the_defaults_of_the_chart_are_those_of_the_injector() {
    use super::{identity, render};
    let manifests = render(identity::make("cluster.local").unwrap().material.values()).unwrap();
    let is = |object: &Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "mesh-injector";
    let found = manifests.iter().find(|manifest| is(&manifest.object)).unwrap();
    let config =
        mesh_injector::config::Config::from_yaml(found.object["data"]["config.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(config, mesh_injector::config::Config::default());
}
