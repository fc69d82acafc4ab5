//! What is wrong with a value that is not of its type, by the default that stands in its place.

use serde_json::Value;

/// What to say of the value at a place. `why` is what the types say, for values that have the type and are wrong all the same.
pub(super) fn at(place: &str, values: &Value, defaults: &Value, why: &str) -> String {
    let walk = |of: &Value| -> Option<Value> { place.split('.').try_fold(of, |at, name| at.get(name)).cloned() };
    let given = walk(values).unwrap_or_default();
    let Some(default) = walk(defaults) else {
        let (parent, name) = place.rsplit_once('.').unwrap_or(("", place));
        let siblings = if parent.is_empty() {
            Some(defaults.clone())
        } else {
            parent.split('.').try_fold(defaults, |at, name| at.get(name)).cloned()
        };
        let names: Vec<String> =
            siblings.and_then(|of| Some(of.as_object()?.keys().cloned().collect())).unwrap_or_default();
        let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
        let dot = if parent.is_empty() { "" } else { "." };
        return match nearest {
            Some(nearest) => format!("{place}: there is no such value; the nearest is {parent}{dot}{nearest}"),
            None => format!("{place}: there is no such value"),
        };
    };
    if std::mem::discriminant(&given) != std::mem::discriminant(&default) {
        return format!("{place} must be {}, such as {default}, and is {}", type_of(&default), shown(&given));
    }
    // Of a word that is none of those allowed, the types name them.
    match why.split_once("expected one of ").or_else(|| why.split_once("expected ")) {
        Some((_, expected)) if given.is_string() => {
            format!("{place} is {given}, but must be {}", expected.replace('`', "").replace(", ", " or "))
        }
        _ => format!("{place}: {} cannot be used here; the default is {default}", shown(&given)),
    }
}

/// What to say of a value that was taken away and must be there.
pub(super) fn missing(values: &Value, defaults: &Value) -> String {
    fn find(values: &Value, defaults: &Value, path: &str) -> Option<(String, Value)> {
        let (values, defaults) = (values.as_object()?, defaults.as_object()?);
        defaults.iter().find_map(|(name, default)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match values.get(name) {
                None => Some((path, default.clone())),
                // What is in these may be taken away one by one.
                Some(_) if super::merge::TAKEN_ONE_BY_ONE.contains(&name.as_str()) => None,
                Some(value) => find(value, default, &path),
            }
        })
    }
    match find(values, defaults, "") {
        Some((place, default)) => {
            let instead = match &default {
                Value::Object(_) => "{} for none".to_owned(),
                Value::Array(_) => "[] for none".to_owned(),
                other => format!("another value in place of {other}"),
            };
            format!("{place} is taken away (null), and must be there; write {instead}")
        }
        None => "a value is missing".to_owned(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map of values",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) | Value::Null => type_of(value).to_owned(),
        other => other.to_string(),
    }
}
