//! A walk over a JSON value that knows where it is, for decoders that go field by field.
//!
//! `Null` counts as absent, as the API server treats it. Every reader reports what it cannot use, so that a decoder
//! which gets an [`Invalid`] only has to decide what follows from it.

use serde_json::Value;

use crate::problem::{Reason, Report};

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

    /// A list; empty if it is not there.
    pub(crate) fn items(&self, name: &str, report: &mut Report<'_>) -> Result<Vec<Node<'v>>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(Vec::new()) };
        let Some(items) = node.value.as_array() else { return Err(node.wrong_type("a list", report)) };
        let item = |(i, value)| Node { value, path: format!("{}[{i}]", node.path) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A text.
    pub(crate) fn text(&self, name: &str, report: &mut Report<'_>) -> Result<Option<&'v str>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(None) };
        node.value.as_str().map(Some).ok_or_else(|| node.wrong_type("a text", report))
    }

    /// A text that must be there and not be empty.
    pub(crate) fn required_text(&self, name: &str, report: &mut Report<'_>) -> Result<&'v str, Invalid> {
        match self.text(name, report)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => {
                let what = format!("`{name}` is required");
                report.error(&self.field(name), Reason::UnsupportedValue, what, "set it");
                Err(Invalid)
            }
        }
    }

    /// A whole number from 0 to `max`.
    pub(crate) fn integer(&self, name: &str, max: u32, report: &mut Report<'_>) -> Result<Option<u32>, Invalid> {
        let Some(node) = self.get(name) else { return Ok(None) };
        let number = node.value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max);
        number.map(Some).ok_or_else(|| node.wrong_type(&format!("a whole number from 0 to {max}"), report))
    }

    /// A port number, 1 to 65535.
    pub(crate) fn port(&self, name: &str, report: &mut Report<'_>) -> Result<Option<u16>, Invalid> {
        match self.integer(name, u32::from(u16::MAX), report)? {
            None => Ok(None),
            Some(n) => match u16::try_from(n) {
                Ok(port) if port > 0 => Ok(Some(port)),
                _ => Err(self.invalid(name, format!("{n} is not a port"), "use 1 to 65535", report)),
            },
        }
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

    /// Reports a field's value as wrong.
    pub(crate) fn invalid(&self, name: &str, what: String, fix: &str, report: &mut Report<'_>) -> Invalid {
        report.error(&self.field(name), Reason::UnsupportedValue, what, fix);
        Invalid
    }

    /// Reports a value that holds no fields where fields belong.
    pub(crate) fn is_object(&self, report: &mut Report<'_>) -> Result<(), Invalid> {
        if self.value.is_object() { Ok(()) } else { Err(self.wrong_type("an object", report)) }
    }

    fn unknown(&self, known: &[&str]) -> Vec<&'v str> {
        let fields = self.value.as_object().into_iter().flatten();
        fields.filter(|(n, v)| !v.is_null() && !known.contains(&n.as_str())).map(|(n, _)| n.as_str()).collect()
    }

    /// Reports this value as being of another type than the one asked for.
    pub(crate) fn wrong_type(&self, wanted: &str, report: &mut Report<'_>) -> Invalid {
        let found = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "another number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let what = format!("found {found} where {wanted} belongs");
        report.error(&self.path, Reason::UnsupportedValue, what, format!("write {wanted}"));
        Invalid
    }
}
