//! The grammar of `--set a.b=c`, as Helm's package `strvals` reads it: `a.b=c,d=e`, lists `a={x,y}`, places in lists
//! `a[0].b=c`, and `\` before a character that would mean something.
//!
//! Values are what they look like: `true`, `false`, `null` and whole numbers without a leading zero; the rest is text.
//! `--set-string` leaves all as text, `--set-file` reads a file.

use serde_json::{Map, Value};

/// Highest place in a list, as in Helm: a typing error must not fill the memory.
const MAX_INDEX: usize = 65_536;
/// Deepest nesting, as in Helm.
const MAX_DEPTH: usize = 30;

/// How the text behind `=` is understood.
#[derive(Clone, Copy)]
pub(super) enum ParseAs<'a> {
    /// By what it looks like (`--set`).
    Typed,
    /// As text (`--set-string`).
    Text,
    /// As the name of a file whose content is the value (`--set-file`).
    File(&'a dyn Fn(&str) -> Result<String, String>),
}

/// Sets in `values`, which is a map, what `line` says.
pub(super) fn apply(values: &mut Value, line: &str, parse_as: ParseAs<'_>) -> Result<(), String> {
    let mut reader = Reader { rest: line.chars().collect(), at: 0, parse_as };
    while reader.at < reader.rest.len() {
        let path = reader.path()?;
        let value = reader.value()?;
        put(values, &path, value)?;
    }
    Ok(())
}

/// A step into a value.
#[derive(Debug)]
enum Step {
    Name(String),
    Index(usize),
}

struct Reader<'a> {
    rest: Vec<char>,
    at: usize,
    parse_as: ParseAs<'a>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let found = self.rest.get(self.at).copied();
        self.at += usize::from(found.is_some());
        found
    }

    /// Text up to one of the characters that end it, and which; `\` takes the next one's meaning.
    fn until(&mut self, ends: &str) -> (String, Option<char>) {
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                '\\' => text.extend(self.next()),
                c if ends.contains(c) => return (text, Some(c)),
                c => text.push(c),
            }
        }
        (text, None)
    }

    /// What stands before `=`.
    fn path(&mut self) -> Result<Vec<Step>, String> {
        let mut path = Vec::new();
        loop {
            let (name, end) = self.until("=,.[");
            let after_index = matches!(path.last(), Some(Step::Index(_)));
            if name.is_empty() && !(after_index && end != Some('.')) && !(after_index && path.len() > 1) {
                return Err("a name is missing before `=` or `.`".to_owned());
            }
            if after_index && !name.is_empty() && self.rest[self.at - name.chars().count() - 2] != '.' {
                return Err(format!("`.`, `[` or `=` must follow `]`, not {name:?}"));
            }
            if !name.is_empty() {
                path.push(Step::Name(name));
            }
            if path.len() > MAX_DEPTH {
                return Err(format!("values are at most {MAX_DEPTH} levels deep"));
            }
            match end {
                Some('=') => return Ok(path),
                Some('.') => {}
                Some('[') => {
                    let (index, end) = self.until("]");
                    let index = index.parse().ok().filter(|index| *index <= MAX_INDEX && end.is_some());
                    path.push(Step::Index(index.ok_or(format!("`[` needs a number up to {MAX_INDEX} and `]`"))?));
                }
                _ => return Err(format!("{} has no value: write NAME=VALUE", shown(&path))),
            }
        }
    }

    /// What stands behind `=`, and the `,` after it.
    fn value(&mut self) -> Result<Value, String> {
        if self.rest.get(self.at) != Some(&'{') || matches!(self.parse_as, ParseAs::File(_)) {
            let text = self.until(",").0;
            return self.typed(text);
        }
        self.at += 1;
        let mut items = Vec::new();
        loop {
            let (text, end) = self.until(",}");
            if !(text.is_empty() && items.is_empty() && end == Some('}')) {
                items.push(self.typed(text)?);
            }
            match end {
                Some('}') => break,
                Some(_) => {}
                None => return Err("a list that begins with `{` must end with `}`".to_owned()),
            }
        }
        match self.next() {
            None | Some(',') => Ok(Value::Array(items)),
            Some(c) => Err(format!("`,` or nothing must follow `}}`, not {c:?}")),
        }
    }

    fn typed(&self, text: String) -> Result<Value, String> {
        match self.parse_as {
            ParseAs::Text => return Ok(text.into()),
            ParseAs::File(read) => return read(&text).map(Value::from),
            ParseAs::Typed => {}
        }
        Ok(match text.as_str() {
            _ if text.eq_ignore_ascii_case("true") => true.into(),
            _ if text.eq_ignore_ascii_case("false") => false.into(),
            _ if text.eq_ignore_ascii_case("null") => Value::Null,
            "0" => 0.into(),
            _ if text.starts_with('0') => text.into(),
            _ => text.parse::<i64>().map_or(text.into(), Value::from),
        })
    }
}

