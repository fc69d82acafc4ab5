//! `meshctl authz --from A --to B`: yes or no, and why.

use std::process::ExitCode;

use anyhow::{anyhow, bail, ensure};
use crossterm::style::Color;
use http::HeaderMap;
use serde::Serialize;

use super::{Args, Read, callee::Callee};
use crate::{
    authorization::{self, Caller, Group, Named, Objects, Verdict, Who, caller, groups, named},
    cmd::explain::{Asked, Question},
    globals::Globals,
    output::{self, Format, Style},
};

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    /// Whether all pods let the caller in.
    pub allowed: bool,
    /// Why, in a line.
    pub reason: String,
    /// Who calls.
    pub from: Caller,
    /// `namespace/name:port` of the Service, or what was named.
    pub to: String,
    /// What is sent.
    pub request: String,
    /// What the pods decide, those of equal decisions together.
    pub decided: Vec<Group>,
    /// What could not be seen or was taken for granted.
    pub notes: Vec<String>,
}

pub(super) fn run(args: &Args, from: &str, to: &str, globals: &Globals) -> anyhow::Result<ExitCode> {
    let callee = Callee::read(to)?;
    let caller = named(from);
    let of_pod = match caller {
        Named::PodOf { namespace, .. } => Some(namespace),
        _ => None,
    };
    let others: Vec<&str> = callee.namespace.into_iter().chain(of_pod).collect();
    let workloads: Vec<Named<'_>> = callee.workload().into_iter().chain([caller]).collect();
    let Read { objects, namespace, notes } = super::read(args, globals, &others, &workloads)?;
    let namespace = namespace.as_deref().or_else(|| namespace_in(&objects, caller, &callee)).unwrap_or(super::DEFAULT);
    let mut answer = answer(args, from, to, &objects, namespace)?;
    answer.notes.extend(notes);
    match args.output {
        Format::Json | Format::Yaml => output::line(&output::pretty(args.output, &answer)?)?,
        format => {
            output::line(&text(&answer, format == Format::Wide, Style::stdout()))?;
            super::tell(&answer.notes);
        }
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The namespace of manifests where nothing says one: that of the caller, else of what is called.
fn namespace_in<'o>(objects: &'o Objects, caller: Named<'_>, callee: &Callee<'_>) -> Option<&'o str> {
    let of_caller = match caller {
        Named::Workload { kind, name } => objects.all.iter().find(|object| object.is(kind) && object.name == name),
        _ => None,
    };
    of_caller.map(|object| object.namespace.as_str()).or_else(|| callee.namespace_in(objects))
}

fn is_nobody(from: &str) -> bool {
    ["none", "unauthenticated"].iter().any(|word| from.eq_ignore_ascii_case(word))
}

/// Decides.
pub(super) fn answer(args: &Args, from: &str, to: &str, objects: &Objects, namespace: &str) -> anyhow::Result<Answer> {
    let callee = Callee::read(to)?;
    let mut caller = match named(from) {
        _ if is_nobody(from) => Caller::new("a caller without identity", Who::Nobody),
        Named::Namespace(_) => bail!(
            "--from {from} names a namespace; name who calls, as in deploy/front, sa/front, NAMESPACE/POD, spiffe://... or none"
        ),
        named => caller(objects, named, namespace).map_err(|why| anyhow!(why))?,
    };
    caller.source = args.source_ip.or(caller.source);
    let called = callee.one_called(objects, namespace)?;
    let question = question(args, &callee.host(namespace))?;
    let facts = match &question.asked {
        Asked::Connection { .. } => None,
        Asked::Request(request) => Some(request.facts()),
    };
    let decided = groups(called.service.as_deref(), &called.behind, &caller, facts.as_ref());
    ensure!(
        decided.iter().all(|group| group.decided.verdict != Verdict::NoPods),
        "{} has no pods, so nobody decides; see: kubectl get endpointslices",
        called.service.as_deref().unwrap_or(to)
    );
    let mut notes = authorization::notes(objects, &called.behind, &caller);
    notes.append(&mut caller.notes);
    let refused: Vec<&Group> = decided.iter().filter(|group| group.decided.verdict.is_refused()).collect();
    Ok(Answer {
        allowed: refused.is_empty(),
        reason: reason(&decided, &refused),
        request: match &question.asked {
            Asked::Connection { .. } => "a connection".to_owned(),
            Asked::Request(request) => format!("{} {}", request.method, request.path),
        },
        from: caller,
        to: called.service.unwrap_or_else(|| to.to_owned()),
        decided,
        notes,
    })
}

/// What is sent, as the words after the flags say it.
fn question(args: &Args, host: &str) -> anyhow::Result<Question> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        headers.append(name.clone(), value.clone());
    }
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Question::new("GET", host, headers),
        [tcp] if tcp.eq_ignore_ascii_case("tcp") => Question::new("", &format!("tcp://{host}:1"), headers),
        [path] if path.starts_with('/') => Question::new("GET", &format!("{host}{path}"), headers),
        [grpc, call] if grpc.eq_ignore_ascii_case("grpc") => Question::grpc(host, call, headers),
        [method, path] if path.starts_with('/') => Question::new(method, &format!("{host}{path}"), headers),
        _ => bail!(
            "what is asked is not understood; write METHOD PATH, as in: GET /cart, or: grpc shop.Cart/Add, or: tcp"
        ),
    }
}

fn reason(decided: &[Group], refused: &[&Group]) -> String {
    let Some(first) = refused.first().copied().or_else(|| decided.first()) else { return String::new() };
    let mut said = first.decided.reason.clone();
    if let Some(nearest) = authorization::nearest(&first.decided) {
        said.push_str(&format!("; {nearest}"));
    }
    if !refused.is_empty() && refused.len() < decided.len() {
        let pods = |groups: &mut dyn Iterator<Item = &Group>| groups.map(|group| group.pods.len()).sum::<usize>();
        let names: Vec<&str> = refused.iter().flat_map(|group| &group.pods).map(String::as_str).collect();
        let (no, all) = (names.len(), pods(&mut decided.iter()));
        said.push_str(&format!("; pods differ, {no} of {all} say no: {}", names.join(", ")));
    }
    said
}

/// The answer for people.
pub(super) fn text(answer: &Answer, is_wide: bool, style: Style) -> String {
    let (word, colour) = if answer.allowed { ("yes", Color::Green) } else { ("no", Color::Red) };
    let mut lines = vec![format!("{}: {}", style.paint(word, colour), answer.reason)];
    lines.push(format!("  {} to {}, {}", answer.from.name, answer.to, answer.request));
    // Of one group the first line has said it.
    let is_said_once = answer.decided.len() == 1 && !is_wide;
    for group in &answer.decided {
        if !is_said_once {
            lines.push(format!("  {}", authorization::line(group)));
        }
        lines.extend(authorization::details(&group.decided).iter().map(|line| format!("    {line}")));
        let nearest = authorization::nearest(&group.decided).filter(|_| !is_said_once);
        lines.extend(nearest.map(|line| format!("    {line}")));
    }
    lines.join("\n")
}
