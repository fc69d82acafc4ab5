//! What an API server would refuse: an object against the definition of its kind (CustomResourceDefinition), by its own schema and its own
//! rules.
//!
//! The definitions are those that `meshctl install` brings and `meshctl install --gateway-api-crds` prints. As an API server does, nulls
//! and defaults are settled first (`settle.rs`), then the schema is checked (`schema.rs`), then the rules in CEL are (`rules.rs`). What
//! cannot be judged here, because a rule needs what is not known, is said, and never taken for good.

mod rules;
mod schema;
mod settle;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use mesh_resources::{Object, is_used, yaml};
use serde_json::Value;

use self::{rules::Rules, schema::Schema};
use crate::{chart, cmd::GATEWAY_API};

/// Most that is told of one object.
const MAX_TOLD: usize = 50;

/// Something that an API server refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
    /// Whether it is a rule about the fields below it, and not about this one alone.
    pub is_rule: bool,
}

/// What there is to say of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Why it is refused; empty where nothing is known against it.
    pub refused: Vec<Refused>,
    /// What could not be judged, and why: the object may be refused for it.
    pub unjudged: Vec<String>,
}

/// A version of a kind.
struct Definition {
    group: String,
    version: String,
    kind: String,
    schema: Value,
}

/// The definitions of the kinds that the mesh reads.
static DEFINITIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    let texts = chart::DEFINITIONS.iter().map(|(_, text)| *text).chain([GATEWAY_API]);
    let found = texts.filter_map(|text| yaml::documents(text).ok()).flatten().filter_map(|document| document.value);
    found.flat_map(|definition| versions(&definition)).collect()
});

fn versions(definition: &Value) -> Vec<Definition> {
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (group, kind) = (text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
    if !is_used(&group, &kind) {
        return Vec::new();
    }
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let version = |version: &Value| {
        let schema = version.pointer("/schema/openAPIV3Schema")?.clone();
        Some(Definition { group: group.clone(), kind: kind.clone(), version: text(version, "/name"), schema })
    };
    versions.filter_map(version).collect()
}

/// Judges objects one after the other.
#[derive(Default)]
pub(crate) struct Judge {
    schema: Schema,
    rules: Rules,
}

impl Judge {
    /// Judges an object of a kind that has a definition; of others nothing is said.
    pub(crate) fn judge(&mut self, object: &Object) -> Judgement {
        let of_kind = || DEFINITIONS.iter().filter(|known| known.group == object.group() && known.kind == object.kind);
        let version = object.api_version.rsplit('/').next().unwrap_or_default();
        let Some(definition) = of_kind().find(|known| known.version == version) else {
            let known: Vec<&str> = of_kind().map(|known| known.version.as_str()).collect();
            let what = format!("{} of version {version:?} is not known here, only {}", object.kind, known.join(", "));
            let unjudged = if known.is_empty() { Vec::new() } else { vec![what] };
            return Judgement { unjudged, ..Judgement::default() };
        };
        let mut value = object.value.clone();
        settle::settle(&definition.schema, &mut value);
        let found = self.schema.check(&definition.schema, &value);
        let mut judgement = Judgement { refused: found.refused, unjudged: found.unjudged };
        // Rules count on the types and bounds of what they read.
        if !found.is_broken {
            self.rules.check(&definition.schema, &value, &mut judgement);
        }
        judgement.refused.truncate(MAX_TOLD);
        judgement
    }
}
