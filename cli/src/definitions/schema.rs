//! A value against a structural schema of OpenAPI v3, as far as definitions may use it.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use regex::Regex;
use serde_json::{Map, Value};

use super::{MAX_TOLD, Refused, settle::is_nullable};

/// Checks schemas, and keeps the patterns that they have.
#[derive(Default)]
pub(super) struct Schema {
    /// `None`: the pattern cannot be read.
    patterns: HashMap<String, Option<Regex>>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) refused: Vec<Refused>,
    pub(super) unjudged: Vec<String>,
    /// Whether a type or a bound does not hold, so that rules cannot be asked.
    pub(super) is_broken: bool,
}

impl Found {
    fn push(&mut self, path: &str, what: impl Into<String>) {
        if self.refused.len() < MAX_TOLD {
            self.refused.push(Refused { field: path.to_owned(), what: what.into(), is_rule: false });
        }
    }

    fn broken(&mut self, path: &str, what: impl Into<String>) {
        self.is_broken = true;
        self.push(path, what);
    }
}

impl Schema {
    /// Checks a whole object.
    pub(super) fn check(&mut self, schema: &Value, value: &Value) -> Found {
        let mut found = Found::default();
        self.value(schema, value, "", &mut found);
        found
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str, found: &mut Found) {
        if value.is_null() && is_nullable(schema) {
            return;
        }
        if let Some(wrong) = wrong_type(schema, value) {
            return found.broken(path, wrong);
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array).filter(|allowed| !allowed.contains(value)) {
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            found.push(path, format!("{} is none of {}", shown(value), names.join(", ")));
        }
        match value {
            Value::String(text) => self.text(schema, text, path, found),
            Value::Number(number) => number_within(schema, number.as_f64().unwrap_or_default(), path, found),
            Value::Array(items) => self.list(schema, items, path, found),
            Value::Object(fields) => self.fields(schema, fields, path, found),
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(schema, value, path, found);
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str, found: &mut Found) {
        let length = text.chars().count() as u64;
        if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
            found.push(path, format!("it has {length} characters, and must have at least {least}"));
        }
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            found.broken(path, format!("it has {length} characters, and may have at most {most}"));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            let compiled = self.patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
            match compiled {
                Some(regex) if regex.is_match(text) => {}
                Some(_) => found.push(path, format!("{} does not match {pattern}", shown(&text.into()))),
                None => found.unjudged.push(format!("{path}: the pattern {pattern} cannot be read")),
            }
        }
        let is_of_format = match schema.get("format").and_then(Value::as_str) {
            Some("ipv4") => text.parse::<Ipv4Addr>().is_ok(),
            Some("ipv6") => text.parse::<Ipv6Addr>().is_ok(),
            _ => true,
        };
        if !is_of_format {
            let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
            found.push(path, format!("{} is no {format} address", shown(&text.into())));
        }
    }

    fn list(&mut self, schema: &Value, items: &[Value], path: &str, found: &mut Found) {
        let count = items.len() as u64;
        if let Some(least) = bound(schema, "minItems").filter(|least| count < *least) {
            found.push(path, format!("it has {count} entries, and must have at least {least}"));
        }
        if let Some(most) = bound(schema, "maxItems").filter(|most| count > *most) {
            // What is beyond the bound is not looked at.
            return found.broken(path, format!("it has {count} entries, and may have at most {most}"));
        }
        if let Some(of) = schema.get("items") {
            for (i, item) in items.iter().enumerate() {
                self.value(of, item, &format!("{path}[{i}]"), found);
            }
        }
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => repeated(items.iter().map(Some), path, "the value", found),
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
                let of = |item: &Value| -> Map<String, Value> {
                    let key = |key: &&str| Some(((*key).to_owned(), item.get(*key)?.clone()));
                    keys.iter().filter_map(key).collect()
                };
                let all: Vec<Value> = items.iter().map(|item| of(item).into()).collect();
                repeated(all.iter().map(Some), path, &keys.join(" and "), found);
            }
            _ => {}
        }
    }

    fn fields(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Found) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.broken(&below(name), "the field must be there, and is not");
            }
        }
        let count = fields.len() as u64;
        if let Some(least) = bound(schema, "minProperties").filter(|least| count < *least) {
            found.push(path, format!("it has {count} fields, and must have at least {least}"));
        }
        if let Some(most) = bound(schema, "maxProperties").filter(|most| count > *most) {
            found.broken(path, format!("it has {count} fields, and may have at most {most}"));
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        for (name, value) in fields {
            if let Some(of) = properties.and_then(|properties| properties.get(name)).or(others) {
                self.value(of, value, &below(name), found);
            }
        }
    }

    fn combined(&mut self, schema: &Value, value: &Value, path: &str, found: &mut Found) {
        let mut holds = |of: &Value| {
            let mut inner = Found::default();
            self.value(of, value, path, &mut inner);
            found.unjudged.append(&mut inner.unjudged);
            inner.refused.is_empty()
        };
        let mut count = |name: &str| {
            let all = schema.get(name).and_then(Value::as_array)?;
            Some((all.iter().filter(|of| holds(of)).count(), all.len()))
        };
        let (any, one, all) = (count("anyOf"), count("oneOf"), count("allOf"));
        let is_not = schema.get("not").is_some_and(&mut holds);
        if any.is_some_and(|(held, _)| held == 0) {
            found.push(path, format!("{} is none of the forms that it may have", shown(value)));
        }
        if one.is_some_and(|(held, _)| held != 1) {
            found.push(path, format!("{} must be of exactly one of the forms that it may have", shown(value)));
        }
        if all.is_some_and(|(held, of)| held != of) || is_not {
            found.push(path, format!("{} is not of the form that it must have", shown(value)));
        }
    }
}

