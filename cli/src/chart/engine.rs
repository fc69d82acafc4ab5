//! Go templates with the functions of Helm that our chart uses, no more.
//!
//! `gotmpl` is the template language; the functions here are Helm's and Sprig's of the same names. A function that a
//! template uses and that is not here is an error when the template is parsed, so a chart that renders with Helm and
//! not here cannot go unnoticed. It reads no files and knows no cluster (no `lookup`).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotmpl::{FuncMap, Template, TemplateError, Value};
use serde_json::Value as Json;

use crate::yaml;

/// Templates call each other: what they share is known only once all are parsed.
type Helpers = OnceLock<Template>;
type FuncResult = Result<Value, TemplateError>;

/// Why a template gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The template called `fail`: the values do not suffice. The text says what to give.
    #[error("{0}")]
    Refused(String),
    /// The template itself is wrong; the fault is the chart's.
    #[error("the template {file}: {error}")]
    Template {
        /// Which.
        file: String,
        /// What is wrong.
        error: TemplateError,
    },
}

/// Renders each template with the data; `helpers` holds the named parts. The texts are in the order of the templates.
pub(super) fn render(helpers: &str, templates: &[(&str, &str)], data: &Json) -> Result<Vec<String>, EngineError> {
    let shared = Arc::new(Helpers::new());
    let functions = functions(&shared);
    let at = |file: &str| {
        let file = file.to_owned();
        move |error| match error {
            TemplateError::Exec(text) if text.starts_with(FAILED) => {
                EngineError::Refused(text[FAILED.len()..].to_owned())
            }
            error => EngineError::Template { file, error },
        }
    };
    let named = Template::new("_helpers.tpl").funcs(functions.clone()).parse(helpers).map_err(at("_helpers.tpl"))?;
    // It is empty until here, so it takes the value.
    let _ = shared.set(named);
    let data = value(data);
    let one = |(file, text): &(&str, &str)| {
        let template = Template::new(file).funcs(functions.clone()).parse(text).map_err(at(file))?;
        template.execute_to_string(&data).map_err(at(file))
    };
    templates.iter().map(one).collect()
}

/// How the error of `fail` is told from others.
const FAILED: &str = "fail: ";

fn functions(helpers: &Arc<Helpers>) -> FuncMap {
    // A weak one: the functions are part of what they point to.
    let helpers: Weak<Helpers> = Arc::downgrade(helpers);
    let include = move |args: &[Value]| {
        let [name, data] = exactly("include", args)?;
        let helpers = helpers.upgrade();
        let Some(named) = helpers.as_ref().and_then(|helpers| helpers.get()) else {
            return Err(TemplateError::Exec("include: the named parts are not parsed yet".into()));
        };
        Ok(text(named.execute_template_to_string(&name.to_string(), data)?))
    };
    let mut map = FuncMap::new();
    let mut add = |name: &str, function: fn(&[Value]) -> FuncResult| map.insert(name.into(), Arc::new(function));
    add("fail", |args| Err(TemplateError::Exec(format!("{FAILED}{}", exactly::<1>("fail", args)?[0]))));
    add("default", |args| {
        let [other, given] = exactly("default", args)?;
        Ok(if given.is_truthy() { given } else { other }.clone())
    });
    add("toYaml", |args| Ok(text(yaml::write(&json(&exactly::<1>("toYaml", args)?[0])?))));
    add("toJson", |args| Ok(text(json(&exactly::<1>("toJson", args)?[0])?.to_string())));
    add("nindent", |args| {
        let [width, given] = exactly("nindent", args)?;
        let indent = " ".repeat(integer(width)?.try_into().unwrap_or_default());
        Ok(text(format!("\n{indent}{}", given.to_string().replace('\n', &format!("\n{indent}")))))
    });
    add("quote", |args| Ok(text(Json::from(exactly::<1>("quote", args)?[0].to_string()).to_string())));
    add("trim", |args| Ok(text(exactly::<1>("trim", args)?[0].to_string().trim().to_owned())));
    add("b64enc", |args| Ok(text(STANDARD.encode(exactly::<1>("b64enc", args)?[0].to_string()))));
    add("int", |args| Ok(Value::Int(integer(&exactly::<1>("int", args)?[0])?)));
    add("list", |args| Ok(Value::List(args.into())));
    add("dict", |args| {
        let pairs = args.chunks_exact(2).map(|pair| (pair[0].to_string().into(), pair[1].clone()));
        Ok(Value::Map(Arc::new(pairs.collect())))
    });
    add("omit", |args| {
        let (map, names) = args.split_first().ok_or_else(|| wrong("omit", "a dict"))?;
        let mut map = entries("omit", map)?.clone();
        names.iter().for_each(|name| drop(map.remove(name.to_string().as_str())));
        Ok(Value::Map(Arc::new(map)))
    });
    add("set", |args| {
        let [map, name, given] = exactly("set", args)?;
        let mut map = entries("set", map)?.clone();
        map.insert(name.to_string().into(), given.clone());
        Ok(Value::Map(Arc::new(map)))
    });
    map.insert("include".into(), Arc::new(include));
    map
}

