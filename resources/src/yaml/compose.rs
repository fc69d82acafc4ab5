//! A document from the events of the parser: a value, and the line of each part of it.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::{
    YamlError,
    scalar::{Scalar, resolve},
    words,
};
use crate::{
    lines::{Lines, Located},
    object::{MAX_ALIAS_EVENTS, MAX_DEPTH},
};

/// Reads the one document of a text that begins at a line of its file; `None` where there is nothing in it.
pub(super) fn compose(text: &str, first_line: u64) -> Result<Option<(Value, Lines)>, YamlError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let mut composer = Composer { parser, skipped: first_line - 1, anchors: HashMap::new(), replayed: 0 };
    let mut found = None;
    loop {
        let (event, span) = composer.next()?;
        match event {
            Event::StreamEnd => return Ok(found.map(Located::into_parts)),
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ if found.is_some() => {
                let what =
                    "the document ended at `...`, and kubectl reads nothing behind it; begin the next one with `---`";
                return Err(composer.error(&span, what));
            }
            event => found = Some(composer.node(event, &span, 0)?),
        }
    }
}

struct Composer<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// Lines of the file before the document.
    skipped: u64,
    /// What has an anchor; `None` while it is being read.
    anchors: HashMap<usize, Option<Located>>,
    /// How many values aliases have repeated.
    replayed: usize,
}

impl<'t> Composer<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(found)) => Ok(found),
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Err(error)) => {
                let (line, column) = (error.marker().line().max(1) as u64, error.marker().col() as u64 + 1);
                let is_understood = matches!(error.kind(), granit_parser::ErrorKind::RecursionLimitExceeded);
                Err(YamlError { line: line + self.skipped, column, what: words::of(&error), is_understood })
            }
        }
    }

    fn line(&self, span: &Span) -> u32 {
        u32::try_from(span.start.line() as u64 + self.skipped).unwrap_or(u32::MAX)
    }

    fn error(&self, span: &Span, what: impl Into<String>) -> YamlError {
        let (line, column) = (self.line(span).into(), span.start.col() as u64 + 1);
        YamlError { line, column, what: what.into(), is_understood: true }
    }

    /// The value that begins with an event.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Located, YamlError> {
        if depth > MAX_DEPTH {
            return Err(self.error(span, words::too_deep()));
        }
        let anchor = event.anchor_id();
        if let Some(id) = anchor {
            self.anchors.insert(id, None);
        }
        let line = self.line(span);
        let node = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, _, tag) => {
                let value = scalar(&text, style, tag.as_deref()).and_then(Scalar::into_value);
                Located::scalar(value.map_err(|what| self.error(span, what))?, line)
            }
            Event::SequenceStart(..) => {
                let mut list = Located::scalar(Value::Null, line);
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(list.holding(self.node(event, &span, depth + 1)?));
                }
                list.value = items.into();
                list
            }
            Event::MappingStart(..) => self.map(line, depth)?,
            _ => return Err(self.error(span, "a value is expected here")),
        };
        if let Some(id) = anchor {
            self.anchors.insert(id, Some(node.clone()));
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Located, YamlError> {
        match self.anchors.get(&id) {
            Some(Some(node)) => {
                self.replayed = self.replayed.saturating_add(node.size());
                if self.replayed > MAX_ALIAS_EVENTS {
                    let what =
                        format!("aliases repeat more than {MAX_ALIAS_EVENTS} values; write them out, or fewer of them");
                    return Err(self.error(span, what));
                }
                Ok(node.clone())
            }
            _ => Err(self.error(span, "an alias stands for a value that it is itself a part of")),
        }
    }

    fn map(&mut self, line: u32, depth: usize) -> Result<Located, YamlError> {
        let mut fields: BTreeMap<String, Located> = BTreeMap::new();
        let mut written: HashMap<String, u32> = HashMap::new();
        let mut first = None;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key_line = self.line(&span);
            first = first.or(Some(key_line));
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<")
                || event.tag().is_some_and(|tag| tag.is_yaml_core("merge"));
            let key = if is_merge { String::new() } else { self.key(event, &span, depth)? };
            let (event, value_span) = self.next()?;
            let mut value = self.node(event, &value_span, depth + 1)?;
            if is_merge {
                fields.extend(merged(value).map_err(|what| self.error(&value_span, what))?);
                continue;
            }
            if let Some(before) = written.insert(key.clone(), key_line) {
                let what = format!("the field `{key}` is there twice, first in line {before}; remove one of the two");
                return Err(self.error(&span, what));
            }
            value.set_line(key_line);
            fields.insert(key, value);
        }
        let mut map = Located::scalar(Value::Null, first.unwrap_or(line));
        let mut object = Map::new();
        // Sorted, as a walk over the finished object goes.
        for (name, field) in fields {
            object.insert(name, map.holding(field));
        }
        map.value = object.into();
        Ok(map)
    }

    fn key(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<String, YamlError> {
        let key = match event {
            Event::Scalar(text, style, 0, tag) => scalar(&text, style, tag.as_deref()).and_then(Scalar::into_key),
            event => match self.node(event, span, depth + 1)?.value {
                Value::String(text) => Ok(text),
                value @ (Value::Bool(_) | Value::Number(_)) => Ok(value.to_string()),
                _ => Err("a key is a map, a list or null; only texts can be keys".to_owned()),
            },
        };
        key.map_err(|what| self.error(span, what))
    }
}

/// The fields that a merge key (`<<`) brings: of several maps the first goes before the others.
fn merged(value: Located) -> Result<BTreeMap<String, Located>, String> {
    let no_map = || "what is merged by `<<` is no map and no list of maps".to_owned();
    let maps = if value.value.is_array() { value.into_items() } else { vec![value] };
    let mut fields = BTreeMap::new();
    for map in maps.into_iter().rev() {
        fields.extend(map.into_fields().ok_or_else(no_map)?);
    }
    Ok(fields)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    const OWN: [&str; 7] = ["str", "binary", "null", "bool", "int", "float", "timestamp"];
    match (style, tag) {
        (ScalarStyle::Plain, None) => resolve(None, text),
        // A tag that is not YAML's own says nothing about the value: it is a text.
        (_, Some(tag)) => match OWN.iter().find(|known| tag.is_yaml_core(known)) {
            Some(known) => resolve(Some(known), text),
            None => Ok(Scalar::Text(text.to_owned())),
        },
        (_, None) => Ok(Scalar::Text(text.to_owned())),
    }
}

/// Whether a tag is one of YAML's own, by name.
trait OfYaml {
    fn is_yaml_core(&self, name: &str) -> bool;
}

impl OfYaml for Tag {
    fn is_yaml_core(&self, name: &str) -> bool {
        self.suffix_in_namespace("tag:yaml.org,2002:").is_some_and(|suffix| suffix == name)
    }
}
