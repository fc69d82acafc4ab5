//! `meshctl diagnostics`: what the control plane makes of the cluster, and what one sidecar believes.
//!
//! `endpoints` and `policy` are computed here from the cluster's objects, by the code that `mesh-destination` runs: that
//! needs no certificate of a workload, and works while the control plane does not. What a sidecar really has in force is
//! `proxy-config`.

mod bundle;
mod world;

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use mesh_policy::{
    Endpoint, Target,
    well_known::{ADMIN_PORT, METRICS_PORT},
};
use serde::Serialize;
use serde_json::{Value, json};

use self::world::World;
use crate::{
    globals::Globals,
    kube::Cluster,
    output::{self, Format, JSON, YAML, columns, formats},
};

/// Arguments of `meshctl diagnostics`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl diagnostics endpoints web.shop:80
  meshctl diagnostics policy web:80 --from shop/client-7d-x -o yaml
  meshctl diagnostics proxy-config web-5d4f-x7k -n shop -o json
  meshctl diagnostics proxy-metrics web-5d4f-x7k -n shop | grep mesh_requests_total
  meshctl diagnostics bundle -n shop

Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The endpoints that a target has: addresses, pods, identities, zones
    Endpoints {
        #[command(flatten)]
        target: TargetArgs,
        /// How to print them
        #[arg(short, long, value_parser = formats(LIST), default_value_t = Format::Table)]
        output: Format,
    },
    /// The policy of a target for a client: routes, rules, backends, and what is wrong with them
    Policy {
        #[command(flatten)]
        target: TargetArgs,
        /// How to print it
        #[arg(short, long, value_parser = formats(TREE), default_value_t = Format::Yaml)]
        output: Format,
    },
    /// The metrics of a pod's sidecar, in the text format of Prometheus
    ProxyMetrics {
        /// POD or NAMESPACE/POD
        pod: String,
    },
    /// What a pod's sidecar believes: its configuration, and the policies and endpoints in force
    ProxyConfig {
        /// POD or NAMESPACE/POD
        pod: String,
        /// How to print it
        #[arg(short, long, value_parser = formats(TREE), default_value_t = Format::Yaml)]
        output: Format,
    },
    /// Write an archive for whoever helps: versions, checks, objects, pages of sidecars, logs; without secrets
    Bundle(bundle::Args),
}

/// A target, and who calls it.
#[derive(Debug, clap::Args)]
struct TargetArgs {
    /// What a client calls: NAME[.NAMESPACE[.svc]]:PORT, or ADDRESS:PORT
    #[arg(value_name = "AUTHORITY")]
    target: String,
    /// The client: NAMESPACE, or NAMESPACE/POD for what depends on its zone; that of --namespace if not given
    #[arg(long, value_name = "CLIENT")]
    from: Option<String>,
}

/// What `-o` takes for a list.
const LIST: [(Format, &str); 4] =
    [(Format::Table, "Text for people"), (Format::Wide, "As table, with zones and identities"), JSON, YAML];
/// What `-o` takes for a single object.
const TREE: [(Format, &str); 2] = [JSON, YAML];

/// Prints what was asked for.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        match &args.what {
            What::Endpoints { target, output } => {
                let world = world::read(&cluster).await?;
                output::line(&endpoints(&world, target, cluster.namespace(), *output)?)
            }
            What::Policy { target, output } => {
                let world = world::read(&cluster).await?;
                output::line(&output::pretty(*output, &policy(&world, target, cluster.namespace())?)?)
            }
            What::ProxyMetrics { pod } => output::line(page(&cluster, pod, METRICS_PORT, "/metrics").await?.trim_end()),
            What::ProxyConfig { pod, output } => {
                let text = page(&cluster, pod, ADMIN_PORT, "/config").await?;
                let value: Value = serde_json::from_str(&text).context("the sidecar's /config is not JSON")?;
                output::line(&output::pretty(*output, &value)?)
            }
            What::Bundle(args) => bundle::run(args, &cluster).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn page(cluster: &Cluster, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
    let (namespace, name) = cluster.pod_name(pod);
    let page = cluster.page(namespace, name, port, path).await;
    let next = format!("see whether it has a sidecar: meshctl check --proxy -n {namespace}");
    let page = page.map_err(|error| anyhow!("{error}; {next}"))?;
    Ok(page.ok().map_err(|why| anyhow!("pod {namespace}/{name}: {why}"))?.text())
}

