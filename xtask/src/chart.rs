//! What other tools say of the chart: `helm lint`, kubeconform against the schemas of Kubernetes, kube-score.
//!
//! That meshctl renders the same as Helm is a test of meshctl's (`cli/src/chart/helm.rs`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{
    cache::CacheEntry,
    step::{root, run, shown},
    tools::{HELM, KUBE_SCORE, KUBECONFORM},
};

/// The Kubernetes whose schemas manifests must match: the one of `cargo xtask cluster`.
const KUBERNETES: &str = crate::cluster::KUBERNETES;
/// Values of the two renderings that are looked at: few objects and all; kube-score wants NetworkPolicies in both.
const SETS: [&str; 2] = ["networkPolicy.enabled=true", "ha=true,namespace.create=true,networkPolicy.enabled=true"];
/// What signs, as far as these tools look: they read no certificate.
const SIGNING: &str = "identity.trustAnchors=PEM,identity.issuer.crt=PEM,identity.issuer.key=PEM";
/// Rules of kube-score that do not hold for us, each with the reason.
const NOT_OURS: [(&str, &str); 5] = [
    ("container-image-pull-policy", "tags are never moved: IfNotPresent starts pods while the registry is away"),
    (
        "container-security-context-user-group-id",
        "4640 is the id that redirection knows; nothing is mounted from the node",
    ),
    (
        "container-ephemeral-storage-request-and-limit",
        "the root is read-only; a limit would count logs, and evict for them",
    ),
    ("container-resources", "no CPU limit: throttling would hold up every certificate and every admission at once"),
    ("deployment-replicas", "one replica is right for a small cluster; the value ha gives two"),
];

/// Runs all three. `false` when they were skipped because there is no Go.
pub fn judge() -> Result<bool> {
    let (Some(helm), Some(kubeconform), Some(kube_score)) = (HELM.build()?, KUBECONFORM.build()?, KUBE_SCORE.build()?)
    else {
        return Ok(false);
    };
    let schemas = schemas()?;
    let folder = root().join("target/chart");
    fs::create_dir_all(&folder)?;
    for (n, set) in SETS.iter().enumerate() {
        let options = ["--namespace", "mesh-system", "--kube-version", KUBERNETES, "--set", SIGNING, "--set", set];
        let chart = root().join("charts/mesh");
        let mut lint = Command::new(&helm);
        lint.args(["lint", "--strict", "--quiet"]).arg(&chart).args(options);
        run(lint)?;

        let mut template = Command::new(&helm);
        template.args(["template", "mesh"]).arg(&chart).args(options);
        let rendered = template.output().with_context(|| format!("cannot start `{}`", shown(&template)))?;
        let said = String::from_utf8_lossy(&rendered.stderr);
        ensure!(rendered.status.success(), "`{}` failed: {said}", shown(&template));
        let manifests = folder.join(format!("{n}.yaml"));
        fs::write(&manifests, &rendered.stdout)?;

        let mut conform = Command::new(&kubeconform);
        let place = schemas.join("{{.ResourceKind}}{{.KindSuffix}}.json");
        conform.args(["-strict", "-summary", "-schema-location"]).arg(place).arg(&manifests);
        run(conform)?;

        let mut score = Command::new(&kube_score);
        score.args(["score", "--exit-one-on-warning", "--output-format", "ci", "--kubernetes-version", "v1.30"]);
        score.args(NOT_OURS.iter().flat_map(|(rule, _)| ["--ignore-test", rule]));
        score.arg(&manifests);
        quietly(score)?;
    }
    Ok(true)
}

/// Runs a command whose long output matters only when it fails.
fn quietly(mut command: Command) -> Result<()> {
    let name = shown(&command);
    let said = command.output().with_context(|| format!("cannot start `{name}`"))?;
    let text = String::from_utf8_lossy(&said.stdout);
    let faults: Vec<_> =
        text.lines().filter(|line| !line.starts_with("[OK]") && !line.starts_with("[SKIPPED]")).collect();
    ensure!(said.status.success(), "`{name}` found:\n{}\n{}", faults.join("\n"), String::from_utf8_lossy(&said.stderr));
    println!("kube-score: {} rules hold", text.lines().filter(|line| line.starts_with("[OK]")).count());
    Ok(())
}

