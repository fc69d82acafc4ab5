//! One line: the attributes of a record, in one of the two formats.

use std::{fmt::Write as _, sync::Arc};

use mesh_policy::access_log::{Attributes, Format};
use serde_json::Value;

use crate::finished::Finished;

/// A record that is logged, and what is told of it beyond the usual.
pub(crate) struct Line {
    pub(super) record: Arc<Finished>,
    pub(super) named: Arc<Attributes>,
}

impl Line {
    /// Appends the line, with its end.
    pub(super) fn write(&self, format: Format, text: &mut String) {
        let attributes = self.record.attributes(&self.named);
        match format {
            Format::Json => {
                // A map of text and numbers cannot fail.
                let _ = write!(text, "{}", Value::Object(attributes));
            }
            Format::Text => {
                for (place, (name, value)) in attributes.iter().enumerate() {
                    let gap = if place > 0 { " " } else { "" };
                    let _ = match value {
                        Value::String(value) if is_plain(value) => write!(text, "{gap}{name}={value}"),
                        value => write!(text, "{gap}{name}={value}"),
                    };
                }
            }
        }
        text.push('\n');
    }
}

/// Whether a value needs no quotes.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}
