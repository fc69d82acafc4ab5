//! `meshctl diagnostics bundle`: one archive that says how an installation and some of its sidecars are, for whoever helps.
//!
//! What fails is told in the archive's index and loses nothing else. Secrets are never asked for, and what looks like one is
//! taken out of everything (`redact`, `objects`).

mod archive;
mod chosen;
mod collect;
mod objects;
mod pod;
mod redact;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use mesh_policy::well_known::CONTROL_NAMESPACE;
use serde_json::{Value, json};

use self::{
    archive::{Archive, Index},
    collect::{Item, Job},
    pod::Role,
};
use crate::{
    clock,
    kube::{Cluster, value},
    output::{self, Format},
};

/// Jobs at a time, to spare the API server.
const AT_ONCE: usize = 4;
/// All of it: a cluster that answers needs seconds, and one whose pods hang must not hold a person up for longer.
const MAX_TIME: Duration = Duration::from_secs(300);
/// Longest `--since`: kubelet keeps logs for less.
const MAX_SINCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Arguments of `meshctl diagnostics bundle`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl diagnostics bundle -n shop                  # the control plane, and up to 20 meshed pods of a namespace
  meshctl diagnostics bundle -n shop deploy/web       # the pods of a Deployment
  meshctl diagnostics bundle shop/web-5d4f-x7k --since 10m -o web.tar.gz

No Secret is read. Values of variables, annotations and headers that may be secret, tokens and private keys are replaced by
[redacted]; look through it before you pass it on. README.txt in it says what is there, and what could not be had.
Exit codes: 0 the archive is written, also if a part of it could not be had, 1 it is not, 2 wrong usage.")]
pub(super) struct Args {
    /// Pods: POD, NAMESPACE/POD, or deploy/NAME, sts/NAME, ds/NAME for all pods of a workload
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// The archive; mesh-bundle-TIME.tar.gz if not given
    #[arg(id = "file", short = 'o', long = "output", value_name = "FILE.tar.gz")]
    file: Option<PathBuf>,
    /// How far back logs go, as in 10m or 2h
    #[arg(long, value_name = "DURATION", value_parser = since, default_value = "1h")]
    since: Duration,
}

fn since(text: &str) -> Result<Duration, String> {
    clock::duration(text, MAX_SINCE)
}

/// Writes the archive and prints where it is.
pub(super) async fn run(args: &Args, cluster: &Cluster) -> anyhow::Result<()> {
    let now = clock::now();
    let name = format!("mesh-bundle-{}", clock::format(now).replace([':', '-'], ""));
    let file = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let index = write(args, cluster, &name, now, &file).await?;
    for missing in &index.missing {
        output::note(&format!("not in it: {}: {}", missing.what, missing.why));
    }
    output::note(&format!(
        "{} files; secrets were taken out as far as they can be told: look through it before you pass it on",
        index.files.len()
    ));
    output::line(&file.display().to_string())
}

/// Collects everything into `file`, and gives what is in it.
async fn write(args: &Args, cluster: &Cluster, name: &str, now: i64, file: &Path) -> anyhow::Result<Index> {
    let begun = Instant::now();
    // Without an answer to this one there is nothing to collect.
    let server = cluster.get("/version").await?;
    let mut archive = Archive::begin(file, name, now)?;
    let control = chosen::control_plane(cluster).await.unwrap_or_else(|error| {
        archive.missing("the pods of the control plane", &error.to_string());
        Vec::new()
    });
    let found = chosen::pods(cluster, &args.pods).await;
    for (what, why) in &found.missing {
        archive.missing(what, why);
    }
    let mut namespaces: BTreeSet<&str> = found.pods.iter().map(value::namespace).collect();
    if args.pods.is_empty() {
        namespaces.insert(cluster.namespace());
    }
    namespaces.remove(CONTROL_NAMESPACE);
    let mut jobs = collect::of_cluster(cluster, &control, server);
    jobs.extend(control.iter().map(|pod| pod::job(cluster, pod, Role::Control, args.since)));
    jobs.extend(namespaces.iter().map(|namespace| collect::of_namespace(cluster, namespace)));
    jobs.extend(found.pods.iter().map(|pod| pod::job(cluster, pod, Role::Chosen, args.since)));
    let progress = Progress::new(jobs.len(), control.len(), found.pods.len());
    let mut done = stream::iter(jobs.into_iter().map(|job| in_time(job, begun))).buffered(AT_ONCE);
    while let Some((what, items)) = done.next().await {
        for item in items {
            match item {
                Item::File(path, content) => archive.add(&path, content)?,
                Item::Missing(what, why) => archive.missing(&what, &why),
            }
        }
        progress.done(&what);
    }
    progress.end();
    let index = archive.index();
    let (readme, object) = (readme(name, now, index), index_object(args, now, cluster.namespace(), index));
    archive.describe("README.txt", &readme)?;
    archive.describe("index.json", &(output::pretty(Format::Json, &object)? + "\n"))?;
    archive.end(file)
}

/// Runs a job for as long as there is time.
async fn in_time(job: Job<'_>, begun: Instant) -> (String, Vec<Item>) {
    let left = MAX_TIME.saturating_sub(begun.elapsed());
    let items = tokio::time::timeout(left, job.run).await.unwrap_or_else(|_| {
        let why = format!("{} s were over; name fewer pods", MAX_TIME.as_secs());
        vec![Item::Missing(job.what.clone(), why)]
    });
    (job.what, items)
}

fn index_object(args: &Args, now: i64, namespace: &str, index: &Index) -> Value {
    json!({
        "created": clock::format(now),
        "meshctl": env!("CARGO_PKG_VERSION"),
        "namespace": namespace,
        "pods": args.pods,
        "sinceSeconds": args.since.as_secs(),
        "files": index.files,
        "missing": index.missing,
    })
}

fn readme(name: &str, now: i64, index: &Index) -> String {
    let mut text = format!(
        "{name}: how an installation of Mesh and some of its sidecars were at {}, by meshctl {}.\n\n\
         versions.json       meshctl, API server, images of the control plane, definitions of the Gateway API\n\
         check.json          meshctl check -o json; check-proxy.json for the sidecars of the namespace\n\
         control-plane/      its objects; of each pod the object, pages and logs\n\
         proxies/            of each pod the object, the sidecar's pages and logs\n\
         namespaces/         Services, routes, policies with their status, and events\n\
         cluster/            policies that are in no namespace\n\
         index.json          all of the following for programs\n\n\
         No Secret was read. What may be secret is replaced by {}.\n",
        clock::format(now),
        env!("CARGO_PKG_VERSION"),
        redact::REDACTED
    );
    text.push_str(&format!("\nFiles: {}\n", index.files.len()));
    for file in &index.files {
        text.push_str(&format!("  {} ({} bytes", file.path, file.bytes));
        if file.cut > 0 {
            text.push_str(&format!(", {} more are cut", file.cut));
        }
        if file.redacted > 0 {
            text.push_str(&format!(", {} taken out", file.redacted));
        }
        text.push_str(")\n");
    }
    text.push_str(&format!("\nNot here: {}\n", index.missing.len()));
    for missing in &index.missing {
        text.push_str(&format!("  {}: {}\n", missing.what, missing.why));
    }
    text
}

/// How far it is: a line that changes on a terminal, one line elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new(jobs: usize, control: usize, chosen: usize) -> Self {
        output::note(&format!("collecting from {control} pods of the control plane and {chosen} other pods"));
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(jobs as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_msg} ({elapsed})") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn done(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.inc(1);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
