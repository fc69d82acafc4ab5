//! Text from a wire, as it may be printed. A sidecar may be of another make, or lie: what it sends is made harmless here as well.

use serde_json::{Map, Value};

/// `text` without what a terminal or a reader of lines would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// As a cell of a table: a space would begin another one.
pub(super) fn cell(text: &str) -> String {
    plain(text).chars().map(|c| if c.is_whitespace() { '\u{2423}' } else { c }).collect()
}

/// A value in which every text, and every name, is plain.
pub(super) fn plain_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(all) => Value::Array(all.into_iter().map(plain_value).collect()),
        Value::Object(all) => Value::Object(plain_map(all)),
        value => value,
    }
}

/// The same of an object.
pub(super) fn plain_map(all: Map<String, Value>) -> Map<String, Value> {
    all.into_iter().map(|(name, value)| (plain(&name), plain_value(value))).collect()
}

/// JSON in which no text is markup, wherever it is shown: `<`, `>` and `&` are written as escapes, as kubectl does.
pub(super) fn without_markup(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Control characters; what turns the direction of text, joins, hides or ends lines; invisible tags.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        assert_eq!(
            plain("a\u{1b}]8;;x\u{7}\u{9b}31m\u{202e}\u{200b}\u{e0041}b\r\nc"),
            "a\u{fffd}]8;;x\u{fffd}\u{fffd}31m\u{fffd}\u{fffd}\u{fffd}b\u{fffd}\u{fffd}c"
        );
        assert_eq!(cell("/a b\u{a0}\tc"), "/a\u{2423}b\u{2423}\u{fffd}c");
        assert_eq!(plain("caf\u{e9}"), "caf\u{e9}");
        let value = json!({ "a\u{1b}": ["\u{202e}", { "b": "\u{9b}" }], "n": 1 });
        assert_eq!(plain_value(value), json!({ "a\u{fffd}": ["\u{fffd}", { "b": "\u{fffd}" }], "n": 1 }));
    }

    #[test]
    fn markup_is_text() {
        let json = json!({ "path": "/<b>&\"" }).to_string();
        let written = without_markup(&json);
        assert!(!written.contains(['<', '>', '&']), "{written}");
        assert_eq!(serde_json::from_str::<Value>(&written).ok(), serde_json::from_str(&json).ok());
    }
}
