//! YAML and JSON as kubectl, Helm and API servers read them.
//!
//! They read YAML 1.1: `0400` is 256, `yes` is true, and whatever two readers take differently opens a Secret to a group or keeps
//! a pod from starting. So texts are split into documents as kubectl splits them (`documents.rs`), scalars are resolved by the rules
//! of its library (`scalar.rs`), and values are put together here (`compose.rs`): with merge keys and aliases, and with the line of each
//! value. JSON objects may follow each other in one text (`json.rs`). What is wrong is said in our own words (`words.rs`).
//!
//! Reading is bounded in size, depth, objects and alias expansion. Unlike kubectl, which takes the last of two equal keys and drops what
//! stands behind `...`, this tells of both: silence loses something.

use std::fmt;

use serde_json::Value;

use crate::lines::Lines;

mod compose;
mod documents;
mod json;
mod scalar;
#[cfg(test)]
mod tests;
mod words;

pub use documents::{decode, documents};

/// One document of a text.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    /// Its text, with its comments and without the marker before it.
    pub text: &'t str,
    /// The line of the text's beginning, from 1.
    pub line: u64,
    /// Its value; `None` where there is none but comments or null.
    pub value: Option<Value>,
    /// Whether it is one of several JSON values in a row: then `---` was not between them, and it can be read as JSON only.
    pub is_json: bool,
    /// The lines of its values, counted from the beginning of the whole text.
    pub(crate) lines: Lines,
}

impl Document<'_> {
    /// The line of its first value, or of its beginning.
    pub fn first_line(&self) -> u64 {
        self.value.as_ref().and_then(|value| self.lines.of(value, "")).unwrap_or(self.line)
    }
}

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong.
    pub what: String,
    /// Whether the text is YAML, and it is what it says that cannot be.
    pub(crate) is_understood: bool,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for YamlError {}

/// Reads a text that is one document; null where it is empty.
pub fn value(text: &str) -> Result<Value, YamlError> {
    let mut found = documents(text)?.into_iter().filter(|document| document.value.is_some());
    let first = found.next().and_then(|document| document.value).unwrap_or_default();
    match found.next() {
        None => Ok(first),
        Some(second) => Err(YamlError {
            line: second.line,
            column: 1,
            what: "a second document begins here; only one is read".to_owned(),
            is_understood: true,
        }),
    }
}
