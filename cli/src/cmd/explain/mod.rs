//! `meshctl explain`: which route, rule and backends a request would get, and why not the others.
//!
//! The decision is that of the proxies: the same objects are compiled by `mesh-resources` and judged by `mesh-policy`, first as the
//! client's sidecar does it, then, for the pods behind the backends, as theirs do (`server`). With
//! `--live` it is made on the very policy that one sidecar has in force.

mod answer;
mod explained;
mod live;
mod question;
mod server;
#[cfg(test)]
mod tests;
mod text;
mod tried;
mod words;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_resources::{Object, Options, Snapshot};

pub(crate) use self::{
    answer::by_objects,
    explained::{Explained, Share},
    question::{Asked, Question, header},
    text::title,
    words::{filter_words, trim},
};
use crate::{
    authorization::{Named, Objects, named},
    globals::Globals,
    kube::Cluster,
    manifests::{self, ManifestFiles, Wanted},
    output::{self, COMMON, Format, Style, formats},
};

/// Arguments of `meshctl explain`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl explain GET 'https://web.shop/cart?x=1' -H user:7 --from deploy/front
  meshctl explain POST http://web.shop:8080/orders --from shop --manifests k8s/
  meshctl explain grpc web.shop:50051 shop.Cart/Add -o json
  meshctl explain 'tls://web.shop:443?sni=pay.example.com'
  meshctl explain tcp://db.shop:5432 --live shop/front-5d4f-x7k

With a workload in --from, the answer has what the server's sidecar decides about its identity.
A header host is what routes compare with their hostnames; the URL says what is called.
Exit codes: 0 it is served or answered as routes say, 1 it would be refused or denied, 2 wrong usage or unreadable input.")]
pub(crate) struct Args {
    /// What is sent: METHOD URL, URL, grpc AUTHORITY SERVICE/METHOD, tls://HOST:PORT?sni=NAME, tcp://HOST:PORT
    #[arg(value_name = "REQUEST", required = true, num_args = 1..=3)]
    request: Vec<String>,
    /// A header of the request, as in user:7; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Who calls: NAMESPACE, NAMESPACE/POD, or KIND/NAME such as deploy/front or sa/front; --namespace if not given
    #[arg(long, value_name = "CLIENT")]
    from: Option<String>,
    /// Decide on these files and folders instead of a cluster; - for standard input
    #[arg(long, value_name = "PATH", conflicts_with = "live")]
    manifests: Vec<PathBuf>,
    /// Decide on what the sidecar of this pod has in force: POD or NAMESPACE/POD
    #[arg(long, value_name = "POD", conflicts_with = "from")]
    live: Option<String>,
    /// How to print it
    #[arg(short, long, value_parser = formats(COMMON), default_value_t = Format::Table)]
    output: Format,
}

/// Prints the answer.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    manifests::judged(explain(args, globals))
}

fn explain(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        headers.append(name.clone(), value.clone());
    }
    let question = Question::from_words(&args.request, headers)?;
    let explained = if !args.manifests.is_empty() {
        let objects = ManifestFiles::read(&args.manifests)?.into_objects()?;
        let from = from_given(args.from.as_deref(), globals.namespace.as_deref(), &objects);
        // Labels, since manifests are those of a folder or of what is to be applied.
        let options = Options { meshed_by_label: true, ..Options::default() };
        let mut explained = by_objects(&Snapshot::from_objects(&objects, options).0, &question, &from);
        let client = Client { named: args.from.as_deref().map(named), namespace: &from };
        server::decide(&mut explained, &Objects::of_manifests(objects), &question, client);
        explained
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
        Format::Json => output::line(&output::pretty(Format::Json, &explained)?)?,
        Format::Yaml => output::object(Format::Yaml, &explained)?,
        _ => output::line(&text::write(&explained, &question, Style::stdout()))?,
    }
    let is_refused = explained.is_refused() || explained.server.as_ref().is_some_and(server::Server::is_refused);
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The client's namespace: that of the workload where the manifests have one of its name, else that of `-n`.
fn from_given(from: Option<&str>, namespace: Option<&str>, objects: &[Object]) -> String {
    let fallback = namespace.unwrap_or("default");
    match from.map(named) {
        None => fallback.to_owned(),
        Some(Named::Workload { kind, name }) => {
            let mut named = objects.iter().filter(|object| object.is(kind) && object.name == name);
            let is_here = |object: &&Object| namespace.is_none_or(|namespace| object.namespace == namespace);
            named.find(is_here).map_or(fallback, |object| &object.namespace).to_owned()
        }
        Some(named) => named.namespace().unwrap_or(fallback).to_owned(),
    }
}

/// Who calls, and the namespace that it is in.
#[derive(Clone, Copy, Debug)]
struct Client<'a> {
    /// As `--from` says it.
    named: Option<Named<'a>>,
    namespace: &'a str,
}

async fn by_cluster(cluster: &Cluster, from: Option<&str>, question: &Question) -> anyhow::Result<Explained> {
    let named = from.map(named);
    let namespace = named.and_then(|named| named.namespace()).unwrap_or(cluster.namespace());
    let host = question.host();
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let wanted = if is_address { Wanted::Addresses } else { Wanted::Routes };
    // What matters where not everything may be seen: the client's namespace and the Service's.
    let mut namespaces = vec![namespace];
    namespaces.extend(host.split('.').nth(1).filter(|of| !is_address && *of != namespace && *of != "svc"));
    let mut found = manifests::read_cluster(cluster, wanted, &namespaces).await?;
    let snapshot = Snapshot::from_objects(&found.objects, found.options.clone()).0;
    let mut explained = by_objects(&snapshot, question, namespace);
    let behind = server::namespaces(&explained);
    if !behind.is_empty() {
        let namespaces: Vec<&str> = behind.iter().map(String::as_str).chain([namespace]).collect();
        found.add_pods(cluster, &namespaces).await?;
        found.add_workload(cluster, named, namespace).await?;
        let objects = Objects::of_cluster(found.objects, found.options);
        server::decide(&mut explained, &objects, question, Client { named, namespace });
    }
    explained.notes.extend(found.notes);
    Ok(explained)
}
