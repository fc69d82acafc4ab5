//! `meshctl uninstall`: what `kubectl delete -f -` must delete, in an order that breaks no workload.
//!
//! The webhook comes first: without it new pods start, with it and without an injector they would be refused. Pods that
//! have a sidecar work only until their certificates end, so they should be restarted without one first.

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use mesh_policy::well_known::{CONTROL_NAMESPACE, ISSUER_SECRET, MESH_DESTINATION, MESH_IDENTITY, TRUST_BUNDLE};
use serde_json::{Value, json};

use crate::{
    chart::{
        self,
        installed::{self, Installed},
        print,
    },
    globals::Globals,
    kube::{Cluster, ClusterError, trust_bundle, value},
    output::{self, Format, formats},
};

/// Arguments of `meshctl uninstall`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl uninstall | kubectl delete -f -
  meshctl uninstall --force | kubectl delete -f -       # although pods still have sidecars
  meshctl uninstall --ignore-cluster | kubectl delete --ignore-not-found -f -

Exit codes: 0 ok, 1 failed (also: pods still have sidecars), 2 wrong usage.")]
pub(crate) struct Args {
    /// Go on although pods still have sidecars
    #[arg(long)]
    force: bool,
    /// Do not look at the cluster; print everything that an installation may have
    #[arg(long, conflicts_with = "force")]
    ignore_cluster: bool,
    /// How to print it
    #[arg(short, long, value_parser = formats(print::FORMATS))]
    output: Option<Format>,
}

/// Prints the objects.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    super::install::only_namespace(globals)?;
    let format = print::wanted(args.output, "meshctl uninstall | kubectl delete -f -")?;
    let objects = if args.ignore_cluster {
        // kubectl refuses a kind that a cluster does not know; in a namespace of ours they go with it.
        everything(false)?
    } else {
        super::block_on(async {
            let cluster = Cluster::connect(globals).await?;
            there(&cluster, args.force).await
        })?
    };
    print::manifests(format, &print::plain(objects))?;
    Ok(ExitCode::SUCCESS)
}

/// What of an installation is in the cluster.
async fn there(cluster: &Cluster, force: bool) -> anyhow::Result<Vec<Value>> {
    let found = Installed::look(cluster).await?;
    if found.is_helms() {
        bail!("Helm installed Mesh at {}: use `helm uninstall`, so that Helm knows of it", cluster.server());
    }
    warn_of_pods(&installed::injected_pods(cluster).await?, force)?;
    let mut objects = Vec::new();
    for object in everything(true)? {
        let Some(place) = chart::object_path(&object) else { continue };
        let Some(there) = cluster.find(&place).await? else { continue };
        // Read from the object itself: the values, which say whether it is ours, may be lost.
        if object["kind"] == "Secret" && !installed::is_ours(&there) {
            output::note(&format!(
                "note: the Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET} stays: it was not made by this installation"
            ));
            continue;
        }
        // A namespace that was there before us, or is somebody else's, is not ours to delete.
        if object["kind"] == "Namespace" && found.is_in_anothers_namespace() {
            output::note(&format!(
                "note: the namespace {CONTROL_NAMESPACE} stays: it was not made by this installation"
            ));
            continue;
        }
        objects.push(object);
    }
    let at = objects.iter().position(|object| object["kind"] == "Namespace").unwrap_or(objects.len());
    objects.splice(at..at, bundles(cluster).await?);
    if objects.is_empty() {
        bail!("nothing of Mesh is installed at {}", cluster.server());
    }
    Ok(objects)
}

fn warn_of_pods(pods: &[Value], force: bool) -> anyhow::Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    let text = format!(
        "pods still have sidecars ({}): {}; without a control plane they go on only until their certificates end",
        pods.len(),
        installed::named(pods)
    );
    if !force {
        bail!(
            "{text}. Take the label meshctl.dev/inject off their namespaces, restart them (kubectl rollout restart), and \
             then uninstall; --force goes on all the same"
        );
    }
    output::note(&format!("warning: {text}"));
    Ok(())
}

