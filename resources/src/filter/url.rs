//! Redirects and rewrites: what they say of hosts, paths and ports.

use mesh_policy::{PathModifier, Redirect, Rewrite, filter::redirect::REDIRECT_CODES, name::is_subdomain};

use crate::{
    problem::Report,
    walker::{Invalid, Node},
};

/// Longest replacement of a path (Gateway API, `HTTPPathModifier`).
const MAX_PATH_LENGTH: usize = 1024;

/// Decodes `requestRedirect`.
pub(super) fn decode_redirect(body: &Node<'_>, report: &mut Report<'_>) -> Result<Redirect, Invalid> {
    body.only(&["scheme", "hostname", "path", "port", "statusCode"], report)?;
    let status = match body.integer("statusCode", 100..=999, report)?.and_then(|code| u16::try_from(code).ok()) {
        None => Redirect::default().status,
        Some(code) if REDIRECT_CODES.contains(&code) => code,
        Some(code) => {
            let fix = "use 301, 302, 303, 307 or 308";
            return Err(body.unsupported("statusCode", format!("{code} is not a redirect known here"), fix, report));
        }
    };
    Ok(Redirect {
        scheme: body.one_of("scheme", &["http", "https"], report)?.map(Into::into),
        hostname: hostname(body, report)?,
        path: decode_path(body, report)?,
        port: body.port("port", report)?,
        status,
    })
}

/// Decodes `urlRewrite`.
pub(super) fn decode_rewrite(body: &Node<'_>, report: &mut Report<'_>) -> Result<Rewrite, Invalid> {
    body.only(&["hostname", "path"], report)?;
    Ok(Rewrite { hostname: hostname(body, report)?, path: decode_path(body, report)? })
}

fn hostname(body: &Node<'_>, report: &mut Report<'_>) -> Result<Option<Box<str>>, Invalid> {
    Ok(body.name("hostname", is_subdomain, report)?.map(Into::into))
}

fn decode_path(body: &Node<'_>, report: &mut Report<'_>) -> Result<Option<PathModifier>, Invalid> {
    let Some(path) = body.object("path", report)? else { return Ok(None) };
    let Some(kind) = path.one_of("type", &["ReplaceFullPath", "ReplacePrefixMatch"], report)? else {
        return Err(path.invalid("type", "`type` is required".to_owned(), "write it", report));
    };
    let field = if kind == "ReplaceFullPath" { "replaceFullPath" } else { "replacePrefixMatch" };
    path.only(&["type", field], report)?;
    let Some(text) = path.text(field, report)? else {
        return Err(path.invalid(field, format!("`{field}` is required"), "write it", report));
    };
    if text.len() > MAX_PATH_LENGTH {
        let what = format!("{field} has {} bytes; it must have at most {MAX_PATH_LENGTH}", text.len());
        return Err(path.invalid(field, what, "shorten it", report));
    }
    let is_path = text.is_empty() || text.starts_with('/');
    if !is_path || !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        let what = format!("{} can be no path of a request", crate::walker::short(text));
        let fix = "write an absolute path, percent-encoded, without ? and #";
        return Err(path.unsupported(field, what, fix, report));
    }
    Ok(Some(match (kind, text) {
        // A path is never empty.
        ("ReplaceFullPath", "") => PathModifier::Full("/".into()),
        ("ReplaceFullPath", text) => PathModifier::Full(text.into()),
        (_, text) => PathModifier::Prefix(text.into()),
    }))
}
