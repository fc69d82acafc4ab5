//! `meshctl routes`: the routes in force for each port of a Service, what the controller says of them, and how their
//! requests fare.
//!
//! What is in force is compiled from the objects as the controller does it. Traffic is what the clients' sidecars count:
//! their metrics are read twice, and the difference is shown.

mod rows;
#[cfg(test)]
mod tests;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::Parser;
use mesh_resources::{Options, Snapshot};
use serde_json::json;

use self::{
    rows::{Row, Told},
    traffic::Traffic,
};
use super::explain::trim;
use crate::{
    clock,
    globals::Globals,
    kube::Cluster,
    manifests::{self, ManifestFiles, Wanted},
    output::{self, Format, JSON, YAML, columns, formats},
};

/// Arguments of `meshctl routes`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl routes -n shop
  meshctl routes web -n shop -o wide
  meshctl routes -A --window 10s
  meshctl routes --manifests k8s/ -A

Traffic is what sidecars of the namespaces shown count while the window lasts; --window 0s leaves it out.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    /// A Service: NAME (in the namespace of --namespace) or NAMESPACE/NAME; all of the namespace if not given
    #[arg(value_name = "SERVICE", conflicts_with = "all_namespaces")]
    service: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Show what these files and folders say, instead of a cluster; - for standard input
    #[arg(long, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// For how long traffic is watched
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = window)]
    window: Duration,
    /// How to print them
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 4] = [
    (Format::Table, "A line for each rule"),
    (Format::Wide, "As table, with matches, filters and clients"),
    JSON,
    YAML,
];

/// Longest window, since a person waits for it.
const MAX_WINDOW: Duration = Duration::from_secs(60);

fn window(text: &str) -> Result<Duration, String> {
    clock::duration(text, MAX_WINDOW)
}

/// Prints the routes.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let (rows, notes) = if args.manifests.is_empty() {
        super::block_on(of_cluster(args, globals))?
    } else {
        let objects = ManifestFiles::read(&args.manifests)?.into_objects()?;
        let options = Options { meshed_by_label: true, ..Options::default() };
        let (snapshot, _) = Snapshot::from_objects(&objects, options);
        let namespace = globals.namespace.as_deref();
        // Without -n no namespace of a folder is meant more than others.
        let shown = rows::Shown::new(args.service.as_deref(), args.all_namespaces || namespace.is_none(), namespace);
        (rows::rows(&snapshot, &objects, &shown, Told::ByController), Vec::new())
    };
    notes.iter().for_each(|note| output::note(note));
    output::line(&print(&rows, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

async fn of_cluster(args: &Args, globals: &Globals) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let cluster = Cluster::connect(globals).await?;
    let namespace = cluster.namespace().to_owned();
    let found = manifests::read_cluster(&cluster, Wanted::Routes, &[&namespace]).await?;
    let (snapshot, _) = Snapshot::from_objects(&found.objects, found.options);
    let shown = rows::Shown::new(args.service.as_deref(), args.all_namespaces, Some(&namespace));
    let mut rows = rows::rows(&snapshot, &found.objects, &shown, Told::ByObjects);
    let mut notes = found.notes;
    if rows.is_empty()
        && let Some(service) = &args.service
    {
        return Err(anyhow!("there is no Service {service} in {namespace}; see: meshctl routes -A"));
    }
    if !args.window.is_zero() && !rows.is_empty() {
        match traffic::watch(&cluster, args.window, &mut notes).await {
            Ok(traffic) => rows.iter_mut().for_each(|row| row.traffic = traffic.get(&row.labels())),
            Err(why) => notes.push(format!("no traffic is shown: {why:#}")),
        }
    }
    Ok((rows, notes))
}

fn print(rows: &[Row], format: Format) -> anyhow::Result<String> {
    const NARROW: [&str; 9] = ["SERVICE", "ROUTE", "RULE", "BACKENDS", "STATUS", "SUCCESS", "RPS", "P50", "P99"];
    const MORE: [&str; 3] = ["CLIENTS", "MATCHES", "FILTERS"];
    Ok(match format {
        Format::Json | Format::Yaml => output::pretty(format, &json!({ "routes": rows }))?,
        _ if rows.is_empty() => "there is no Service here; -A shows all namespaces".to_owned(),
        Format::Wide => columns(&[&NARROW[..], &MORE].concat(), rows.iter().map(|row| cells(row, true))),
        _ => columns(&NARROW, rows.iter().map(|row| cells(row, false))),
    })
}

fn cells(row: &Row, is_wide: bool) -> Vec<String> {
    let none = || "-".to_owned();
    let rule = match (row.rule, &row.name) {
        (Some(index), Some(name)) => format!("{index} ({name})"),
        (Some(index), None) => index.to_string(),
        (None, _) => none(),
    };
    let backends: Vec<String> = row.backends.iter().map(rows::Backend::words).collect();
    let mut cells = vec![
        row.service.clone(),
        row.route.clone().unwrap_or_else(none),
        rule,
        if backends.is_empty() { none() } else { backends.join(", ") },
        row.status.clone().unwrap_or_else(none),
    ];
    cells.extend(match &row.traffic {
        Some(Traffic { success, rps, p50_ms, p99_ms }) => {
            let latency = |ms: &Option<f64>| ms.map_or_else(none, |ms| format!("{} ms", trim(ms)));
            [format!("{} %", trim(*success)), trim(*rps), latency(p50_ms), latency(p99_ms)]
        }
        None => [none(), none(), none(), none()],
    });
    if is_wide {
        let list = |list: &[String]| if list.is_empty() { none() } else { list.join("; ") };
        cells.extend([row.clients.clone(), list(&row.matches), list(&row.filters)]);
    }
    cells
}
