//! `meshctl authz report`: who called, what was refused, and what policies in shadow would have refused.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use crossterm::style::Color;
use serde::Serialize;
use serde_json::Value;

use super::{
    seen::{self, Entry, PolicySum},
    sidecars::{self, Asked, Silent},
};
use crate::{
    globals::Globals,
    kube::Cluster,
    output::{self, Format, JSON, Style, YAML, columns, formats},
};

/// Arguments of `meshctl authz report`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl authz report -n shop
  meshctl authz report -A -o wide
  meshctl authz report -n shop -o json

It sums what the sidecars of running pods saw since they started, asked through port-forwards.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(super) struct Args {
    /// Of all namespaces
    #[arg(long, short = 'A')]
    pub(super) all_namespaces: bool,
    /// How to print it
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 4] =
    [(Format::Table, "Callers that matter, and what to do"), (Format::Wide, "As table, with all callers"), JSON, YAML];

/// Whether callers without identity may be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Strict {
    /// `null`: it is not known.
    pub safe: Option<bool>,
    /// In words, with what to do.
    pub said: String,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether it is safe to refuse callers without identity.
    pub strict: Strict,
    /// Sidecars that were asked.
    pub asked: usize,
    /// Every caller.
    pub callers: Vec<Entry>,
    /// What each policy decided.
    pub policies: Vec<PolicySum>,
    /// Pods whose sidecars could not be asked.
    pub not_asked: Vec<Silent>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let report = crate::cmd::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        let (asked, all) = ask(&cluster, args.all_namespaces).await?;
        Ok(report(asked, &all))
    })?;
    match args.output {
        Format::Json | Format::Yaml => output::line(&output::pretty(args.output, &report)?)?,
        format => output::line(&text(&report, format == Format::Wide, Style::stdout()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the sidecars. Also gives the pods whose addresses may be those of callers.
pub(super) async fn ask(cluster: &Cluster, all_namespaces: bool) -> anyhow::Result<(Asked, Vec<Value>)> {
    let namespace = (!all_namespaces).then_some(cluster.namespace());
    let mut pods = sidecars::pods(cluster, namespace).await.context("pods cannot be listed")?;
    let asked = sidecars::ask(cluster, &pods).await;
    let place = namespace.map_or("the cluster".to_owned(), |namespace| format!("namespace {namespace}"));
    ensure!(
        !asked.pods.is_empty() || !asked.silent.is_empty(),
        "no running pod of {place} has a sidecar; see: meshctl check --proxy"
    );
    if namespace.is_some() && seen::has_unknown(&asked.pods, &seen::addresses(&pods)) {
        // Without that right addresses stay addresses.
        if let Ok(all) = sidecars::pods(cluster, None).await {
            pods = all;
        }
    }
    Ok((asked, pods))
}

/// What is made of what was seen.
pub(super) fn report(asked: Asked, all: &[Value]) -> Report {
    let callers = seen::entries(&asked.pods, &seen::addresses(all));
    Report {
        strict: strict(&callers, &asked.silent),
        asked: asked.pods.len(),
        policies: seen::policies(&asked.pods),
        callers,
        not_asked: asked.silent,
    }
}

fn strict(callers: &[Entry], silent: &[Silent]) -> Strict {
    let plain = callers.iter().filter(|entry| entry.identity.is_none() && entry.counts.allowed > 0);
    let known = plain.clone().filter(|entry| !entry.is_rest()).count();
    let (safe, said) = if known > 0 {
        let what = if known == 1 { "1 caller without identity was" } else { "callers without identity were" };
        let number = if known == 1 { String::new() } else { format!("{known} ") };
        let said = format!(
            "no: {number}{what} let in; mesh it (meshctl inject), or except it by ports and cidrs, before requireMeshIdentity \
             of a ClusterAuthorizationPolicy is enforced"
        );
        (Some(false), said)
    } else if plain.count() > 0 {
        let said = "not known: a sidecar saw more callers than it tells apart; restart its pod, and look again";
        (None, said.to_owned())
    } else if !silent.is_empty() {
        let said = format!("not known: {} sidecars could not be asked; see: meshctl check --proxy", silent.len());
        (None, said)
    } else {
        let said = "yes: nobody without identity was let in since these sidecars started; write a ClusterAuthorizationPolicy with \
                    requireMeshIdentity, first with mode: Shadow";
        (Some(true), said.to_owned())
    };
    Strict { safe, said }
}

/// The report for people.
pub(super) fn text(report: &Report, is_wide: bool, style: Style) -> String {
    let mut parts = Vec::new();
    let of = |wanted: fn(&Entry) -> bool| report.callers.iter().filter(|entry| wanted(entry)).collect::<Vec<_>>();
    if is_wide {
        parts.extend(table("callers", &report.callers.iter().collect::<Vec<_>>(), None, style));
    }
    let plain = of(|entry| entry.identity.is_none());
    parts.extend(table("called without identity", &plain, None, style));
    let denied = of(|entry| entry.counts.denied > 0);
    parts.extend(table("denied", &denied, Some(|entry| entry.last_denied_by.clone()), style));
    let shadow = of(|entry| entry.counts.shadow_denied > 0);
    let by: Option<By> = Some(|entry| entry.last_shadow_denied_by.clone());
    parts.extend(table("would be denied by policies in shadow", &shadow, by, style));
    if !report.not_asked.is_empty() {
        let rows = report.not_asked.iter().map(|silent| vec![silent.pod.clone(), silent.why.clone()]);
        parts.push(format!("{}\n{}", style.bold("could not be asked"), columns(&["POD", "WHY"], rows)));
    }
    let denials = if denied.is_empty() { "nothing was denied" } else { "see what was denied above" };
    let colour = match report.strict.safe {
        Some(true) => Color::Green,
        Some(false) => Color::Red,
        None => Color::Yellow,
    };
    parts.push(format!(
        "{} sidecars were asked; {denials}\nsafe to refuse callers without identity? {}",
        report.asked,
        style.paint(&report.strict.said, colour)
    ));
    parts.join("\n\n")
}

/// The rule that a table is about.
type By = fn(&Entry) -> Option<String>;

fn table(title: &str, entries: &[&Entry], by: Option<By>, style: Style) -> Option<String> {
    const HEAD: [&str; 8] = ["SERVER", "PORT", "PROTOCOL", "CALLER", "ALLOWED", "DENIED", "SHADOW", "LAST SEEN"];
    if entries.is_empty() {
        return None;
    }
    let cells = |entry: &&Entry| {
        let number = |count: u64| if count == 0 { "-".to_owned() } else { count.to_string() };
        let port = if entry.port == 0 { "-".to_owned() } else { entry.port.to_string() };
        let mut cells = vec![
            entry.server.clone(),
            port,
            entry.protocol.clone(),
            entry.who(),
            number(entry.counts.allowed),
            number(entry.counts.denied),
            number(entry.counts.shadow_denied),
            entry.last_seen.map_or_else(|| "-".to_owned(), |at| at.to_string()),
        ];
        cells.extend(by.map(|by| by(entry).unwrap_or_else(|| "-".to_owned())));
        cells
    };
    let mut head = HEAD.to_vec();
    head.extend(by.map(|_| "BY"));
    Some(format!("{}\n{}", style.bold(title), columns(&head, entries.iter().map(cells))))
}
