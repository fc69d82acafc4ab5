//! JSON: one value, or several in a row, as `kubectl get -o json | jq '.items[]'` prints them.

use serde_json::{Deserializer, Value};

use super::{Document, YamlError, compose::compose, scalar::whole};
use crate::{
    lines::Lines,
    object::{MAX_DEPTH, MAX_OBJECTS},
};

/// The values of a text that is JSON; `None` where it is not, for YAML may begin with a bracket too.
pub(super) fn in_a_row(text: &str) -> Result<Option<Vec<Document<'_>>>, YamlError> {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    let (mut found, mut start, mut line) = (Vec::new(), 0, 1);
    while let Some(value) = values.next() {
        let (Ok(mut value), end) = (value, values.byte_offset()) else { return Ok(None) };
        let spaces = text[start..end].len() - text[start..end].trim_start().len();
        line += breaks(&text[start..start + spaces]);
        let own = &text[start + spaces..end];
        if found.len() == MAX_OBJECTS {
            let what = format!("the text has more than {MAX_OBJECTS} documents: split it");
            return Err(YamlError { line, column: 1, what, is_understood: true });
        }
        // JSON is YAML, and that is read with the line of each field, and told of: keys that are there twice, and depth.
        let lines = match compose(own, line) {
            Ok(Some((same, lines))) => {
                value = same;
                lines
            }
            Err(error) if error.is_understood => return Err(error),
            // What YAML cannot read of JSON (tabs, for one) has no lines of its own.
            _ => {
                normalize(&mut value, 0);
                Lines::beginning_at(line)
            }
        };
        let value = Some(value).filter(|value| !value.is_null());
        found.push(Document { text: own, line, value, is_json: true, lines });
        line += breaks(own);
        start = end;
    }
    if let [one] = found.as_mut_slice() {
        one.is_json = false;
        (one.text, one.line) = (text, 1);
    }
    Ok(Some(found))
}

fn breaks(text: &str) -> u64 {
    text.bytes().filter(|b| *b == b'\n').count() as u64
}

/// Whole numbers in the one form that they have when they are written again.
fn normalize(value: &mut Value, depth: usize) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().and_then(whole) {
                *number = whole;
            }
        }
        Value::Array(items) if depth < MAX_DEPTH => items.iter_mut().for_each(|item| normalize(item, depth + 1)),
        Value::Object(fields) if depth < MAX_DEPTH => fields.values_mut().for_each(|item| normalize(item, depth + 1)),
        _ => {}
    }
}
