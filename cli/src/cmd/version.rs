//! `meshctl version`: of this program, of the control plane, of the sidecars.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Parser;
use mesh_policy::well_known::{CONTROL_NAMESPACE, VERSION_LABEL};
use serde::Serialize;
use serde_json::Value;

use crate::{
    globals::Globals,
    kube::{
        Cluster, ClusterError, core,
        pods::{injected, is_alive},
        value,
    },
    output::{self, COMMON, Format, formats},
};

/// Arguments of `meshctl version`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl version
  meshctl version --client -o json

Without a kubeconfig, only this program's version is printed.
Exit codes: 0 ok, 1 the cluster does not answer, 2 wrong usage.")]
pub(crate) struct Args {
    /// Only this program's version; no cluster is asked
    #[arg(long)]
    client: bool,
    /// How to print it
    #[arg(short, long, value_parser = formats(COMMON), default_value_t = Format::Table)]
    output: Format,
}

/// The object of `-o json|yaml`.
#[derive(Debug, Default, Serialize)]
struct Version {
    /// This program, SemVer.
    client: &'static str,
    /// Versions of the control plane, by Deployment; empty where none is installed.
    #[serde(rename = "controlPlane", skip_serializing_if = "Option::is_none")]
    control_plane: Option<BTreeMap<String, String>>,
    /// How many sidecars there are of each version.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxies: Option<BTreeMap<String, usize>>,
}

/// Prints the versions.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut version = Version { client: env!("CARGO_PKG_VERSION"), ..Version::default() };
    let mut code = ExitCode::SUCCESS;
    if !args.client {
        match super::block_on(async { Ok(ask(globals, &mut version).await) })? {
            // Without a cluster there is nothing to ask, and nothing wrong.
            Ok(()) | Err(ClusterError::NoKubeconfig { .. }) => {}
            Err(error) => {
                output::error(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    match args.output {
        Format::Table => output::line(&table(&version))?,
        format => output::object(format, &version)?,
    }
    Ok(code)
}

async fn ask(globals: &Globals, version: &mut Version) -> Result<(), ClusterError> {
    let cluster = Cluster::connect(globals).await?;
    let path = format!("/apis/apps/v1/namespaces/{CONTROL_NAMESPACE}/deployments");
    let deployments = cluster.list(&path, "labelSelector=app.kubernetes.io%2Fpart-of%3Dmesh").await?;
    let label =
        |object: &Value, name: &str| Some(value::label(object, name)).filter(|v| !v.is_empty()).map(str::to_owned);
    let of = |deployment: &Value| {
        let version = label(deployment, "app.kubernetes.io/version").unwrap_or_else(|| "unknown".to_owned());
        (value::name(deployment).to_owned(), version)
    };
    version.control_plane = Some(deployments.iter().map(of).collect());
    // Their label narrows the list on the side of the API server.
    let path = globals.namespace.as_ref().map_or("/api/v1/pods".to_owned(), |namespace| core(namespace, "pods"));
    let pods = cluster.list(&path, &injected()).await?;
    let mut proxies = BTreeMap::new();
    for found in pods.iter().filter(|pod| is_alive(pod)).filter_map(|pod| label(pod, VERSION_LABEL)) {
        *proxies.entry(found).or_default() += 1;
    }
    version.proxies = Some(proxies);
    Ok(())
}

fn table(version: &Version) -> String {
    let mut text = format!("meshctl {}", version.client);
    if let Some(parts) = &version.control_plane {
        let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        parts.iter().for_each(|(part, version)| by_version.entry(version).or_default().push(part));
        let told: Vec<_> = match by_version.len() {
            0 => vec!["not installed".to_owned()],
            1 => by_version.keys().map(|&version| version.to_owned()).collect(),
            _ => by_version.iter().map(|(version, parts)| format!("{version} ({})", parts.join(", "))).collect(),
        };
        text.push_str(&format!("\ncontrol plane {}", told.join(", ")));
    }
    if let Some(proxies) = &version.proxies {
        let told: Vec<_> = proxies.iter().map(|(version, number)| format!("{version} ({number})")).collect();
        text.push_str(&format!("\nsidecars {}", if told.is_empty() { "none".to_owned() } else { told.join(", ") }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_number() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut version = Version { client: "0.1.0", ..Version::default() };
        assert_eq!(table(&version), "meshctl 0.1.0");
        version.control_plane = Some(BTreeMap::new());
        version.proxies = Some(BTreeMap::new());
        assert_eq!(table(&version), "meshctl 0.1.0\ncontrol plane not installed\nsidecars none");
        version.control_plane = Some(map(&[("mesh-identity", "0.1.0"), ("mesh-injector", "0.1.0")]));
        version.proxies = Some([("0.0.9".to_owned(), 2), ("0.1.0".to_owned(), 3)].into());
        assert_eq!(table(&version), "meshctl 0.1.0\ncontrol plane 0.1.0\nsidecars 0.0.9 (2), 0.1.0 (3)");
        version.control_plane = Some(map(&[("mesh-identity", "0.1.0"), ("mesh-injector", "0.0.9")]));
        assert!(table(&version).contains("control plane 0.0.9 (mesh-injector), 0.1.0 (mesh-identity)"));
    }
}
