//! `meshctl explain`: which route, rule and backends a request would get, and why not the others.
//!
//! The decision is that of the proxy: the same objects are compiled by `mesh-resources` and judged by `mesh-policy`. With
//! `--live` it is made on the very policy that one sidecar has in force.

mod answer;
mod explained;
mod live;
mod question;
mod shown;
#[cfg(test)]
mod tests;
mod text;
mod tried;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_resources::{Object, Options, Snapshot};

pub use self::{
    answer::by_objects,
    explained::{Explained, Share},
    question::Question,
    shown::{filter_words, trim},
    text::title,
};
use crate::{
    globals::Globals,
    kube::Cluster,
    manifests::{self, Given, Wanted},
    output::{self, Format, Style},
};

/// Arguments of `meshctl explain`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl explain GET 'https://web.shop/cart?x=1' -H user:7 --from deploy/front
  meshctl explain POST http://web.shop:8080/orders --from shop --manifests k8s/
  meshctl explain grpc web.shop:50051 shop.Cart/Add -o json
  meshctl explain 'tls://web.shop:443?sni=pay.example.com'
  meshctl explain tcp://db.shop:5432 --live shop/front-5d4f-x7k

A header host is what routes compare with their hostnames; the URL says what is called.
Exit codes: 0 it is served or answered as routes say, 1 it would be refused, 2 wrong usage or unreadable input.")]
pub struct Args {
    /// What is sent: METHOD URL, URL, grpc AUTHORITY SERVICE/METHOD, tls://HOST:PORT?sni=NAME, tcp://HOST:PORT
    #[arg(value_name = "REQUEST", required = true, num_args = 1..=3)]
    request: Vec<String>,
    /// A header of the request, as in user:7; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = question::header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Who calls: NAMESPACE, NAMESPACE/POD, or KIND/NAME such as deploy/front; --namespace if not given
    #[arg(long, value_name = "CLIENT")]
    from: Option<String>,
    /// Decide on these files and folders instead of a cluster; - for standard input
    #[arg(long, value_name = "PATH", conflicts_with = "live")]
    manifests: Vec<PathBuf>,
    /// Decide on what the sidecar of this pod has in force: POD or NAMESPACE/POD
    #[arg(long, value_name = "POD", conflicts_with = "from")]
    live: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Prints the answer.
pub fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    manifests::judged(explain(args, globals))
}

fn explain(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        headers.append(name.clone(), value.clone());
    }
    let question = Question::from_words(&args.request, headers)?;
    let explained = if !args.manifests.is_empty() {
        let objects = Given::read(&args.manifests)?.into_objects()?;
        let from = from_given(args.from.as_deref(), globals.namespace.as_deref(), &objects);
        // Labels, since manifests are those of a folder or of what is to be applied.
        let options = Options { meshed_by_label: true, ..Options::default() };
        by_objects(&Snapshot::from_objects(&objects, options).0, &question, &from)
    } else {
        super::block_on(async {
            let cluster = Cluster::connect(globals).await?;
            match &args.live {
                Some(pod) => live::explain(&cluster, pod, &question).await,
                None => by_cluster(&cluster, args.from.as_deref(), &question).await,
            }
        })?
    };
    match args.output {
        Format::Table => output::line(&text::write(&explained, &question, Style::stdout()))?,
        Format::Json => {
            output::line(&serde_json::to_string_pretty(&explained).context("the result has no JSON form")?)?;
        }
        Format::Yaml => output::object(Format::Yaml, &explained)?,
    }
    Ok(if explained.is_refused() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Kinds that `--from` takes, as kubectl abbreviates them, with the kind itself.
const KINDS: [(&str, &str); 17] = [
    ("pod", "Pod"),
    ("pods", "Pod"),
    ("po", "Pod"),
    ("deploy", "Deployment"),
    ("deployment", "Deployment"),
    ("deployments", "Deployment"),
    ("ds", "DaemonSet"),
    ("daemonset", "DaemonSet"),
    ("sts", "StatefulSet"),
    ("statefulset", "StatefulSet"),
    ("rs", "ReplicaSet"),
    ("replicaset", "ReplicaSet"),
    ("job", "Job"),
    ("cronjob", "CronJob"),
    ("cj", "CronJob"),
    ("sa", "ServiceAccount"),
    ("serviceaccount", "ServiceAccount"),
];

/// What names a client.
#[derive(Debug, PartialEq, Eq)]
enum Client<'a> {
    /// A namespace.
    Namespace(&'a str),
    /// A workload, whose namespace is elsewhere.
    Workload { kind: &'static str, name: &'a str },
}

fn client(text: &str) -> Client<'_> {
    let Some((first, name)) = text.split_once('/') else { return Client::Namespace(text) };
    match KINDS.iter().find(|(word, _)| first.eq_ignore_ascii_case(word)) {
        Some((_, kind)) => Client::Workload { kind, name },
        None => Client::Namespace(first),
    }
}

/// The client's namespace: that of the workload where the manifests have one of its name, else that of `-n`.
fn from_given(from: Option<&str>, namespace: Option<&str>, objects: &[Object]) -> String {
    let fallback = namespace.unwrap_or("default");
    match from.map(client) {
        None => fallback.to_owned(),
        Some(Client::Namespace(namespace)) => namespace.to_owned(),
        Some(Client::Workload { kind, name }) => {
            let mut named = objects.iter().filter(|object| object.kind == kind && object.name == name);
            let is_here = |object: &&Object| namespace.is_none_or(|namespace| object.namespace == namespace);
            named.find(is_here).map_or(fallback, |object| &object.namespace).to_owned()
        }
    }
}

async fn by_cluster(cluster: &Cluster, from: Option<&str>, question: &Question) -> anyhow::Result<Explained> {
    let from = match from.map(client) {
        Some(Client::Namespace(namespace)) => namespace,
        Some(Client::Workload { .. }) | None => cluster.namespace(),
    };
    let host = question.host();
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let wanted = if is_address { Wanted::Addresses } else { Wanted::Routes };
    // What matters where not everything may be seen: the client's namespace and the Service's.
    let mut namespaces = vec![from];
    namespaces.extend(host.split('.').nth(1).filter(|of| !is_address && *of != from && *of != "svc"));
    let found = manifests::read_cluster(cluster, wanted, &namespaces).await?;
    let mut explained = by_objects(&Snapshot::from_objects(&found.objects, found.options).0, question, from);
    explained.notes.extend(found.notes);
    Ok(explained)
}
