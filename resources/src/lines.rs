//! Which line of its file each value of an object stands on, so that a problem can point at the field it is about.
//!
//! YAML and JSON are read into a value and a list beside it: eight bytes a value, in the order of a walk over the
//! value. A second tree would cost more than the first.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;

/// The place of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Its line, from 1.
    line: u32,
    /// How many entries it has, itself and everything below it: what to skip to get to its next sibling.
    size: u32,
}

/// The lines of an object's values. Those of objects of one file share their memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    entries: Arc<[Entry]>,
    /// Where the object begins.
    start: usize,
}

impl PartialEq for Lines {
    /// Objects that start at one line and are equal in value differ here only by blank lines and comments, and those
    /// matter: problems tell their lines.
    fn eq(&self, other: &Self) -> bool {
        self.own() == other.own()
    }
}

impl Lines {
    /// The line of the field at a path such as `spec.rules[0].name`, or of the nearest one above it that is there.
    pub(crate) fn of(&self, object: &Value, path: &str) -> Option<u64> {
        let (mut at, mut value, mut rest) = (self.start, object, path);
        let mut line = self.entries.get(at)?.line;
        while let Some((index, child, after)) = step(value, rest) {
            at = self.child(at, index);
            let Some(entry) = self.entries.get(at) else { break };
            (line, value, rest) = (entry.line, child, after);
        }
        Some(u64::from(line))
    }

    /// The lines of each item of the list in a field.
    pub(crate) fn items(&self, object: &Value, field: &str) -> Vec<Self> {
        let Some((index, list, _)) = step(object, field) else { return Vec::new() };
        let list_at = self.child(self.start, index);
        let count = list.as_array().map_or(0, Vec::len);
        let mut start = list_at + 1;
        let next = |_| {
            let this = Self { entries: self.entries.clone(), start };
            start += self.size(start);
            this
        };
        (0..count).map(next).collect()
    }

    fn own(&self) -> &[Entry] {
        self.entries.get(self.start..).and_then(|own| own.get(..self.size(self.start))).unwrap_or_default()
    }

    fn size(&self, at: usize) -> usize {
        self.entries.get(at).map_or(0, |entry| entry.size as usize)
    }

    /// Where the n-th child of the value at a place is.
    fn child(&self, at: usize, index: usize) -> usize {
        (0..index).fold(at + 1, |at, _| at + self.size(at))
    }
}

/// The child that a path goes to: its place among its siblings, itself, and the rest of the path.
fn step<'v, 'p>(value: &'v Value, path: &'p str) -> Option<(usize, &'v Value, &'p str)> {
    if let Some(rest) = path.strip_prefix('[') {
        let (index, rest) = rest.split_once(']')?;
        let index = index.parse().ok()?;
        return Some((index, value.as_array()?.get(index)?, rest));
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    // Names of annotations have dots of their own: the longest name that fits.
    let fits = |name: &str| path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    let fields = value.as_object()?.iter().enumerate();
    let fitting = fields.filter_map(|(index, (name, value))| Some((name.len(), (index, value, fits(name)?))));
    fitting.max_by_key(|(length, _)| *length).map(|(_, found)| found)
}

/// A value with its lines.
pub(crate) struct Located {
    pub(crate) value: Value,
    /// Its own first.
    entries: Vec<Entry>,
}

impl Located {
    /// The value, and its lines. What has no line of its own (a text in a list) has that of the list.
    pub(crate) fn into_parts(mut self) -> (Value, Lines) {
        let mut above: Vec<(usize, u32)> = Vec::new();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            while above.last().is_some_and(|(end, _)| *end <= at) {
                above.pop();
            }
            if entry.line == UNKNOWN {
                entry.line = above.last().map_or(1, |(_, line)| *line);
            }
            above.push((at + entry.size as usize, entry.line));
        }
        (self.value, Lines { entries: self.entries.into(), start: 0 })
    }

    fn scalar<E>(value: impl Into<Value>) -> Result<Self, E> {
        Ok(Self { value: value.into(), entries: vec![Entry { line: UNKNOWN, size: 1 }] })
    }
}

/// A line that is not known yet; real ones begin with 1.
const UNKNOWN: u32 = 0;

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Located;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of YAML or JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_string<E>(self, value: String) -> Result<Located, E> {
        Located::scalar(value)
    }

    fn visit_unit<E>(self) -> Result<Located, E> {
        Located::scalar(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Located, E> {
        Located::scalar(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Located, D::Error> {
        Located::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Located, A::Error> {
        let (mut items, mut entries) = (Vec::new(), vec![Entry { line: UNKNOWN, size: 1 }]);
        while let Some(item) = access.next_element::<Located>()? {
            items.push(item.value);
            entries.extend(item.entries);
        }
        entries[0].size = size_of_entries(&entries);
        Ok(Located { value: Value::Array(items), entries })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Located, A::Error> {
        // Sorted, as a walk over the finished object goes. Only names are asked for their place: to ask each value
        // would take several times the stack at each level, and files may be deep.
        let mut fields = BTreeMap::new();
        let mut first = UNKNOWN;
        while let Some((name, mut field)) = access.next_entry::<Spanned<String>, Located>()? {
            let line = u32::try_from(name.referenced.line()).unwrap_or(u32::MAX);
            field.entries[0].line = line;
            first = if first == UNKNOWN { line } else { first.min(line) };
            fields.insert(name.value, field);
        }
        let (mut object, mut entries) = (serde_json::Map::new(), vec![Entry { line: first, size: 1 }]);
        for (name, field) in fields {
            object.insert(name, field.value);
            entries.extend(field.entries);
        }
        entries[0].size = size_of_entries(&entries);
        Ok(Located { value: Value::Object(object), entries })
    }
}

/// Files are far too small for more than fit.
fn size_of_entries(entries: &[Entry]) -> u32 {
    u32::try_from(entries.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_field_has_its_line() {
        let text = "kind: A\nspec:\n  rules:\n  - name: one\n    list: [1,\n      2]\n  # a comment\n  - name: two\n\
                    meta:\n  notes:\n    a.b/c: x\n    a: {b: y}\n";
        let (value, lines) = serde_saphyr::from_str::<Located>(text).unwrap().into_parts();
        for (path, line) in [
            ("", 1),
            ("kind", 1),
            ("spec.rules[0].name", 4),
            ("spec.rules[0].list[1]", 5),
            ("spec.rules[1]", 8),
            ("spec.rules[1].name", 8),
            ("spec.rules[1].absent.deeper", 8),
            ("spec.rules[2]", 3),
            ("meta.notes.a.b/c", 11),
            ("meta.notes.a.b", 12),
            ("nothing", 1),
        ] {
            assert_eq!(lines.of(&value, path), Some(line), "{path}");
        }
        let list = serde_saphyr::from_str::<Located>("kind: List\nitems:\n- a: 1\n  b: 2\n- c: 3\n").unwrap();
        let (value, lines) = list.into_parts();
        let items = lines.items(&value, "items");
        assert_eq!((items.len(), items[0].of(&value["items"][0], "b")), (2, Some(4)));
        assert_eq!(items[1].of(&value["items"][1], "c"), Some(5));
        assert_eq!(Lines::default().of(&value, "spec"), None);
    }
}
