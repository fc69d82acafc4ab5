//! Nulls and defaults, as an API server settles them before it looks at an object: null is as absent where the schema has no place for
//! it, and what is absent has the schema's default.

use serde_json::Value;

/// Settles a value by its schema.
pub(super) fn settle(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let none = serde_json::Map::new();
            let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
            let others = schema.get("additionalProperties").filter(|others| others.is_object());
            fields.retain(|name, field| {
                let of = properties.get(name).or(others);
                !(field.is_null() && of.is_some_and(|of| !is_nullable(of)))
            });
            for (name, of) in properties {
                if let Some(default) = of.get("default").filter(|_| !fields.contains_key(name)) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, field) in fields {
                if let Some(of) = properties.get(name).or(others) {
                    settle(of, field);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                items.iter_mut().for_each(|item| settle(of, item));
            }
        }
        _ => {}
    }
}

/// Whether null is a value of its own.
pub(super) fn is_nullable(schema: &Value) -> bool {
    schema.get("nullable") == Some(&Value::Bool(true))
}