fn exactly<'a, const N: usize>(name: &str, args: &'a [Value]) -> Result<&'a [Value; N], TemplateError> {
    args.try_into().map_err(|_| TemplateError::Exec(format!("{name} takes {N} arguments, and has {}", args.len())))
}

fn wrong(name: &str, expected: &str) -> TemplateError {
    TemplateError::Exec(format!("{name} takes {expected}"))
}

fn entries<'a>(name: &str, value: &'a Value) -> Result<&'a BTreeMap<Arc<str>, Value>, TemplateError> {
    if let Value::Map(map) = value { Ok(map) } else { Err(wrong(name, "a dict")) }
}

fn text(text: String) -> Value {
    Value::String(text.into())
}

fn integer(value: &Value) -> Result<i64, TemplateError> {
    match value {
        Value::String(text) => text.parse().map_err(|_| wrong("int", "a whole number")),
        Value::Float(number) => Ok(*number as i64),
        other => other.as_int().ok_or_else(|| wrong("int", "a whole number")),
    }
}

/// A template's value of a JSON value.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(map) => {
            Value::Map(Arc::new(map.iter().map(|(name, item)| (name.as_str().into(), value(item))).collect()))
        }
    }
}

/// A JSON value of a template's value.
fn json(value: &Value) -> Result<Json, TemplateError> {
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(number) => Json::from(*number),
        Value::Uint(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::String(text) => Json::from(&**text),
        Value::List(items) => Json::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let entries = map.iter().map(|(name, item)| Ok((name.to_string(), json(item)?)));
            Json::Object(entries.collect::<Result<_, TemplateError>>()?)
        }
        Value::Function(_) => return Err(wrong("toYaml", "data, not a function")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String, EngineError> {
        let helpers = r#"{{ define "twice" }}{{ . }}{{ . }}{{ end }}{{ define "both" }}{{ include "twice" .a }}-{{ .b }}{{ end }}"#;
        let data = json!({"n": 3, "f": 1.5, "s": "a b", "e": "", "m": {"y": 1, "x": [true, null]}});
        Ok(render(helpers, &[("t.yaml", template)], &data)?.remove(0))
    }

    #[test]
    fn functions_do_what_helms_do() {
        for (template, expected) in [
            (r#"{{ include "both" (dict "a" .s "b" .n) }}"#, "a ba b-3"),
            (r#"{{ .e | default "d" }}{{ .s | default "d" }}"#, "da b"),
            ("{{ toJson .m }}", r#"{"x":[true,null],"y":1}"#),
            ("a:{{ toYaml .m | nindent 2 }}", "a:\n  x:\n  - true\n  - null\n  \"y\": 1"),
            ("{{ quote .s }}{{ .n | quote }}", r#""a b""3""#),
            (r#"{{ " x " | trim | b64enc }}"#, "eA=="),
            (r#"{{ int "7" }}{{ int .f }}{{ gt (int .n) 2 }}"#, "71true"),
            (r#"{{ range $k, $v := dict "b" 2 "a" 1 }}{{ $k }}{{ $v }}{{ end }}"#, "a1b2"),
            (r#"{{ range list "b" "a" }}{{ . }}{{ end }}"#, "ba"),
            (r#"{{ toJson (set (omit .m "x" "z") "w" 1) }}"#, r#"{"w":1,"y":1}"#),
        ] {
            assert_eq!(rendered(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn failing_says_only_what_the_template_says() {
        let error = rendered(r#"{{ fail "give x" }}"#).unwrap_err();
        assert!(matches!(&error, EngineError::Refused(text) if text == "give x"), "{error}");
        for wrong in
            ["{{ lookup }}", "{{ .n", "{{ int .m }}", "{{ include \"none\" . }}", "{{ omit .s }}", "{{ quote }}"]
        {
            let error = rendered(wrong).unwrap_err().to_string();
            assert!(error.contains("t.yaml"), "{wrong}: {error}");
        }
    }
}
