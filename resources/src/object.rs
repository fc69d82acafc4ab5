//! Kubernetes objects as they come: the few fields every object has, and the rest as a dynamic value.
//!
//! Manifests are YAML (several documents in a file) or JSON, single objects or a `List`. Reading them is bounded in
//! size, depth and alias expansion, since a folder may be written by anyone.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;

use mesh_policy::{
    ServiceRef,
    name::{is_label, is_subdomain},
};

use crate::{
    kinds::{self, group_of, is_used},
    lines::Lines,
    yaml,
};

/// Longest manifest file, in bytes. Etcd refuses objects above 1.5 MiB, so this is room for several.
pub const MAX_FILE_BYTES: usize = 8 * 1024 * 1024;
/// How files of manifests end.
pub const FILE_EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// Files of folders that end so and are no manifests: those of Kustomize and of Helm.
pub const OTHER_FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Chart.yaml"];
/// Deepest nesting of a document. A Pod, the deepest object here, needs about 15.
pub const MAX_DEPTH: usize = 64;
/// Most objects of one file, documents and items of lists together.
pub const MAX_OBJECTS: usize = 10_000;
/// Most events (values, roughly) that aliases may repeat in one file; what makes a "billion laughs" harmless.
pub const MAX_ALIAS_EVENTS: usize = 10_000;

/// An object in whose status we write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusId {
    /// The name of its kind.
    pub kind: &'static str,
    /// Its namespace and name.
    pub key: Key,
}

impl StatusId {
    /// The object of a kind with this key.
    pub fn new(kind: &'static str, key: Key) -> Self {
        Self { kind, key }
    }
}

/// What names an object within the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectId {
    /// The kind, as in `HTTPRoute`.
    pub kind: String,
    /// The namespace, `default` where a manifest has none.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The API group, empty for the core: other groups have a Service of their own.
    pub group: String,
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// Makes a key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The Service that a reference names. It does not say in which cluster that is.
    pub fn of_service(service: &ServiceRef) -> Self {
        Self { namespace: service.namespace.clone(), name: service.name.clone() }
    }

    /// What names the object of a kind that has this key.
    pub(crate) fn id(&self, kind: &str) -> ObjectId {
        ObjectId::used(kind, &self.namespace, &self.name)
    }
}

impl ObjectId {
    /// An object of one of the mesh's own kinds, whose names say the group.
    pub fn used(kind: &str, namespace: &str, name: &str) -> Self {
        let [kind, namespace, name, group] = [kind, namespace, name, group_of(kind)].map(str::to_owned);
        Self { kind, namespace, name, group }
    }
}

impl fmt::Display for ObjectId {
    /// `HTTPRoute shop/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A place in a file: where an object starts, or a field of one is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Source {
    /// The file as it was named.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u64,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `apiVersion`, as in `gateway.networking.k8s.io/v1`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, `default` if it has none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since 1970; 0 if it has none.
    pub created: i64,
    /// Where it came from, if from a file.
    pub source: Option<Source>,
    /// The whole object.
    pub value: Value,
    /// The lines of its fields; empty if it is not from a file.
    lines: Lines,
}

/// A file that cannot be read as manifests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}; correct the file")]
pub struct ParseError {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl Object {
    /// Reads the common fields of an object. Errors say which one is missing or cannot name anything: without them it
    /// cannot be told which object this is, and so not which earlier version stays in force.
    pub fn from_value(value: Value, source: Option<Source>) -> Result<Self, String> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind, mut name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        // An API server makes up the end of such a name, another for each object.
        let prefix = text("/metadata/generateName");
        if name.is_empty() && !prefix.is_empty() {
            name = format!("{prefix}{}", made_up(source.as_ref()));
        }
        for (field, found) in [("apiVersion", &api_version), ("kind", &kind)] {
            if found.is_empty() {
                return Err(format!("the object has no `{field}`"));
            }
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        // Files of tools (of Kustomize, of kind) look like objects and have no name.
        if name.is_empty() && is_used(group, &kind) {
            return Err("the object has no `metadata.name`".to_owned());
        }
        if value.pointer("/metadata/namespace").is_some_and(|found| !found.is_null() && !found.is_string()) {
            return Err("`metadata.namespace` is not a text: put it in quotes".to_owned());
        }
        let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or("default".to_owned());
        let created = match value.pointer("/metadata/creationTimestamp") {
            None | Some(Value::Null) => 0,
            Some(found) => found.as_str().and_then(seconds_of_rfc3339).ok_or_else(|| {
                format!("metadata.creationTimestamp is not a time such as 2026-01-31T12:00:00Z: {found}")
            })?,
        };
        let object = Self { api_version, kind, namespace, name, created, source, value, lines: Lines::default() };
        // Other kinds have rules of their own: a ClusterRole may be called `system:node`.
        if is_used(object.group(), &object.kind) {
            for (field, name, is_good) in [
                ("metadata.namespace", &object.namespace, is_label(&object.namespace)),
                ("metadata.name", &object.name, is_subdomain(&object.name)),
            ] {
                if !is_good {
                    return Err(format!("`{field}` is {name:?}; use a-z, 0-9 and -, a letter or digit first and last"));
                }
            }
        }
        Ok(object)
    }