/// What is wrong with the type of a value.
fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    let (wanted, is_right) = match schema.get("type").and_then(Value::as_str) {
        _ if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) => {
            ("a whole number or a text", value.is_i64() || value.is_u64() || value.is_string())
        }
        Some("object") => ("a map of fields", value.is_object()),
        Some("array") => ("a list", value.is_array()),
        Some("string") => ("a text", value.is_string()),
        Some("boolean") => ("true or false", value.is_boolean()),
        Some("integer") => ("a whole number", value.is_i64() || value.is_u64()),
        Some("number") => ("a number", value.is_number()),
        _ => return None,
    };
    (!is_right).then(|| format!("it must be {wanted}, and is {}", shown(value)))
}

fn number_within(schema: &Value, number: f64, path: &str, found: &mut Found) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let is_exclusive = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let below = |least: &f64| number < *least || (number == *least && is_exclusive("exclusiveMinimum"));
    if let Some(least) = bound("minimum").filter(below) {
        found.push(path, format!("{number} is less than {least}"));
    }
    let above = |most: &f64| number > *most || (number == *most && is_exclusive("exclusiveMaximum"));
    if let Some(most) = bound("maximum").filter(above) {
        found.push(path, format!("{number} is more than {most}"));
    }
    if bound("multipleOf").is_some_and(|of| of != 0.0 && (number / of).fract() != 0.0) {
        found.push(path, format!("{number} is no multiple of what it must be"));
    }
}

/// Tells of values that are in a list twice.
fn repeated<'v>(items: impl Iterator<Item = Option<&'v Value>>, path: &str, of: &str, found: &mut Found) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, item) in items.enumerate() {
        let text = item.map(ToString::to_string).unwrap_or_default();
        if let Some(first) = seen.get(&text) {
            found.push(&format!("{path}[{i}]"), format!("{of} {text} is in the list already, at [{first}]"));
        } else {
            seen.insert(text, i);
        }
    }
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

/// A value for messages.
fn shown(value: &Value) -> String {
    /// Characters of a value that a message repeats.
    const MOST: usize = 60;
    match value {
        Value::Object(_) => "a map of fields".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(MOST) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}