/// The trust bundles that mesh-identity wrote into other namespaces.
async fn bundles(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let listed = cluster.list("/api/v1/configmaps", "fieldSelector=metadata.name%3Dmesh-trust-bundle").await;
    let listed = match listed {
        Err(error @ ClusterError::Forbidden { .. }) => {
            output::note(&format!("note: trust bundles in other namespaces stay: {error}"));
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut objects = Vec::new();
    for bundle in listed.iter().filter(|bundle| value::namespace(bundle) != CONTROL_NAMESPACE) {
        let namespace = value::namespace(bundle);
        // `kubectl delete` waits for what it deletes, and here that is not ours to end.
        if let Some(held) = trust_bundle::held(bundle) {
            output::note(&format!("note: the trust bundle of the namespace {namespace} stays: {}", held.message));
            output::note(&format!("      to end that: {}", held.fix));
            continue;
        }
        objects.push(reference("v1", "ConfigMap", TRUST_BUNDLE, Some(namespace)));
    }
    Ok(objects)
}

/// Everything that an installation may have, whatever its values: references, in the order of deletion.
fn everything(with_monitors: bool) -> anyhow::Result<Vec<Value>> {
    let mut values = chart::largest();
    values["monitoring"] = json!({"podMonitor": with_monitors});
    let mut objects: Vec<Value> = chart::render(values)?
        .iter()
        .map(|manifest| {
            let object = &manifest.object;
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            reference(value::text(object, "/apiVersion"), value::text(object, "/kind"), value::name(object), namespace)
        })
        .collect();
    // Made while it ran, not by the chart.
    for lease in [MESH_DESTINATION, MESH_IDENTITY] {
        objects.push(reference("coordination.k8s.io/v1", "Lease", lease, Some(CONTROL_NAMESPACE)));
    }
    objects.sort_by_key(|object| match value::text(object, "/kind") {
        "MutatingWebhookConfiguration" => 0,
        "Deployment" => 1,
        "Namespace" => 3,
        _ => 2,
    });
    Ok(objects)
}

fn reference(api_version: &str, kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::kube::mock::Mock;

    #[test]
    fn the_webhook_goes_first_and_the_namespace_last() {
        let objects = everything(true).unwrap();
        let kinds: Vec<_> = objects.iter().map(|object| value::text(object, "/kind")).collect();
        assert_eq!((kinds[0], kinds.last().copied()), ("MutatingWebhookConfiguration", Some("Namespace")));
        for kind in [
            "Secret",
            "PodMonitor",
            "PodDisruptionBudget",
            "NetworkPolicy",
            "Lease",
            "RoleBinding",
            "ClusterRole",
            "ServiceAccount",
        ] {
            assert!(kinds.contains(&kind), "{kind} is missing: {kinds:?}");
        }
        assert!(objects.iter().all(|object| chart::object_path(object).is_some()), "{kinds:?}");
        assert!(objects.iter().all(|object| object["data"].is_null() && object["spec"].is_null()));
    }

    const PODS: &str = "/api/v1/pods";
    const CONFIG_MAPS: &str = "/api/v1/configmaps";
    const NAMESPACE: &str = "/api/v1/namespaces/mesh-system";
    const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";

    #[tokio::test]
    async fn only_what_is_there_is_deleted_and_meshed_pods_are_warned_of() {
        let spec = json!({"initContainers": [{"name": "mesh-proxy"}]});
        let pod =
            json!({"metadata": {"namespace": "shop", "name": "web-1"}, "spec": spec, "status": {"phase": "Running"}});
        let done =
            json!({"metadata": {"namespace": "shop", "name": "job-1"}, "spec": spec, "status": {"phase": "Succeeded"}});
        // Neither what only says that it has a sidecar, nor what somebody keeps from ending.
        let claims = json!({"metadata": {"namespace": "tenant", "name": "a"}, "status": {"phase": "Running"}});
        let mut kept = pod.clone();
        kept["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let ours = json!({"metadata": {"name": "mesh-system", "labels": {"app.kubernetes.io/part-of": "mesh"}}});
        let webhook = json!({"metadata": {"name": "mesh-injector"}});
        let bundle = |namespace: &str| json!({"metadata": {"namespace": namespace, "name": "mesh-trust-bundle"}});
        let mock = || {
            Mock::default()
                .list(CONFIG_MAPS, vec![bundle("mesh-system"), bundle("shop")])
                .object(NAMESPACE, ours.clone())
                .object(&installed::webhook_path(), webhook.clone())
        };
        let cluster = mock().list(PODS, vec![pod, done.clone()]).cluster();
        let message = there(&cluster, false).await.unwrap_err().to_string();
        assert!(
            message.contains("sidecars (1)") && message.contains("shop/web-1") && message.contains("--force"),
            "{message}"
        );
        there(&cluster, true).await.unwrap();
        let objects = there(&mock().list(PODS, vec![done, claims, kept]).cluster(), false).await.unwrap();
        let names: Vec<_> = objects.iter().map(|o| (value::text(o, "/kind"), value::namespace(o))).collect();
        assert_eq!(names, [("MutatingWebhookConfiguration", ""), ("ConfigMap", "shop"), ("Namespace", "")]);
        // What cannot be deleted by `kubectl delete` would keep it waiting, and a Secret of somebody else is not ours.
        let mut held = bundle("tenant");
        held["metadata"]["finalizers"] = json!(["evil.example/hold"]);
        let foreign = json!({"metadata": {"name": "mesh-issuer"}});
        let cluster = mock().list(PODS, vec![]).list(CONFIG_MAPS, vec![bundle("shop"), held]).object(SECRET, foreign);
        let objects = there(&cluster.cluster(), false).await.unwrap();
        let kinds: Vec<_> = objects.iter().map(|o| (value::text(o, "/kind"), value::namespace(o))).collect();
        assert_eq!(kinds, names, "neither the held bundle nor the Secret");
        let ours = json!({"metadata": {"name": "mesh-issuer", "labels": {"app.kubernetes.io/part-of": "mesh"}}});
        let cluster = mock().list(PODS, vec![]).object(SECRET, ours).cluster();
        assert!(there(&cluster, false).await.unwrap().iter().any(|object| object["kind"] == "Secret"));
        let nothing = Mock::default().list(PODS, vec![]).list(CONFIG_MAPS, vec![]).cluster();
        assert!(there(&nothing, false).await.unwrap_err().to_string().contains("nothing of Mesh"));
    }
}
