//! Which line of its file each value of an object stands on, so that a problem can point at the field it is about.
//!
//! YAML and JSON are read into a value and a list beside it: eight bytes a value, in the order of a walk over the
//! value. A second tree would cost more than the first.

use std::sync::Arc;

use serde_json::Value;

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
    /// Those of a value whose parts have no known lines.
    pub(crate) fn beginning_at(line: u64) -> Self {
        Self { entries: [Entry { line: u32::try_from(line).unwrap_or(u32::MAX), size: 1 }].into(), start: 0 }
    }

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

/// A value with its lines, while it is put together.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) value: Value,
    /// Its own first.
    entries: Vec<Entry>,
}

impl Located {
    /// A value without parts.
    pub(crate) fn scalar(value: Value, line: u32) -> Self {
        Self { value, entries: vec![Entry { line, size: 1 }] }
    }

    /// Takes in the lines of the next part, in the order of a walk over the finished value, and gives the part back.
    pub(crate) fn holding(&mut self, part: Self) -> Value {
        self.entries.extend(part.entries);
        // Files are far too small for more than fit.
        self.entries[0].size = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        part.value
    }

    /// What is behind a name stands where the name does.
    pub(crate) fn set_line(&mut self, line: u32) {
        self.entries[0].line = line;
    }

    /// How many values it is, itself and all below it.
    pub(crate) fn size(&self) -> usize {
        self.entries.len()
    }

    /// The items of a list.
    pub(crate) fn into_items(self) -> Vec<Self> {
        let Value::Array(items) = self.value else { return Vec::new() };
        items.into_iter().zip(parts(&self.entries)).map(|(value, entries)| Self { value, entries }).collect()
    }

    /// The fields of a map; `None` if it is none.
    pub(crate) fn into_fields(self) -> Option<Vec<(String, Self)>> {
        let Value::Object(fields) = self.value else { return None };
        let parts = parts(&self.entries);
        Some(fields.into_iter().zip(parts).map(|((name, value), entries)| (name, Self { value, entries })).collect())
    }

    /// The value and its lines.
    pub(crate) fn into_parts(self) -> (Value, Lines) {
        (self.value, Lines { entries: self.entries.into(), start: 0 })
    }
}

/// The entries of each part of a value.
fn parts(entries: &[Entry]) -> Vec<Vec<Entry>> {
    let (mut parts, mut at) = (Vec::new(), 1);
    while let Some(first) = entries.get(at) {
        let end = at + first.size as usize;
        parts.push(entries.get(at..end).unwrap_or_default().to_vec());
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_field_has_its_line() {
        let text = "kind: A\nspec:\n  rules:\n  - name: one\n    list: [1,\n      2]\n  # a comment\n  - name: two\n\
                    meta:\n  notes:\n    a.b/c: x\n    a: {b: y}\n";
        let read = |text: &str| {
            let document = crate::yaml::documents(text).unwrap().remove(0);
            (document.value.unwrap(), document.lines)
        };
        let (value, lines) = read(text);
        for (path, line) in [
            ("", 1),
            ("kind", 1),
            ("spec.rules[0].name", 4),
            ("spec.rules[0].list[1]", 6),
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
        let (value, lines) = read("kind: List\nitems:\n- a: 1\n  b: 2\n- c: 3\n");
        let items = lines.items(&value, "items");
        assert_eq!((items.len(), items[0].of(&value["items"][0], "b")), (2, Some(4)));
        assert_eq!(items[1].of(&value["items"][1], "c"), Some(5));
        assert_eq!(Lines::default().of(&value, "spec"), None);
    }
}
