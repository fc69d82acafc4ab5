//! YAML as Helm's `toYaml` writes it: block style, keys sorted, two spaces, lists not indented below their key.
//!
//! It quotes more than is needed: what YAML 1.1 or 1.2 could take for anything but text is in double quotes.

use std::collections::BTreeMap;

use serde_json::Value;

/// Writes a value, without a line break at its end.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out.trim_end_matches('\n').to_owned()
}

/// A value that begins on a line of its own.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            for (key, item) in sorted {
                out.push_str(&" ".repeat(indent));
                out.push_str(&scalar(key));
                out.push(':');
                // A list is as far to the left as its key.
                after(item, if item.is_array() { indent } else { indent + 2 }, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                let mut nested = String::new();
                block(item, indent + 2, &mut nested);
                // The first line of the item follows its dash.
                out.push(' ');
                out.push_str(nested.trim_start_matches(' '));
            }
        }
        other => {
            out.push_str(&" ".repeat(indent));
            out.push_str(&inline(other));
            out.push('\n');
        }
    }
}

/// A value behind its key.
fn after(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => out.push('\n'),
        Value::Array(items) if !items.is_empty() => out.push('\n'),
        Value::String(text) if is_lines(text) => return lines(text, indent, out),
        other => {
            out.push(' ');
            out.push_str(&inline(other));
            out.push('\n');
            return;
        }
    }
    block(value, indent, out);
}

/// Whether a text can be written as a block: plain characters, and no spaces or line breaks that would be lost.
fn is_lines(text: &str) -> bool {
    let plain = |line: &str| !line.ends_with(' ') && line.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n') && !body.starts_with([' ', '\n']) && !body.ends_with('\n') && body.split('\n').all(plain)
}

/// A text of several lines behind its key.
fn lines(text: &str, indent: usize, out: &mut String) {
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.trim_end_matches('\n').split('\n') {
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Words that some YAML takes for a boolean or for nothing.
const WORDS: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];

fn scalar(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_./ ".contains(c);
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(inside)
        && !text.ends_with(' ')
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain { text.to_owned() } else { quoted(text) }
}

/// In double quotes as in JSON, with the characters escaped too that only JSON may have as they are.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for c in Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_looks_as_people_expect() {
        let value = json!({"b": {"c": [], "a": {}}, "a": [{"y": 1, "x": "two words"}, [1, 2], "3", null], "yes": true});
        let expected =
            "a:\n- x: two words\n  \"y\": 1\n- - 1\n  - 2\n- \"3\"\n- null\nb:\n  a: {}\n  c: []\n\"yes\": true";
        assert_eq!(write(&value), expected);
        assert_eq!(write(&json!("x")), "x");
        assert_eq!(write(&json!({"a": "x: 1\n  y\n", "b": "1\n\n2"})), "a: |\n  x: 1\n    y\nb: |-\n  1\n\n  2");
        assert_eq!(write(&json!({})), "{}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\n\té😀\u{7f}\u{85}\u{2028}\u{feff}]{0,12}".prop_map(Value::from),
            "([ a:#]{0,3}\n){0,3}b?".prop_map(Value::from),
            "(on|No|1e3|0x1f|~|-|- a|a: b|a #b|\\*x|&y|!z|2026-11-24|012|.5|1_000|=|<<)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(value in values()) {
            let written = write(&value);
            let read = mesh_resources::yaml::value(&written).map_err(|e| TestCaseError::fail(format!("{e}\n{written}")))?;
            prop_assert_eq!(read, value, "{}", written);
        }
    }
}
