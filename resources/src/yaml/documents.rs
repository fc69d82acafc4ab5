//! A text into its documents, at the places where kubectl parts them: lines that begin with `---`.

use super::{Document, YamlError, compose::compose, json};
use crate::{lines::Lines, object::MAX_OBJECTS};

/// The text of a file: UTF-8, or UTF-16 with a byte order mark, as some editors and shells of Windows write it.
pub fn decode(bytes: Vec<u8>) -> Result<String, &'static str> {
    const NO_TEXT: &str = "it is not text (UTF-8), so it is no manifest";
    let wide = |of: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes[2..].as_chunks::<2>();
        if !rest.is_empty() {
            return Err(NO_TEXT);
        }
        let units: Vec<u16> = pairs.iter().map(|pair| of(*pair)).collect();
        String::from_utf16(&units).map_err(|_| NO_TEXT)
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8(bytes).map_err(|_| NO_TEXT),
    }
}

/// Reads every document of a text. Those without a value are among them.
pub fn documents(text: &str) -> Result<Vec<Document<'_>>, YamlError> {
    let text = without_mark(text);
    if text.trim_start().starts_with('{')
        && let Some(found) = json::in_a_row(text)?
    {
        return Ok(found);
    }
    let mut parts = Vec::new();
    // Where the document that is being read begins: its offset and its line.
    let (mut start, mut first, mut at) = (0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if let Some(rest) = marker(line) {
            parts.push((first, &text[start..at]));
            let content = rest.trim_start();
            (start, first) = if content.is_empty() {
                (at + line.len(), number + 1)
            } else {
                (at + line.len() - content.len(), number)
            };
        }
        at += line.len();
    }
    parts.push((first, &text[start..]));
    if parts.len() > MAX_OBJECTS {
        let (line, what) = (parts[MAX_OBJECTS].0, format!("the text has more than {MAX_OBJECTS} documents: split it"));
        return Err(YamlError { line, column: 1, what, is_understood: true });
    }
    parts.into_iter().filter(|(_, text)| !text.trim().is_empty()).map(|(line, text)| read(line, text)).collect()
}

fn read(line: u64, text: &str) -> Result<Document<'_>, YamlError> {
    let text = without_mark(text);
    let is_content = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#' | '%'));
    let (value, lines) = match text.lines().any(is_content) {
        true => compose(text, line)?.map(|(value, lines)| (Some(value), lines)).unwrap_or_default(),
        false => (None, Lines::default()),
    };
    Ok(Document { text, line, value: value.filter(|value| !value.is_null()), is_json: false, lines })
}

/// A byte order mark says nothing in UTF-8. Some editors write one, and files that are put together have it in the middle.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// What follows the marker between documents on its line, if the line is one.
fn marker(line: &str) -> Option<&str> {
    let rest = without_mark(line).strip_prefix("---")?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r'])).then_some(rest)
}
