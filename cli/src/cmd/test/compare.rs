//! Compares what was decided with what was expected.

use std::collections::BTreeMap;

use mesh_policy::{Filter, Mirror, shown::percent};
use serde::Serialize;
use serde_json::Value;

use super::suite::{Expect, RuleKey, SentExpect, Texts};
use crate::cmd::explain::{Explained, Share, trim};

/// One thing that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// What is compared.
    pub field: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub found: String,
}

/// Shares are written with at most one place after the point, as in 33.3.
const TOLERANCE: f64 = 0.1;
/// The share that is answered 500.
const INVALID: &str = "invalid";

/// What is not as expected.
pub(super) fn differences(expect: &Expect, explained: &Explained) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |field: &str, expected: String, is: String| {
        if expected != is {
            found.push(Difference { field: field.to_owned(), expected, found: is });
        }
    };
    if let Some(verdict) = &expect.verdict {
        compare("verdict", verdict.clone(), explained.verdict.to_owned());
    }
    let route = explained.route.as_ref().map(|route| format!("{}/{}", route.namespace, route.name));
    if let Some(expected) = &expect.route {
        compare("route", or_none(expected.clone()), or_none(route));
    }
    if let Some(expected) = &expect.rule {
        let rule = explained.rule.as_ref();
        match expected {
            RuleKey::Index(index) => {
                compare("rule", index.to_string(), or_none(rule.map(|rule| rule.index.to_string())));
            }
            RuleKey::Name(name) => compare("rule", name.clone(), or_none(rule.and_then(|rule| rule.name.clone()))),
        }
    }
    if let Some(expected) = &expect.redirect {
        let location = explained.answer.as_ref().and_then(|answer| answer.location.clone());
        compare("redirect", expected.clone(), or_none(location));
    }
    if let Some(expected) = expect.status {
        let status = explained.answer.as_ref().and_then(|answer| answer.status);
        compare("status", expected.to_string(), or_none(status.map(|status| status.to_string())));
    }
    if let Some(expected) = &expect.filters {
        compare("filters", expected.join(", "), kinds(&explained.filters).join(", "));
    }
    let (retry, session) = (explained.retry.as_ref().map(json), explained.session.as_ref().map(json));
    for (field, expected, is) in [("retry", &expect.retry, &retry), ("session", &expect.session, &session)] {
        match (expected, is) {
            (Some(Some(expected)), Some(is)) => differ(field, expected, is, &mut compare),
            (Some(expected), is) => {
                compare(
                    field,
                    or_none(expected.as_ref().map(Value::to_string)),
                    or_none(is.as_ref().map(Value::to_string)),
                );
            }
            (None, _) => {}
        }
    }
    if let Some(expected) = &expect.timeouts {
        differ("timeouts", expected, &json(&explained.timeouts), &mut compare);
    }
    if let Some(expected) = &expect.headers {
        let none = Value::Null;
        headers("headers", expected, explained.answer.as_ref().map_or(&none, |answer| &answer.headers), &mut compare);
    }
    if let Some(expected) = &expect.sent {
        sent(expected, explained, &mut compare);
    }
    refusals(expect, explained, &mut compare);
    if let Some(expected) = &expect.backends {
        found.extend(backends("backends", &proportions(expected), &shares(&explained.backends)));
    }
    if let Some(expected) = &expect.mirrors {
        found.extend(backends("mirrors", expected, &mirrors(&explained.filters)));
    }
    found
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}

/// Compares the keys that are expected.
fn differ(field: &str, expected: &Value, is: &Value, compare: &mut impl FnMut(&str, String, String)) {
    match expected.as_object() {
        Some(keys) => {
            for (key, value) in keys {
                differ(&format!("{field}.{key}"), value, is.get(key).unwrap_or(&Value::Null), compare);
            }
        }
        None => compare(field, expected.to_string(), is.to_string()),
    }
}

/// As `explain -o json` shows it.
fn json(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

fn kinds(filters: &[Filter]) -> Vec<&'static str> {
    filters.iter().map(Filter::type_name).collect()
}

fn headers(
    field: &str,
    expected: &BTreeMap<String, Option<Texts>>,
    is: &Value,
    compare: &mut impl FnMut(&str, String, String),
) {
    for (name, expected) in expected {
        let expected = expected.as_ref().map(|values| values.texts().join(" | "));
        let is = is.get(name.to_ascii_lowercase()).map(|value| match value {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
            one => one.as_str().unwrap_or_default().to_owned(),
        });
        compare(&format!("{field}.{name}"), or_none(expected), or_none(is));
    }
}