/// Who calls: the namespace, and the pod if one was named.
fn client<'a>(target: &'a TargetArgs, namespace: &'a str) -> (&'a str, Option<&'a str>) {
    match target.from.as_deref() {
        None => (namespace, None),
        Some(from) => match from.split_once('/') {
            Some((namespace, _)) => (namespace, Some(from)),
            None => (from, None),
        },
    }
}

/// What a target stands for; the error says what is close to it.
fn resolve(world: &World, target: &TargetArgs, namespace: &str) -> anyhow::Result<Target> {
    let (namespace, pod) = client(target, namespace);
    if let Some(pod) = pod.filter(|pod| world.snapshot.pod(pod).is_none()) {
        bail!("there is no pod {pod}; --from names a NAMESPACE, or a NAMESPACE/POD that is there");
    }
    let text = &target.target;
    match world.snapshot.resolve(text, namespace) {
        Some(Target::Outside(_)) => {
            bail!(
                "{text} is outside of the mesh: no Service and no pod has the address; connections there pass as they are"
            )
        }
        Some(Target::Unknown(_)) => bail!(
            "it is not known who has {text}, an address of this cluster; a proxy refuses it with `unknown-address`"
        ),
        Some(found) => return Ok(found),
        None => {}
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
        bail!("{text:?} has no port; write it as a client calls it, such as web.{namespace}:80");
    };
    let mut labels = host.split('.');
    let (name, of) = (labels.next().unwrap_or_default(), labels.next().unwrap_or(namespace));
    if world.services.contains(&format!("{name}.{of}")) {
        bail!("the Service {of}/{name} has no port {port}; see: kubectl -n {of} get service {name}");
    }
    bail!(
        "{text} is neither a Service nor a pod of this cluster, for a client in {namespace}; a proxy refuses it with `unknown-target`"
    )
}

/// One endpoint, as printed.
#[derive(Debug, Serialize)]
struct Line {
    address: String,
    pod: String,
    /// `mTLS`, or `plain` where the pod has no sidecar.
    transport: &'static str,
    identity: Option<String>,
    zone: Option<String>,
}

impl From<&Endpoint> for Line {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            pod: endpoint.workload.to_string(),
            transport: if endpoint.identity.is_some() { "mTLS" } else { "plain" },
            identity: endpoint.identity.as_ref().map(ToString::to_string),
            zone: endpoint.zone.as_deref().map(str::to_owned),
        }
    }
}

fn endpoints(world: &World, target: &TargetArgs, namespace: &str, format: Format) -> anyhow::Result<String> {
    let found = resolve(world, target, namespace)?;
    let (namespace, pod) = client(target, namespace);
    let (what, lines): (String, Vec<Line>) = match &found {
        Target::Endpoint(endpoint) => ("one endpoint, by its address".to_owned(), vec![endpoint.into()]),
        // `resolve` has refused them.
        Target::Outside(address) | Target::Unknown(address) => (address.to_string(), Vec::new()),
        Target::Service(service) => {
            let all = match pod {
                Some(pod) => world.snapshot.endpoints_for(service, &world.snapshot.locality(pod)),
                None => world.snapshot.endpoints(service),
            };
            (format!("Service {service}"), all.iter().map(Line::from).collect())
        }
    };
    Ok(match format {
        Format::Json | Format::Yaml => output::pretty(
            format,
            &json!({ "target": target.target, "client_namespace": namespace, "is": what, "endpoints": lines }),
        )?,
        _ if lines.is_empty() => format!("{what} has no ready endpoint; see: kubectl get endpointslices -A"),
        Format::Wide => columns(
            &["ADDRESS", "POD", "TRANSPORT", "ZONE", "IDENTITY"],
            lines.iter().map(|l| {
                let or_none = |text: &'_ Option<String>| -> String { text.clone().unwrap_or_else(|| "-".to_owned()) };
                vec![l.address.clone(), l.pod.clone(), l.transport.to_owned(), or_none(&l.zone), or_none(&l.identity)]
            }),
        ),
        _ => columns(&["ADDRESS", "POD", "TRANSPORT"], lines.iter().map(|l| vec![&*l.address, &*l.pod, l.transport])),
    })
}

fn policy(world: &World, target: &TargetArgs, namespace: &str) -> anyhow::Result<Value> {
    let found = resolve(world, target, namespace)?;
    let (namespace, _) = client(target, namespace);
    let (policy, problems) = world.snapshot.compile_outbound(&found, namespace);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Ok(json!({
        "authority": target.target,
        "client_namespace": namespace,
        "policy": policy,
        "problems": problems,
    }))
}

#[cfg(test)]
mod tests;
