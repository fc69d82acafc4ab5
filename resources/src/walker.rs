//! A walk over a JSON value that knows where it is, for decoders that go field by field.
//!
//! `Null` counts as absent, as the API server treats it. Every reader reports what it cannot use, so that a decoder
//! which gets an [`Invalid`] only has to decide what follows from it.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::problem::{Reason, Report};

/// What a value takes beside its text, once it is decoded.
const VALUE_BYTES: usize = 48;
/// Most entries of a list for which nothing else is said. The Gateway API allows 16, parents 32.
pub(crate) const MAX_LIST: usize = 64;
/// Longest text read, in bytes; no field of the Gateway API that is read here may be longer.
const MAX_TEXT: usize = 4096;
/// Most characters of a value that a message repeats.
const MAX_SHOWN: usize = 60;

/// A field is there and cannot be used; the problem is reported already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid;

/// A value and its path in the object.
#[derive(Clone, Debug)]
pub(crate) struct Node<'v> {
    pub(crate) value: &'v Value,
    pub(crate) path: String,
}

impl<'v> Node<'v> {
    pub(crate) fn root(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    /// Path of a field below this one.
    pub(crate) fn field(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<Node<'v>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Node { value, path: self.field(name) })
    }

    /// A field that holds fields.
    pub(crate) fn object(&self, name: &str, report: &mut Report<'_>) -> Result<Option<Node<'v>>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(None) };
        if node.value.is_object() { Ok(Some(node)) } else { Err(node.wrong_type("an object", report)) }
    }

    /// A label of the object whose root this is.
    pub(crate) fn label(&self, name: &str, report: &mut Report<'_>) -> Result<Option<&'v str>, Invalid> {
        let Some(metadata) = self.object("metadata", report)? else { return Ok(None) };
        match metadata.object("labels", report)? {
            Some(labels) => labels.text(name, report),
            None => Ok(None),
        }
    }

    /// A list; empty if it is not there.
    pub(crate) fn items(&self, name: &str, report: &mut Report<'_>) -> Result<Vec<Node<'v>>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(Vec::new()) };
        let Some(items) = node.value.as_array() else { return Err(node.wrong_type("a list", report)) };
        let item = |(i, value)| Node { value, path: format!("{}[{i}]", node.path) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A list that is bounded; empty if it is not there. What is longer cannot be sent to proxies.
    pub(crate) fn at_most(&self, name: &str, max: usize, report: &mut Report<'_>) -> Result<Vec<Node<'v>>, Invalid> {
        let items = self.items(name, report)?;
        if items.len() > max {
            let what = format!("{name} has {} entries; it must have at most {max}", items.len());
            return Err(self.invalid(name, what, "write fewer", report));
        }
        Ok(items)
    }

    /// A list of texts, each with its place.
    pub(crate) fn texts(
        &self,
        name: &str,
        max: usize,
        report: &mut Report<'_>,
    ) -> Result<Vec<(Node<'v>, &'v str)>, Invalid> {
        let text = |node: Node<'v>, report: &mut Report<'_>| match node.value.as_str() {
            Some(text) if text.len() <= MAX_TEXT => Ok((node, text)),
            Some(_) => Err(node.wrong_type(&format!("a text of at most {MAX_TEXT} bytes"), report)),
            None => Err(node.wrong_type("a text", report)),
        };
        self.at_most(name, max, report)?.into_iter().map(|node| text(node, report)).collect()
    }

    /// A text.
    pub(crate) fn text(&self, name: &str, report: &mut Report<'_>) -> Result<Option<&'v str>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(None) };
        let text = node.value.as_str().ok_or_else(|| node.wrong_type("a text", report))?;
        if text.len() > MAX_TEXT {
            let what = format!("{name} has {} bytes; it must have at most {MAX_TEXT}", text.len());
            return Err(self.invalid(name, what, "shorten it", report));
        }
        Ok(Some(text))
    }

    /// A text that is a name by one of the rules of [`mesh_policy::name`].
    pub(crate) fn name(
        &self,
        name: &str,
        rule: fn(&str) -> bool,
        report: &mut Report<'_>,
    ) -> Result<Option<&'v str>, Invalid> {
        match self.text(name, report)? {
            Some(text) if !rule(text) => {
                let what = format!("{name} is {}, which is not a name of Kubernetes", shown(&Value::from(text)));
                Err(self.invalid(name, what, "use a-z, 0-9 and -, a letter or digit first and last", report))
            }
            found => Ok(found),
        }
    }

    /// A text that must be there and not be empty.
    pub(crate) fn required_text(&self, name: &str, report: &mut Report<'_>) -> Result<&'v str, Invalid> {
        match self.text(name, report)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.invalid(name, format!("`{name}` is required"), "write it", report)),
        }
    }

    /// A text, if it is one of those known.
    pub(crate) fn one_of(
        &self,
        name: &str,
        known: &[&'static str],
        report: &mut Report<'_>,
    ) -> Result<Option<&'static str>, Invalid> {
        let Some(found) = self.text(name, report)? else { return Ok(None) };
        match known.iter().find(|value| **value == found) {
            Some(value) => Ok(Some(value)),
            None => Err(self.unknown_value(name, found, known, report)),
        }
    }

