//! One object of an API server: where it is read, how large it is, and reading it by its name.

use ::kube::{
    Client, Error,
    api::GetParams,
    core::{Request, Status},
};
use mesh_resources::{
    Key, Object,
    kinds::{Kind, Parts},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    kube::named::{REQUEST_LIMIT, describe},
    source::pruned::{Labels, NodeParts, PodParts, Pruned, Whole},
};

/// Where objects of a kind are read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The path of all of them.
    pub(crate) path: String,
    /// Their `apiVersion`.
    pub(crate) api: String,
}

/// Reads one object from where those of its kind are; `None` when it is gone, or is none.
pub(crate) async fn read(client: &Client, kind: &Kind, origin: &Origin, key: &Key) -> Result<Option<Object>, String> {
    let path = if !kind.is_namespaced {
        origin.path.clone()
    } else {
        let (group, plural) = origin.path.rsplit_once('/').unwrap_or_default();
        format!("{group}/namespaces/{}/{plural}", key.namespace)
    };
    let request = Request::new(path).get(&key.name, &GetParams::default()).map_err(|error| error.to_string())?;
    let read = async {
        match kind.parts {
            Parts::Whole => client.request::<Pruned<Whole>>(request).await.map(|Pruned(value, ..)| value),
            Parts::Pod => client.request::<Pruned<PodParts>>(request).await.map(|Pruned(value, ..)| value),
            Parts::Node => client.request::<Pruned<NodeParts>>(request).await.map(|Pruned(value, ..)| value),
            Parts::Labels => client.request::<Pruned<Labels>>(request).await.map(|Pruned(value, ..)| value),
        }
    };
    match timeout(REQUEST_LIMIT, read).await {
        Ok(Ok(value)) => Ok(object(kind, value, &origin.api)),
        // Without its name it is the kind that is not served there, and its watch finds out where it is.
        Ok(Err(Error::Api(status))) if status.code == 404 && names(&status, &key.name) => Ok(None),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("no answer within {REQUEST_LIMIT:?}")),
    }
}

/// Whether an error is about the object of that name.
fn names(status: &Status, name: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == name)
}

/// The object of a value; items of a list do not say their kind.
pub(crate) fn object(kind: &Kind, mut value: Value, api: &str) -> Option<Object> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), api.into());
        fields.insert("kind".to_owned(), kind.kind.into());
    }
    // An API server has checked names and times, so this is for what pretends to be one.
    Object::from_value(value, None).map_err(|why| tracing::warn!("a {}: {why}", kind.kind)).ok()
}

/// What names an object among those of its kind.
pub(crate) fn key_of(object: &Object) -> Key {
    Key::new(object.namespace.as_str(), object.name.as_str())
}

/// Bytes that a value takes in memory, about.
pub(crate) fn bytes_of(value: &Value) -> usize {
    /// What a value takes beside its text, and its part of the table that it is in.
    const EACH: usize = 96;
    let below: usize = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes_of(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    EACH + below
}
