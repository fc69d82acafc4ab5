//! Whether an answer is what a test of `data/explain` expects of it: `specification.rs` gets the answers through a real
//! proxy.

use serde_json::Value;

/// An answer, whatever protocol brought it.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub is_of_head: bool,
}

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    fn error(&self) -> Option<&str> {
        self.all("mesh-proxy-error").first().copied()
    }
}

/// A text, or several.
pub fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    value.as_array().map_or_else(|| vec![text(value)], |all| all.iter().map(text).collect())
}

/// What is wrong with an answer, by what was expected of it. Also tells which server answered.
pub fn judge(test: &Value, seen: &Seen) -> Result<Option<String>, String> {
    let expect = &test["expect"];
    let grpc = test["request"]["grpc"].is_string();
    let verdict = match expect["verdict"].as_str() {
        Some(verdict) => verdict,
        None if expect["redirect"].is_string() => "redirect",
        None if expect["status"] == 404 => "not-found",
        None if expect["status"].is_u64() || !expect["refused"].is_null() => "refused",
        None => "forward",
    };
    let own = |error: &str, status: u16| {
        // A caller of gRPC gets 200 and the status of gRPC in a trailer.
        let right = seen.error() == Some(error) && (grpc || seen.status == status);
        if right { Ok(None) } else { Err(format!("not {status} {error}")) }
    };
    let found = match verdict {
        "not-found" => own("no-route", 404),
        "no-backends" | "invalid-backends" | "refused" => own("invalid-backend", 500),
        "unknown-target" => own("unknown-target", 503),
        "redirect" | "preflight" if seen.error().is_some() => Err("an error of the proxy".to_owned()),
        "redirect" | "preflight" => Ok(None),
        "forward" | "default" => backend(expect, seen),
        other => Err(format!("unknown verdict {other}")),
    }?;
    if !grpc
        && let Some(status) = expect["status"].as_u64()
        && u64::from(seen.status) != status
        && found.is_none()
    {
        return Err(format!("status is not {status}"));
    }
    if let Some(location) = expect["redirect"].as_str()
        && seen.all("location") != [location]
    {
        return Err(format!("location is not {location}"));
    }
    compare(&expect["headers"], |name| seen.all(name).into_iter().map(str::to_owned).collect())?;
    if found.is_some() {
        sent(&expect["sent"], seen)?;
    }
    Ok(found)
}

/// Which backend answered, if it is one of those that may.
fn backend(expect: &Value, seen: &Seen) -> Result<Option<String>, String> {
    let shares = expect["backends"].as_object();
    if seen.is_of_head && seen.status == 200 {
        // It has no body, and so no name.
        return Ok(None);
    }
    if seen.error() == Some("invalid-backend") && shares.is_some_and(|shares| shares.contains_key("invalid")) {
        return Ok(Some("invalid".to_owned()));
    }
    let body: Value = serde_json::from_slice(&seen.body).map_err(|_| "not from a backend".to_owned())?;
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    match shares {
        None => Ok(Some(name)),
        Some(shares) => match shares.keys().find(|wanted| is_backend(wanted, &name)) {
            Some(wanted) => Ok(Some(wanted.clone())),
            None => Err(format!("from {name}")),
        },
    }
}

/// Whether `name`, `name:port`, `namespace/name` or `namespace/name:port` means `namespace/name:port`.
fn is_backend(wanted: &str, full: &str) -> bool {
    let full = if wanted.contains('/') { full } else { full.split_once('/').map_or(full, |(_, rest)| rest) };
    if wanted.contains(':') { full == wanted } else { full.rsplit_once(':').is_some_and(|(name, _)| name == wanted) }
}

/// What the backend saw.
fn sent(expect: &Value, seen: &Seen) -> Result<(), String> {
    let Ok(body) = serde_json::from_slice::<Value>(&seen.body) else { return Ok(()) };
    for part in ["host", "path"] {
        if !expect[part].is_null() && expect[part] != body[part] {
            return Err(format!("{part} at the backend is {}, not {}", body[part], expect[part]));
        }
    }
    compare(&expect["headers"], |name| {
        let values = body["headers"][name.to_ascii_lowercase()].as_array();
        values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    })?;
    compare(&expect["responseHeaders"], |name| seen.all(name).into_iter().map(str::to_owned).collect())
}

fn compare(expect: &Value, found: impl Fn(&str) -> Vec<String>) -> Result<(), String> {
    for (name, wanted) in expect.as_object().into_iter().flatten() {
        let wanted = if wanted.is_null() { Vec::new() } else { texts(wanted) };
        // Several lines of a header mean the same as one with commas (RFC 9110 section 5.3).
        let (wanted, found) = (wanted.join(", "), found(name).join(", "));
        if wanted.replace(", ", ",") != found.replace(", ", ",") {
            return Err(format!("{name} is {found:?}, not {wanted:?}"));
        }
    }
    Ok(())
}
