//! `meshctl authz [SERVICE]`: who may call what, a row for each caller that a rule names.

use std::collections::BTreeSet;

use anyhow::ensure;
use mesh_policy::{
    Target, WorkloadPolicy,
    authorization::{Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Level, Tier},
};
use serde::Serialize;
use serde_json::json;

use super::{
    Args, Read,
    callee::{Called, Callee},
};
use crate::{
    authorization::{Behind, Objects, behind, openness},
    globals::Globals,
    output::{self, Format, columns},
};

/// Who may call a port by one rule, or what becomes of all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// `namespace/name:port` of the Service; `null`: the pods themselves.
    pub service: Option<String>,
    /// The port of the pods.
    pub port: u16,
    /// `namespace/name` of each.
    pub pods: Vec<String>,
    /// The caller, as in `spiffe://...`, `anyone` or `everyone else`.
    pub caller: String,
    /// `Network` or `Application`; `null`: no policy says anything.
    pub level: Option<&'static str>,
    /// The operations; empty: every one.
    pub operations: Vec<String>,
    /// As in `AuthorizationPolicy shop/web`; `null`: none.
    pub policy: Option<String>,
    /// Which of its rules, from 0; `null`: none of them.
    pub rule: Option<usize>,
    /// `Admin`, `Namespace` or `Baseline`.
    pub tier: Option<String>,
    /// `ALLOW`, `DENY`, `AUDIT`; `closed` for what no ALLOW lets in, `open` where no policy says anything.
    pub action: String,
    /// `Enforce` or `Shadow`.
    pub mode: Option<&'static str>,
}

/// A Service in a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    /// `namespace/name:port`.
    pub service: String,
    /// As in `closed but for 3 rules`.
    pub access: String,
}

pub(super) fn run(args: &Args, globals: &Globals) -> anyhow::Result<()> {
    ensure!(args.words.len() <= 1, "one SERVICE is listed at a time; for a question give --from and --to");
    let Some(text) = args.words.first() else {
        let Read { objects, namespace, notes } = super::read(args, globals, &[], &[])?;
        let rows = summaries(&objects, namespace.as_deref());
        super::tell(&notes);
        return output::line(&print_summaries(&rows, args.output)?);
    };
    let callee = Callee::read(text)?;
    let others: Vec<&str> = callee.namespace.into_iter().collect();
    let workloads: Vec<_> = callee.workload().into_iter().collect();
    let Read { objects, namespace, notes } = super::read(args, globals, &others, &workloads)?;
    let namespace = namespace.as_deref().or_else(|| callee.namespace_in(&objects)).unwrap_or(super::DEFAULT);
    let called = callee.called(&objects, namespace)?;
    super::tell(&notes);
    output::line(&print(&rows(&called), args.output)?)
}

/// Each port of each Service: of a namespace, or of all.
pub(super) fn summaries(objects: &Objects, namespace: Option<&str>) -> Vec<Summary> {
    let snapshot = &objects.snapshot;
    let mut rows = Vec::new();
    for (key, service) in snapshot.services.iter() {
        if namespace.is_some_and(|namespace| namespace != &*key.namespace) {
            continue;
        }
        for port in &service.ports {
            let service = mesh_policy::ServiceRef::new(key.namespace.clone(), key.name.clone(), port.port);
            let name = service.to_string();
            let words: BTreeSet<String> = behind(snapshot, &Target::Service(service)).iter().map(access).collect();
            let words: Vec<String> = words.into_iter().collect();
            let access = match words.as_slice() {
                [] => "no pods".to_owned(),
                [one] => one.clone(),
                several => format!("pods differ: {}", several.join("; ")),
            };
            rows.push(Summary { service: name, access });
        }
    }
    rows
}

fn access(behind: &Behind) -> String {
    match &behind.policy {
        Some(policy) => openness(policy, behind.port),
        None => "open to everyone (no sidecar)".to_owned(),
    }
}

/// A row for each caller of each rule, and one for all others.
pub(super) fn rows(called: &[Called]) -> Vec<Row> {
    let mut rows = Vec::new();
    for Called { service, behind } in called {
        for Behind { port, pods, policy } in behind {
            let row = Row {
                service: service.clone(),
                port: *port,
                pods: pods.clone(),
                caller: "everyone".to_owned(),
                level: None,
                operations: Vec::new(),
                policy: None,
                rule: None,
                tier: None,
                action: if policy.is_some() { "open" } else { "no sidecar" }.to_owned(),
                mode: None,
            };
            let of_policy = policy.as_ref().map(|policy| of_policy(policy, &row)).unwrap_or_default();
            rows.extend(if of_policy.is_empty() { vec![row] } else { of_policy });
        }
    }
    rows
}