fn put(values: &mut Value, path: &[Step], value: Value) -> Result<(), String> {
    let mut slot = values;
    for (n, step) in path.iter().enumerate() {
        slot = match step {
            Step::Name(name) => {
                if slot.is_null() {
                    *slot = Value::Object(Map::new());
                }
                let map = slot.as_object_mut().ok_or_else(|| format!("{} is no map", shown(&path[..n])))?;
                map.entry(name.clone()).or_insert(Value::Null)
            }
            Step::Index(index) => {
                if slot.is_null() {
                    *slot = Value::Array(Vec::new());
                }
                let list = slot.as_array_mut().ok_or_else(|| format!("{} is no list", shown(&path[..n])))?;
                if list.len() <= *index {
                    list.resize(index + 1, Value::Null);
                }
                &mut list[*index]
            }
        };
    }
    *slot = value;
    Ok(())
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Name(name) if text.is_empty() => text.push_str(name),
            Step::Name(name) => text.push_str(&format!(".{name}")),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn set(line: &str) -> Result<Value, String> {
        let mut values = json!({});
        apply(&mut values, line, ParseAs::Typed).map(|()| values)
    }

    #[test]
    fn lines_as_helm_reads_them() {
        for (line, expected) in [
            ("", json!({})),
            ("a=1,b=x", json!({"a": 1, "b": "x"})),
            ("a.b.c=true,a.b.d=", json!({"a": {"b": {"c": true, "d": ""}}})),
            ("a={x,2,},b={}", json!({"a": ["x", 2, ""], "b": []})),
            ("a[1].b=x,a[0]=y", json!({"a": ["y", {"b": "x"}]})),
            ("a[0][1]=3", json!({"a": [[null, 3]]})),
            (r"a\.b=x\,y,c=a\=b", json!({"a.b": "x,y", "c": "a=b"})),
            ("a=b=c", json!({"a": "b=c"})),
            (
                "a=0,b=012,c=-3,d=1.5,e=TRUE,f=null,g=1e3",
                json!({"a": 0, "b": "012", "c": -3, "d": "1.5", "e": true, "f": null, "g": "1e3"}),
            ),
            ("a= x ", json!({"a": " x "})),
        ] {
            assert_eq!(set(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, expected) in [
            ("a", "a has no value"),
            ("a.b,c=1", "a.b has no value"),
            ("=1", "a name is missing"),
            ("a..b=1", "a name is missing"),
            ("a[x]=1", "needs a number"),
            ("a[65537]=1", "needs a number"),
            ("a[0=1", "needs a number"),
            ("a[0]b=1", "must follow `]`"),
            ("a={x", "must end with `}`"),
            ("a={x}y", "must follow `}`"),
            ("a=1,a.b=2", "a is no map"),
            ("a=1,a[0]=2", "a is no list"),
        ] {
            let message = set(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
        assert!(set(&format!("{}a=1", "a.".repeat(40))).unwrap_err().contains("levels"));
    }

    #[test]
    fn text_and_files() {
        let mut values = json!({});
        apply(&mut values, "a=1,b=true", ParseAs::Text).unwrap();
        let read = |name: &str| Ok(format!("content of {name}"));
        apply(&mut values, "c.d=x.pem", ParseAs::File(&read)).unwrap();
        assert_eq!(values, json!({"a": "1", "b": "true", "c": {"d": "content of x.pem"}}));
        assert!(apply(&mut values, "a=x", ParseAs::File(&|_| Err("no file".into()))).unwrap_err().contains("no file"));
    }
}