fn sent(expected: &SentExpect, explained: &Explained, compare: &mut impl FnMut(&str, String, String)) {
    let is = explained.sent.as_ref();
    if let Some(host) = &expected.host {
        compare("sent.host", host.clone(), or_none(is.map(|sent| sent.host.clone())));
    }
    if let Some(path) = &expected.path {
        compare("sent.path", path.clone(), or_none(is.map(|sent| sent.path.clone())));
    }
    let none = Value::Null;
    if let Some(expected) = &expected.headers {
        headers("sent.headers", expected, is.map_or(&none, |sent| &sent.headers), compare);
    }
    if let Some(expected) = &expected.response_headers {
        headers("sent.responseHeaders", expected, is.map_or(&none, |sent| &sent.response_headers), compare);
    }
}

fn refusals(expect: &Expect, explained: &Explained, compare: &mut impl FnMut(&str, String, String)) {
    if let Some(expected) = &expect.refused {
        let invalid = explained.backends.iter().filter_map(|backend| backend.invalid.as_deref());
        let said: Vec<&str> = invalid
            .chain(explained.problems.iter().map(String::as_str))
            .chain(explained.notes.iter().map(String::as_str))
            .collect();
        let holds = explained.is_refused() && said.iter().any(|said| said.contains(expected.as_str()));
        let is = match explained.is_refused() {
            _ if holds => expected.clone(),
            true if said.is_empty() => explained.verdict.to_owned(),
            true => said.join(" | "),
            false => format!("it is served ({})", explained.verdict),
        };
        compare("refused", expected.clone(), is);
    }
    for expected in expect.problems.iter().flatten() {
        let holds = explained.problems.iter().any(|problem| problem.contains(expected.as_str()));
        let is = if holds { expected.clone() } else { explained.problems.join(" | ") };
        compare("problems", expected.clone(), is);
    }
}

/// Shares by backend, in percent, without those that get nothing.
fn shares(backends: &[Share]) -> Vec<(String, f64)> {
    let named = |share: &Share| (share.service.clone().unwrap_or_else(|| INVALID.to_owned()), share.share);
    backends.iter().map(named).filter(|(_, share)| *share > 0.0).collect()
}

fn mirrors(filters: &[Filter]) -> Vec<(String, f64)> {
    let mirrors = filters.iter().filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(mirror),
        _ => None,
    });
    let named = |mirror: &Mirror| {
        let service = mirror.target.service().unwrap_or_else(|| INVALID.to_owned());
        (service, percent(mirror.numerator.into(), mirror.denominator.into()))
    };
    mirrors.map(named).collect()
}

/// Numbers as percents of their sum.
fn proportions(numbers: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let total: f64 = numbers.values().sum();
    let percent = |number: &f64| if total > 0.0 { number * 100.0 / total } else { 0.0 };
    numbers.iter().map(|(name, number)| (name.clone(), percent(number))).collect()
}

fn backends(field: &str, expected: &BTreeMap<String, f64>, is: &[(String, f64)]) -> Option<Difference> {
    let mut by_key: BTreeMap<&str, f64> = expected.keys().map(|key| (key.as_str(), 0.0)).collect();
    for (backend, share) in is {
        let key = expected.keys().find(|key| names(key, backend)).unwrap_or(backend);
        *by_key.entry(key).or_default() += share;
    }
    let holds = by_key.len() == expected.len()
        && by_key.iter().all(|(key, share)| expected.get(*key).is_some_and(|e| (e - share).abs() <= TOLERANCE));
    let words = |list: Vec<(&str, f64)>| {
        let words: Vec<String> = list.iter().map(|(name, share)| format!("{name} {} %", trim(*share))).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    };
    (!holds).then(|| Difference {
        field: field.to_owned(),
        expected: words(expected.iter().map(|(key, share)| (key.as_str(), *share)).collect()),
        found: words(is.iter().map(|(key, share)| (key.as_str(), *share)).collect()),
    })
}

/// Whether `name`, `name:port`, `namespace/name` or `namespace/name:port` names a backend, which is written in full.
fn names(key: &str, backend: &str) -> bool {
    let Some((namespace, rest)) = backend.split_once('/') else { return key == backend };
    let name = rest.rsplit_once(':').map_or(rest, |(name, _)| name);
    key == backend || key == rest || key == name || key.split_once('/') == Some((namespace, name))
}
