//! How manifests are printed: as YAML documents or one JSON list, for `kubectl apply -f -`, and only where they are
//! asked for.

use std::io::IsTerminal;

use anyhow::bail;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Manifest, yaml};
use crate::output;

/// The forms of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// YAML documents
    Yaml,
    /// One JSON object, a List
    Json,
}

/// Refuses to print a private key to a screen that nobody asked to print to. `pipe` is the command that is meant.
pub fn wanted(form: Option<Form>, pipe: &str) -> anyhow::Result<Form> {
    if form.is_none() && std::io::stdout().is_terminal() {
        bail!("the manifests would go to the terminal; write `{pipe}`, or give -o yaml to see them");
    }
    Ok(form.unwrap_or(Form::Yaml))
}

/// Prints manifests.
pub fn manifests(form: Form, manifests: &[Manifest]) -> anyhow::Result<()> {
    match form {
        Form::Yaml => {
            let texts: Vec<_> = manifests.iter().map(|manifest| manifest.text.as_str()).collect();
            output::line(&format!("---\n{}", texts.join("\n---\n")))
        }
        Form::Json => {
            let items: Vec<_> = manifests.iter().map(|manifest| &manifest.object).collect();
            output::line(&serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?)
        }
    }
}

/// Objects without a text of their own, as manifests.
pub fn plain(objects: Vec<Value>) -> Vec<Manifest> {
    objects.into_iter().map(|object| Manifest { text: yaml::write(&object), object }).collect()
}
