//! The answer for people.

use crossterm::style::Color;
use mesh_policy::duration::shown as duration;

use super::{
    explained::Explained,
    question::{Asked, Question},
    words,
};
use crate::{authorization, output::Style};

/// Rules that lost and are printed one by one; `-o json` has them all.
const MAX_TRIED: usize = 50;

/// The whole answer, in lines.
pub(super) fn write(explained: &Explained, question: &Question, style: Style) -> String {
    let mut lines = vec![style.bold(&format!("{}, for clients in {}", title(question), explained.from))];
    let mut add = |name: &str, said: String| lines.push(format!("  {name:<9} {said}"));
    add("target", explained.target.clone());
    let colour = if explained.is_refused() { Color::Red } else { Color::Green };
    add("verdict", style.paint(&verdict(explained), colour));
    if let Some(route) = &explained.route {
        add("route", format!("{} {}/{}", route.kind, route.namespace, route.name));
    }
    if let Some(rule) = &explained.rule {
        let name = rule.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let matched = explained.matched.as_ref().map(|matched| format!(": {matched}")).unwrap_or_default();
        add("rule", format!("{}{name}{matched}", rule.index));
    }
    for filter in &explained.filters {
        add("filter", words::filter_words(filter));
    }
    let limits = [("whole", explained.timeouts.request), ("each attempt", explained.timeouts.backend_request)];
    let limits: Vec<String> =
        limits.into_iter().filter_map(|(what, limit)| Some(format!("{what} {}", duration(limit?)))).collect();
    if !limits.is_empty() {
        add("timeouts", limits.join(", "));
    }
    if let Some(retry) = &explained.retry {
        add("retry", words::retry_words(retry));
    }
    if let Some(session) = &explained.session {
        add("session", words::session_words(session));
    }
    for backend in &explained.backends {
        let to = match (&backend.service, &backend.invalid) {
            (Some(service), _) => service.clone(),
            (None, Some(why)) => style.paint(&format!("answered 500: {why}"), Color::Red),
            (None, None) => "nothing".to_owned(),
        };
        let filters =
            backend.filters.iter().map(|filter| format!("; {}", words::filter_words(filter))).collect::<String>();
        add("backend", format!("{:>6} %  {to} (weight {}){filters}", words::trim(backend.share), backend.weight));
    }
    if let (Some(sent), Asked::Request(request)) = (&explained.sent, &question.asked) {
        let path = request.query.as_ref().map_or(request.path.clone(), |query| format!("{}?{query}", request.path));
        if sent.host != request.host || sent.path != path {
            add("sent", format!("{} {} with host {}", request.method, sent.path, sent.host));
        }
    }
    server(&mut lines, explained, style);
    section(&mut lines, "tried before", &tried(explained));
    let problems: Vec<String> = explained.problems.iter().map(|said| style.paint(said, Color::Yellow)).collect();
    section(&mut lines, "problems", &problems);
    section(&mut lines, "notes", &explained.notes);
    lines.join("\n")
}

/// What the servers' sidecars decide.
fn server(lines: &mut Vec<String>, explained: &Explained, style: Style) {
    let Some(server) = &explained.server else { return };
    if server.has_no_policy() {
        let said = if server.has_no_pods() { "none: there is no pod" } else { "lets everyone in: no policy" };
        lines.push(format!("  server    {said}"));
        return;
    }
    for group in &server.decided {
        let said = authorization::line(group);
        let colour = if group.decided.verdict.is_refused() { Color::Red } else { Color::Green };
        lines.push(format!("  server    {}", style.paint(&said, colour)));
        let details = authorization::details(&group.decided).into_iter().chain(authorization::nearest(&group.decided));
        lines.extend(details.map(|line| format!("    {line}")));
    }
}

fn section(lines: &mut Vec<String>, title: &str, content: &[String]) {
    if !content.is_empty() {
        lines.push(format!("  {title}"));
        lines.extend(content.iter().map(|line| format!("    {line}")));
    }
}

fn tried(explained: &Explained) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for lost in explained.tried.iter().take(MAX_TRIED) {
        let name = lost.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        lines.push(format!("{} rule {}{name}: {}", lost.route, lost.rule, lost.why));
    }
    if explained.tried.len() > MAX_TRIED {
        lines.push(format!("and {} more; -o json has them", explained.tried.len() - MAX_TRIED));
    }
    lines
}

/// What is asked, in a line.
pub(crate) fn title(question: &Question) -> String {
    match &question.asked {
        Asked::Request(request) => {
            let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{} {}://{}{}{query}", request.method, request.scheme, question.authority, request.path)
        }
        Asked::Connection { sni: Some(sni) } => format!("TLS to {} for {sni}", question.authority),
        Asked::Connection { sni: None } => format!("a connection to {}", question.authority),
    }
}

fn verdict(explained: &Explained) -> String {
    let answer = explained.answer.as_ref();
    let status = answer.and_then(|answer| answer.status).map_or("closed".to_owned(), |status| status.to_string());
    match explained.verdict {
        "default" => "no route applies: what was called serves it itself".to_owned(),
        "forward" => "forwarded".to_owned(),
        "redirect" => {
            let location = answer.and_then(|answer| answer.location.as_deref()).unwrap_or_default();
            format!("answered {status}, location {location}")
        }
        "preflight" => {
            let headers = answer.and_then(|answer| answer.headers.as_object());
            let headers = headers.into_iter().flatten().map(|(name, value)| {
                format!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            });
            let headers: Vec<String> = headers.collect();
            let said = if headers.is_empty() { "the origin is not allowed".to_owned() } else { headers.join(", ") };
            format!("answered {status}, a CORS preflight: {said}")
        }
        "not-found" => format!("{status}: routes are attached and no rule matches"),
        "no-backends" => format!("{status}: the rule has no backend with a weight above 0"),
        "invalid-backends" => format!("{status}: none of the rule's backends can be served"),
        "unknown-target" => format!("{status}: nothing is known by this name or address"),
        "unknown-address" => format!("{status}: it is not known who has this address of the cluster"),
        other => other.to_owned(),
    }
}
