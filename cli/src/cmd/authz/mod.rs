//! `meshctl authz`: who may call what, and by which policy; whether one caller may; who really called; and policies that let in
//! just those.
//!
//! The first two are decided over objects, as sidecars decide (`crate::authorization`). The others ask the sidecars what they saw.

mod ask;
mod callee;
mod generate;
mod list;
mod owners;
mod page;
mod report;
mod seen;
mod sidecars;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use http::{HeaderName, HeaderValue};

use super::explain::header;
use crate::{
    authorization::{Named, Objects},
    globals::Globals,
    kube::Cluster,
    manifests::{self, ManifestFiles, Wanted},
    output::{self, Format, JSON, YAML, formats},
};

/// Arguments of `meshctl authz`.
#[derive(Debug, Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  meshctl authz -n shop
  meshctl authz web -n shop
  meshctl authz --from deploy/front --to web.shop GET /cart
  meshctl authz --from spiffe://cluster.local/ns/shop/sa/front --to web.shop:50051 grpc shop.Cart/Add
  meshctl authz --from none --source-ip 10.1.2.3 --to pod/db-0:5432 tcp
  meshctl authz web --manifests k8s/

With --to it answers yes or no; of GET / if no request is given.
Exit codes: 0 ok, or yes; 1 failed, or no; 2 wrong usage, or there was nothing to judge with --to."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// SERVICE, POD or KIND/NAME to list; with --to the request: METHOD PATH, grpc SERVICE/METHOD, or tcp
    #[arg(value_name = "SERVICE | REQUEST", num_args = 0..=2)]
    words: Vec<String>,
    /// Who calls: KIND/NAME such as deploy/front or sa/front, NAMESPACE/POD, spiffe://..., or none
    #[arg(long, value_name = "CALLER", requires = "to")]
    from: Option<String>,
    /// What is called: SERVICE or SERVICE.NAMESPACE, each perhaps with :PORT; svc/NAME, pod/NAME, deploy/NAME
    #[arg(long, value_name = "CALLEE", requires = "from")]
    to: Option<String>,
    /// The address that it calls from, for rules about addresses
    #[arg(long, value_name = "IP", requires = "to")]
    source_ip: Option<IpAddr>,
    /// A header of the request, as in user:7; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = header, requires = "to")]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Decide on these files and folders instead of a cluster; - for standard input
    #[arg(long, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show who called, what was refused, and what policies in shadow would have refused
    Report(report::Args),
    /// Write policies that let in just those that called
    Generate(generate::Args),
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 4] =
    [(Format::Table, "A line for each rule and caller"), (Format::Wide, "As table, with pods and modes"), JSON, YAML];

/// Prints what was asked for.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    match (&args.what, &args.from, &args.to) {
        (Some(What::Report(args)), ..) => report::run(args, globals),
        (Some(What::Generate(args)), ..) => generate::run(args, globals),
        (None, Some(from), Some(to)) => manifests::judged(ask::run(args, from, to, globals)),
        (None, ..) => {
            list::run(args, globals)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is decided on, the namespace of names without one, and what could not be seen.
struct Read {
    objects: Objects,
    /// `None`: of manifests, and nothing says one.
    namespace: Option<String>,
    notes: Vec<String>,
}

/// The namespace where nothing says one.
const DEFAULT: &str = "default";

/// Reads manifests, or what matters in the cluster for pods of some namespaces (beside that of `-n`) and some workloads.
fn read(args: &Args, globals: &Globals, others: &[&str], workloads: &[Named<'_>]) -> anyhow::Result<Read> {
    if !args.manifests.is_empty() {
        let all = ManifestFiles::read(&args.manifests)?.into_objects()?;
        let namespace = globals.namespace.clone();
        return Ok(Read { objects: Objects::of_manifests(all), namespace, notes: Vec::new() });
    }
    super::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        of_cluster(&cluster, others, workloads).await
    })
}

async fn of_cluster(cluster: &Cluster, others: &[&str], workloads: &[Named<'_>]) -> anyhow::Result<Read> {
    let namespace = cluster.namespace().to_owned();
    let namespaces: Vec<&str> = others.iter().copied().chain([namespace.as_str()]).collect();
    let mut found = manifests::read_cluster(cluster, Wanted::Routes, &namespaces).await?;
    found.add_pods(cluster, &namespaces).await?;
    for named in workloads {
        found.add_workload(cluster, Some(*named), &namespace).await?;
    }
    let objects = Objects::of_cluster(found.objects, found.options);
    Ok(Read { objects, namespace: Some(namespace), notes: found.notes })
}

/// Says on standard error what could not be seen or was taken for granted.
fn tell(notes: &[String]) {
    notes.iter().for_each(|note| output::note(&format!("note: {note}")));
}