    /// What names it.
    pub fn id(&self) -> ObjectId {
        let (kind, namespace, name) = (self.kind.clone(), self.namespace.clone(), self.name.clone());
        ObjectId { kind, namespace, name, group: self.group().to_owned() }
    }

    /// `metadata.generation`, which a status repeats; 0 if it has none.
    pub(crate) fn generation(&self) -> i64 {
        self.value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default()
    }

    /// Where a field of it is, or the nearest one above that is there.
    pub fn source_of(&self, field: &str) -> Option<Source> {
        let mut source = self.source.clone()?;
        source.line = self.lines.of(&self.value, field).unwrap_or(source.line);
        Some(source)
    }

    /// Whether it is of a kind. Of the kinds that the mesh reads it must be of their group: others have a Service of their own.
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind && kinds::kind(kind).is_none_or(|known| known.group == self.group())
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// Reads every object of a file. `file` only names it in messages.
pub fn parse_manifests(text: &str, file: &str) -> Result<Vec<Object>, ParseError> {
    let error = |line, column, message: String| ParseError { file: file.to_owned(), line, column, message };
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, more than {MAX_FILE_BYTES}: split it", text.len());
        return Err(error(1, 1, message));
    }
    let documents = yaml::documents(text).map_err(|e| error(e.line, e.column, e.what))?;
    let name: Arc<str> = file.into();
    let mut objects = Vec::new();
    for document in documents {
        let mut found: Vec<_> = document.value.map(|value| (value, document.lines)).into_iter().collect();
        // A List may hold lists; its depth is bounded by that of the document.
        while let Some((mut value, lines)) = found.pop() {
            let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
            let places = if is_list { lines.items(&value, "items") } else { Vec::new() };
            if let Some(items) = value.get_mut("items").filter(|_| is_list).and_then(Value::as_array_mut) {
                found.extend(std::mem::take(items).into_iter().zip(places).rev());
                continue;
            }
            let line = lines.of(&value, "").unwrap_or(1).max(1);
            let source = Source { file: name.clone(), line };
            let mut object = Object::from_value(value, Some(source)).map_err(|why| error(line, 1, why))?;
            object.lines = lines;
            objects.push(object);
            if objects.len() > MAX_OBJECTS {
                return Err(error(line, 1, format!("the file has more than {MAX_OBJECTS} objects: split it")));
            }
        }
    }
    Ok(objects)
}

/// An end for a name that the API server is to make up, as long as its own: the same for the same place of a file.
fn made_up(source: Option<&Source>) -> String {
    let mut hash = DefaultHasher::new();
    source.hash(&mut hash);
    let hash = hash.finish();
    // The letters that API servers use.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|n| char::from(LETTERS[(hash >> (8 * n)) as u8 as usize % LETTERS.len()])).collect()
}

/// Seconds since 1970 of an RFC 3339 time; fractions of a second are dropped.
fn seconds_of_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !((1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60) {
        return None;
    }
    let rest = text.get(19..)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let part = |range| rest.get(range).and_then(|d: &str| d.parse::<u32>().ok()).map(i64::from);
            let seconds = part(1..3)? * 3600 + part(4..6)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days since 1970 of the proleptic Gregorian calendar, counting years from March so that leap days come last.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = shifted_year * 365 + leap_days + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2020-09-08T01:02:03Z", Some(1_599_526_923)),
            ("2020-09-08T03:02:03.123+02:00", Some(1_599_526_923)),
            ("2020-13-08T01:02:03Z", None),
            ("2020-09-08", None),
            ("2020-09-08T01:02:03", None),
            ("soon", None),
            ("é020-09-08T01:02:03Z", None),
        ] {
            assert_eq!(seconds_of_rfc3339(text), seconds, "{text}");
        }
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# first\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n---\n---\n# second\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: ns}}\n- {apiVersion: v1, kind: Pod, metadata: {name: c}}\n";
        let objects = parse_manifests(text, "f.yaml").unwrap();
        let seen: Vec<_> =
            objects.iter().map(|o| (o.id().to_string(), o.source.as_ref().unwrap().to_string())).collect();
        let expected = [("Service default/a", "f.yaml:2"), ("Pod ns/b", "f.yaml:12"), ("Pod default/c", "f.yaml:13")];
        assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","creationTimestamp":"2020-09-08T01:02:03Z"}}"#;
        assert_eq!(parse_manifests(json, "f.json").unwrap()[0].created, 1_599_526_923);
    }

    #[test]
    fn errors_name_their_place() {
        let error = parse_manifests("apiVersion: v1\nkind: [Service\n", "f.yaml").unwrap_err();
        assert!(error.line >= 2, "{error}");
        let error =
            parse_manifests("kind: A\napiVersion: v1\nmetadata: {name: a}\n---\nkind: B\n", "f.yaml").unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (5, "the object has no `apiVersion`"));
    }

    #[test]
    fn size_depth_and_aliases_are_bounded() {
        assert!(parse_manifests(&" ".repeat(MAX_FILE_BYTES + 1), "f").unwrap_err().message.contains("split it"));
        let deep = format!("{}1{}", "[".repeat(MAX_DEPTH + 8), "]".repeat(MAX_DEPTH + 8));
        assert!(parse_manifests(&deep, "f").is_err());
        let mut laughs =
            String::from("apiVersion: v1\nkind: A\nmetadata: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(parse_manifests(&laughs, "f").is_err());
    }
}
