//! How manifests are printed: as YAML documents or one JSON list, for `kubectl apply -f -`, and only where they are
//! asked for.

use std::io::IsTerminal;

use anyhow::bail;
use serde_json::{Value, json};

use super::Manifest;
use crate::{
    output::{self, Format},
    yaml,
};

/// What `-o` takes where manifests are printed.
pub(crate) const FORMATS: [(Format, &str); 2] =
    [(Format::Yaml, "YAML documents"), (Format::Json, "One JSON object, a List")];

/// Refuses to print a private key to a terminal unless `-o` asks for it. `pipe` is the command that is meant.
pub(crate) fn wanted(format: Option<Format>, pipe: &str) -> anyhow::Result<Format> {
    if format.is_none() && std::io::stdout().is_terminal() {
        bail!("the manifests would go to the terminal; write `{pipe}`, or give -o yaml to see them");
    }
    Ok(format.unwrap_or(Format::Yaml))
}

/// Prints manifests.
pub(crate) fn manifests(format: Format, manifests: &[Manifest]) -> anyhow::Result<()> {
    if format == Format::Json {
        let items: Vec<_> = manifests.iter().map(|manifest| &manifest.object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        return output::line(&output::pretty(Format::Json, &list)?);
    }
    let texts: Vec<_> = manifests.iter().map(|manifest| manifest.text.as_str()).collect();
    output::line(&format!("---\n{}", texts.join("\n---\n")))
}

/// Manifests of objects that have no text of their own.
pub(crate) fn plain(objects: Vec<Value>) -> Vec<Manifest> {
    objects.into_iter().map(|object| Manifest { text: yaml::write(&object), object }).collect()
}