/// JSON schemas, one file a kind, made of the API's own description in the Go module of Kubernetes.
fn schemas() -> Result<PathBuf> {
    let entry = CacheEntry::of("schemas", KUBERNETES, &[])?;
    entry.built(&format!("the schemas of Kubernetes {KUBERNETES} (its Go module is 40 MB)"), |folder| {
        let mut download = Command::new("go");
        download.args(["mod", "download", "-json", &format!("k8s.io/kubernetes@v{KUBERNETES}")]);
        let said = download.output().context("cannot start `go mod download`")?;
        let module: Value = serde_json::from_slice(&said.stdout).context("`go mod download` said no JSON")?;
        let module = module["Dir"].as_str().with_context(|| format!("Kubernetes was not downloaded: {module}"))?;
        let description = fs::read(Path::new(module).join("api/openapi-spec/swagger.json"))?;
        write_schemas(&serde_json::from_slice(&description)?, folder)
    })
}

/// Writes a file for each kind of a description.
fn write_schemas(description: &Value, folder: &Path) -> Result<()> {
    let definitions =
        description["definitions"].as_object().context("the description of the API has no definitions")?;
    for (name, definition) in definitions {
        let Some([kind]) = definition["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice) else {
            continue;
        };
        let text = |key: &str| kind[key].as_str().unwrap_or_default().to_lowercase();
        // As kubeconform asks for them: the first word of the group, and the version.
        let group = text("group").split('.').next().map(|group| group.to_owned()).unwrap_or_default();
        let file = match group.as_str() {
            "" => format!("{}-{}.json", text("kind"), text("version")),
            group => format!("{}-{group}-{}.json", text("kind"), text("version")),
        };
        fs::write(folder.join(file), serde_json::to_vec(&schema(name, definitions))?)?;
    }
    Ok(())
}

/// The schema of a kind: its definition and those that it leads to, each without unknown fields.
fn schema(name: &str, definitions: &Map<String, Value>) -> Value {
    let (mut found, mut next) = (Map::new(), vec![name.to_owned()]);
    let mut seen = BTreeSet::new();
    while let Some(name) = next.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let mut definition = definitions.get(&name).cloned().unwrap_or_default();
        if let Some(Value::Object(map)) = Some(&mut definition) {
            if map.contains_key("properties") {
                map.insert("additionalProperties".into(), false.into());
            }
            // Written as text in the description, and as numbers by people.
            if name.ends_with("IntOrString") || name.ends_with("Quantity") {
                map.insert("type".into(), json!(["string", "number"]));
                map.remove("format");
            }
        }
        references(&definition, &mut next);
        found.insert(name, definition);
    }
    json!({"$ref": format!("#/definitions/{name}"), "definitions": found})
}

/// Collects the names that a definition refers to.
fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            names.extend(reference.and_then(|text| text.strip_prefix("#/definitions/")).map(str::to_owned));
            map.values().for_each(|value| references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_holds_what_it_leads_to_and_no_more() {
        let definitions = json!({
            "A": {"properties": {"b": {"$ref": "#/definitions/B"}, "n": {"$ref": "#/definitions/IntOrString"}}},
            "B": {"properties": {"again": {"items": {"$ref": "#/definitions/A"}}}},
            "C": {"properties": {}},
            "IntOrString": {"type": "string", "format": "int-or-string"},
        });
        let Value::Object(definitions) = definitions else { return };
        let schema = schema("A", &definitions);
        assert_eq!(schema["$ref"], "#/definitions/A");
        let names: Vec<_> =
            schema["definitions"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
        assert_eq!(names, ["A", "B", "IntOrString"]);
        assert_eq!(schema["definitions"]["A"]["additionalProperties"], false);
        assert_eq!(schema["definitions"]["IntOrString"], json!({"type": ["string", "number"]}));
    }
}