    /// Reports a text that is not one of those known. One that differs in case only is a slip that no version of the
    /// API takes; any other may be of a newer one.
    pub(crate) fn unknown_value(&self, name: &str, found: &str, known: &[&str], report: &mut Report<'_>) -> Invalid {
        let what = format!("{name} is {}, which is not known here", shown(&Value::from(found)));
        let fix = format!("use {}", known.join(", "));
        if known.iter().any(|value| value.eq_ignore_ascii_case(found)) {
            self.invalid(name, what, &fix, report)
        } else {
            self.unsupported(name, what, &fix, report)
        }
    }

    /// A boolean.
    pub(crate) fn flag(&self, name: &str, report: &mut Report<'_>) -> Result<Option<bool>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(None) };
        node.value.as_bool().map(Some).ok_or_else(|| node.wrong_type("true or false", report))
    }

    /// A whole number of a range.
    pub(crate) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u32>,
        report: &mut Report<'_>,
    ) -> Result<Option<u32>, Invalid> {
        self.get(name).map(|node| node.as_integer(range, report)).transpose()
    }

    /// This value as a whole number of a range.
    pub(crate) fn as_integer(&self, range: RangeInclusive<u32>, report: &mut Report<'_>) -> Result<u32, Invalid> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        number.ok_or_else(|| {
            let is_whole = self.value.is_i64() || self.value.is_u64();
            let kind = if is_whole { "" } else { "a whole number, " };
            self.wrong_type(&format!("{kind}{} to {}", range.start(), range.end()), report)
        })
    }

    /// A port number.
    pub(crate) fn port(&self, name: &str, report: &mut Report<'_>) -> Result<Option<u16>, Invalid> {
        let number = self.integer(name, 1..=u32::from(u16::MAX), report)?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    }

    /// Reports each field that is not among those known. Gives [`Invalid`] when there was one, for places where an
    /// ignored field would change what the rest means.
    pub(crate) fn only(&self, known: &[&str], report: &mut Report<'_>) -> Result<(), Invalid> {
        self.is_object(report)?;
        match self.unknown(known) {
            unknown if unknown.is_empty() => Ok(()),
            unknown => {
                for name in unknown {
                    let what = format!("`{name}` is not supported here");
                    report.error(&self.field(name), Reason::UnsupportedValue, what, "remove it");
                }
                Err(Invalid)
            }
        }
    }

    /// Warns of each field that is not among those known, for places where it can be left out.
    pub(crate) fn ignore_others(&self, known: &[&str], report: &mut Report<'_>) {
        for name in self.unknown(known) {
            let what = format!("`{name}` is not supported here and ignored");
            report.warning(&self.field(name), Reason::UnsupportedValue, what, "remove it, or do without its effect");
        }
    }

    /// Reports a field's value as one that no API server takes.
    pub(crate) fn invalid(&self, name: &str, what: String, fix: &str, report: &mut Report<'_>) -> Invalid {
        report.schema(&self.field(name), Reason::UnsupportedValue, what, fix);
        Invalid
    }

    /// Reports a field's value as not understood here.
    pub(crate) fn unsupported(&self, name: &str, what: String, fix: &str, report: &mut Report<'_>) -> Invalid {
        report.error(&self.field(name), Reason::UnsupportedValue, what, fix);
        Invalid
    }

    /// Reports a field as more than there is room for.
    pub(crate) fn too_large(&self, name: &str, what: String, fix: &str, report: &mut Report<'_>) -> Invalid {
        report.error(&self.field(name), Reason::TooLarge, what, fix);
        Invalid
    }

    /// Bytes that what is read of this value takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(self.value)
    }

    /// Reports a value that holds no fields where fields belong.
    pub(crate) fn is_object(&self, report: &mut Report<'_>) -> Result<(), Invalid> {
        if self.value.is_object() { Ok(()) } else { Err(self.wrong_type("an object", report)) }
    }

    fn unknown(&self, known: &[&str]) -> Vec<&'v str> {
        let fields = self.value.as_object().into_iter().flatten();
        fields.filter(|(n, v)| !v.is_null() && !known.contains(&n.as_str())).map(|(n, _)| n.as_str()).collect()
    }

    /// Reports this value as another than the one asked for.
    pub(crate) fn wrong_type(&self, wanted: &str, report: &mut Report<'_>) -> Invalid {
        let name = self.path.rsplit('.').next().unwrap_or_default();
        let what = format!("{name} is {}; it must be {wanted}", shown(self.value));
        report.schema(&self.path, Reason::UnsupportedValue, what, format!("write {wanted}"));
        Invalid
    }
}

/// A text as a message shows it: in quotes, short, on one line.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// A value as a message shows it: short, on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => short(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// See [`Node::bytes`].
pub(crate) fn bytes_of(value: &Value) -> usize {
    let below: usize = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes_of(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    VALUE_BYTES + below
}
