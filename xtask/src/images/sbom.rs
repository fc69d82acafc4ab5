//! What is in a binary: its crates as a CycloneDX 1.6 list.
//!
//! `cargo tree` says which crates are linked in (with this package's own features; neither macros nor what only builds),
//! `cargo metadata` what they are, and Cargo.lock their checksums.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::build::Target;
use crate::step::{cargo, root, shown};

/// A list.
pub struct Sbom {
    /// The document.
    pub json: Vec<u8>,
    /// Crates in it.
    pub components: usize,
}

/// Name and version.
type Crate = (String, String);

/// The list of `package`, whose image is `name`.
pub fn sbom(package: &str, name: &str, target: &Target) -> Result<Sbom> {
    let tree = ["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let linked = linked(&output(cargo(tree.into_iter().chain(["--package", package, "--target", target.triple])))?);
    let metadata = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target.triple];
    let metadata: Value = serde_json::from_str(&output(cargo(metadata))?).context("cargo metadata gave no JSON")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    document(name, &linked, &metadata, &checksums(&lock))
}

fn output(mut command: Command) -> Result<String> {
    let said = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "`{}` ended with {}: {}", shown(&command), said.status, error.trim());
    Ok(String::from_utf8(said.stdout)?)
}

/// From lines such as `tokio v1.54.1` and `mesh-proto v0.1.0 (PATH) (*)`.
fn linked(tree: &str) -> BTreeSet<Crate> {
    let parse = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
    };
    tree.lines().filter_map(parse).collect()
}

/// From the `[[package]]` tables of Cargo.lock; our own crates have none.
fn checksums(lock: &str) -> HashMap<Crate, String> {
    let table = |text: &str| {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            value.and_then(|value| value.strip_suffix('"')).map(str::to_owned)
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    };
    lock.split("[[package]]").filter_map(table).collect()
}

fn document(
    name: &str,
    linked: &BTreeSet<Crate>,
    metadata: &Value,
    checksums: &HashMap<Crate, String>,
) -> Result<Sbom> {
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let text = |package: &Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let described: HashMap<Crate, &Value> =
        packages.iter().map(|package| ((text(package, "name"), text(package, "version")), package)).collect();
    let mut components = Vec::new();
    for key in linked {
        let package =
            described.get(key).with_context(|| format!("cargo metadata does not know {} {}", key.0, key.1))?;
        let purl = format!("pkg:cargo/{}@{}", key.0, key.1);
        let mut component =
            json!({ "type": "library", "name": key.0, "version": key.1, "bom-ref": purl, "purl": purl });
        if let Some(licence) = package["license"].as_str() {
            // Cargo once wrote `A/B` for what SPDX writes `A OR B`.
            component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
        }
        if let Some(checksum) = checksums.get(key) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        components.push(component);
    }
    let count = components.len();
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": name, "version": env!("CARGO_PKG_VERSION") } },
        "components": components,
    });
    Ok(Sbom { json: serde_json::to_vec(&list)?, components: count })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(name: &str, version: &str) -> Crate {
        (name.into(), version.into())
    }

    #[test]
    fn exactly_what_is_linked_with_licence_and_checksum() {
        let tree = "mesh-proxy v0.1.0 (/mesh/proxy)\ntokio v1.54.1\nbytes v1.12.2\ntokio v1.54.1 (*)\n";
        let lock = "version = 4\n\n[[package]]\nname = \"bytes\"\nversion = \"1.12.2\"\nsource = \"registry\"\n\
                    checksum = \"beef\"\n\n[[package]]\nname = \"mesh-proxy\"\nversion = \"0.1.0\"\n";
        let package =
            |name: &str, version: &str, licence: &str| json!({ "name": name, "version": version, "license": licence });
        let metadata = json!({ "packages": [
            package("mesh-proxy", "0.1.0", "Apache-2.0"),
            package("tokio", "1.54.1", "MIT"),
            package("bytes", "1.12.2", "MIT/Apache-2.0"),
            package("bytes", "0.5.0", "MIT"),
        ]});
        assert_eq!(checksums(lock), HashMap::from([(key("bytes", "1.12.2"), "beef".to_owned())]));
        let list = document("mesh-proxy", &linked(tree), &metadata, &checksums(lock)).unwrap();
        assert_eq!(list.components, 3);
        let json: Value = serde_json::from_slice(&list.json).unwrap();
        assert_eq!(
            json["components"][0],
            json!({
                "type": "library", "name": "bytes", "version": "1.12.2",
                "bom-ref": "pkg:cargo/bytes@1.12.2", "purl": "pkg:cargo/bytes@1.12.2",
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": "beef" }],
            })
        );
        let unknown = BTreeSet::from([key("ghost", "1.0.0")]);
        assert!(document("x", &unknown, &metadata, &HashMap::new()).is_err());
    }
}