fn of_policy(policy: &WorkloadPolicy, like: &Row) -> Vec<Row> {
    let mut about: Vec<&AuthorizationPolicy> = policy.authorization.iter().filter(|p| p.is_about(like.port)).collect();
    let action = |policy: &AuthorizationPolicy| match policy.action {
        Action::Deny => 0,
        Action::Allow => 1,
        Action::Audit => 2,
    };
    about.sort_by(|a, b| (a.tier, action(a), &a.name).cmp(&(b.tier, action(b), &b.name)));
    let mut rows: Vec<Row> = about.iter().flat_map(|policy| of_rules(policy, like)).collect();
    let mut is_closed = false;
    for level in Level::ALL {
        let allows = about.iter().filter(|p| p.level == level && p.action == Action::Allow && p.tier != Tier::Admin);
        let mut enforced = allows.filter(|policy| policy.mode == Enforcement::Enforce);
        // The policies are in the order of tiers, and the first tier closes.
        if let Some(closing) = enforced.next() {
            rows.push(Row { caller: "everyone else".to_owned(), action: "closed".to_owned(), ..row_of(closing, like) });
            is_closed = true;
        }
    }
    if !rows.is_empty() && !is_closed {
        rows.push(Row { caller: "everyone else".to_owned(), ..like.clone() });
    }
    rows
}

fn row_of(policy: &AuthorizationPolicy, like: &Row) -> Row {
    Row {
        level: Some(match policy.level {
            Level::Network => "Network",
            Level::Application => "Application",
        }),
        policy: Some(policy.name.to_string()),
        tier: Some(policy.tier.to_string()),
        action: policy.action.to_string(),
        mode: Some(match policy.mode {
            Enforcement::Enforce => "Enforce",
            Enforcement::Shadow => "Shadow",
        }),
        ..like.clone()
    }
}

fn of_rules(policy: &AuthorizationPolicy, like: &Row) -> Vec<Row> {
    let here = policy.rules.iter().enumerate();
    let here = here.filter(|(_, rule)| rule.ports.as_ref().is_none_or(|ports| ports.contains(like.port)));
    let of_rule = |(place, rule): (usize, &AuthorizationRule)| {
        let callers: Vec<String> = match &rule.sources {
            None => vec!["anyone".to_owned()],
            Some(sources) if sources.is_empty() => vec!["nobody".to_owned()],
            Some(sources) => sources.iter().map(ToString::to_string).collect(),
        };
        let operations: Vec<String> = rule.to.iter().flatten().map(ToString::to_string).collect();
        let row = |caller| Row { caller, rule: Some(place), operations: operations.clone(), ..row_of(policy, like) };
        callers.into_iter().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<Row> = here.flat_map(of_rule).collect();
    if rows.is_empty() { vec![Row { caller: "nobody".to_owned(), ..row_of(policy, like) }] } else { rows }
}

pub(super) fn print(rows: &[Row], format: Format) -> anyhow::Result<String> {
    const NARROW: [&str; 7] = ["SERVICE", "PORT", "CALLER", "LEVEL", "OPERATIONS", "POLICY", "ACTION"];
    const MORE: [&str; 3] = ["TIER", "MODE", "PODS"];
    Ok(match format {
        Format::Json | Format::Yaml => output::pretty(format, &json!({ "access": rows }))?,
        Format::Wide => columns(&[&NARROW[..], &MORE].concat(), rows.iter().map(|row| cells(row, true))),
        _ => columns(&NARROW, rows.iter().map(|row| cells(row, false))),
    })
}

fn cells(row: &Row, is_wide: bool) -> Vec<String> {
    let none = || "-".to_owned();
    let policy = match (&row.policy, row.rule) {
        (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
        (Some(policy), None) => policy.clone(),
        (None, _) => none(),
    };
    let shadow = if row.mode == Some("Shadow") { " (Shadow)" } else { "" };
    let mut cells = vec![
        row.service.clone().unwrap_or_else(none),
        row.port.to_string(),
        row.caller.clone(),
        row.level.map_or_else(none, str::to_owned),
        match row.operations.as_slice() {
            [] if row.level.is_some() && row.rule.is_some() => "every".to_owned(),
            [] => none(),
            operations => operations.join(" or "),
        },
        policy,
        if is_wide { row.action.clone() } else { format!("{}{shadow}", row.action) },
    ];
    if is_wide {
        cells.push(row.tier.clone().unwrap_or_else(none));
        cells.push(row.mode.map_or_else(none, str::to_owned));
        cells.push(row.pods.join(", "));
    }
    cells
}

fn print_summaries(rows: &[Summary], format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json | Format::Yaml => output::pretty(format, &json!({ "services": rows }))?,
        _ if rows.is_empty() => "there is no Service here; -n names another namespace".to_owned(),
        _ => columns(&["SERVICE", "ACCESS"], rows.iter().map(|row| vec![row.service.clone(), row.access.clone()])),
    })
}
