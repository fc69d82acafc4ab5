//! `meshctl authz generate`: policies that let in just those that called.
//!
//! One for each workload, in shadow unless told otherwise: what was not seen yet is then reported and not refused. Callers without
//! identity are written as comments, since a rule for an address is for a person to decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use clap::Parser;
use mesh_policy::{Identity, well_known::POLICY_GROUP};
use serde_json::{Value, json};

use super::{
    owners::Owner,
    page::CallerCounts,
    report,
    seen::addresses,
    sidecars::{Asked, Silent},
};
use crate::{globals::Globals, kube::Cluster, manifests::cluster::options, output, yaml};

/// Arguments of `meshctl authz generate`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl authz generate -n shop > policies.yaml
  meshctl authz generate -n shop --enforce

The policies are of mode Shadow: apply them, look at what they would refuse with meshctl authz report, then enforce them.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(super) struct Args {
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Write policies that are in force at once
    #[arg(long)]
    enforce: bool,
}

/// A workload, and who called it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Workload {
    /// What its pods belong to.
    pub owner: Owner,
    /// The selector of its pods; `None`: nothing tells them from others.
    pub selector: Option<Value>,
    /// Who called each port with an identity and was let in.
    pub callers: BTreeMap<u16, BTreeSet<Identity>>,
    /// What a person must decide about, a line each.
    pub open: BTreeSet<String>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let text = crate::cmd::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        let trust_domain = options(&cluster).await?.trust_domain;
        let (asked, all) = report::ask(&cluster, args.all_namespaces).await?;
        let mut workloads = workloads(&asked, &all);
        for workload in workloads.values_mut() {
            let pod = asked.pods.iter().map(|(pod, _)| pod).find(|pod| Owner::of(pod) == workload.owner);
            if let Some(pod) = pod {
                workload.selector = workload.owner.selector(&cluster, pod).await;
            }
        }
        let workloads: Vec<Workload> = workloads.into_values().collect();
        Ok(write(&workloads, &asked.silent, &trust_domain, args.enforce))
    })?;
    output::line(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The workloads of the pods that were asked, without their selectors.
pub(super) fn workloads(asked: &Asked, all: &[Value]) -> BTreeMap<Owner, Workload> {
    let addresses = addresses(all);
    let mut found: BTreeMap<Owner, Workload> = BTreeMap::new();
    for (pod, page) in &asked.pods {
        let owner = Owner::of(pod);
        let workload = found.entry(owner.clone()).or_insert_with(|| Workload {
            owner,
            selector: None,
            callers: BTreeMap::new(),
            open: BTreeSet::new(),
        });
        for seen in &page.callers {
            let CallerCounts { identity, source, port, counts, .. } = seen;
            match (identity, source) {
                (Some(identity), _) if counts.allowed > 0 => {
                    workload.callers.entry(*port).or_default().insert(identity.clone());
                }
                (Some(identity), _) => {
                    workload
                        .open
                        .insert(format!("{identity} called port {port} and was refused: no rule is written for it"));
                }
                (None, Some(source)) => {
                    let who = addresses.get(&source.to_canonical()).map(|who| format!(" ({who})")).unwrap_or_default();
                    workload.open.insert(format!(
                        "{source}{who} called port {port} without identity: mesh it, or add a source of type CIDR"
                    ));
                }
                (None, None) => {
                    workload
                        .open
                        .insert("there were more callers than the sidecar tells apart: some are missing".to_owned());
                }
            }
        }
    }
    found
}

/// The policies, with what to do.
pub(super) fn write(workloads: &[Workload], silent: &[Silent], trust_domain: &str, enforce: bool) -> String {
    let next = if enforce {
        "They are in force as soon as they are applied: what is not in them is refused."
    } else {
        "1. Apply them: in mode Shadow they refuse nothing.\n2. After some days: meshctl authz report -n NAMESPACE shows what they \
         would refuse.\n3. Write mode: Enforce."
    };
    let mut text =
        comment("What was seen by the sidecars of running pods since they started, as policies that let in just that.");
    text.push_str(&comment(next));
    for Silent { pod, why } in silent {
        text.push_str(&comment(&format!("Not asked, so its callers may be missing: {pod}: {why}")));
    }
    for workload in workloads {
        let Owner { namespace, kind, name } = &workload.owner;
        let alike = workloads.iter().filter(|other| (&other.owner.namespace, &other.owner.name) == (namespace, name));
        let name = if alike.count() > 1 { format!("{name}-{}", kind.to_ascii_lowercase()) } else { name.clone() };
        text.push_str(&of_workload(workload, &format!("{name}-callers"), trust_domain, enforce));
    }
    text
}

fn of_workload(workload: &Workload, name: &str, trust_domain: &str, enforce: bool) -> String {
    let Workload { owner, selector, callers, open } = workload;
    let mut text = "---\n".to_owned();
    text.push_str(&comment(&format!("{} {}/{}", owner.kind, owner.namespace, owner.name)));
    open.iter().for_each(|line| text.push_str(&comment(line)));
    let Some(selector) = selector else {
        text.push_str(&comment("Nothing tells its pods from others: give them the label app.kubernetes.io/name."));
        return text;
    };
    if callers.is_empty() {
        text.push_str(&comment("Nobody called it with an identity and was let in: no policy is written."));
        return text;
    }
    let rule = |(port, identities): (&u16, &BTreeSet<Identity>)| {
        let sources: Vec<Value> = identities.iter().map(|identity| source(identity, trust_domain)).collect();
        json!({ "sources": sources, "networkAttributes": { "ports": [port] } })
    };
    let policy = json!({
        "apiVersion": format!("{POLICY_GROUP}/v1alpha1"),
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": owner.namespace },
        "spec": {
            "targetRefs": [{ "kind": "Pod", "selector": selector }],
            "action": "ALLOW",
            "mode": if enforce { "Enforce" } else { "Shadow" },
            "enforcementLevel": "Network",
            "rules": callers.iter().map(rule).collect::<Vec<_>>(),
        },
    });
    text.push_str(&yaml::write(&policy));
    text.push('\n');
    text
}

fn source(identity: &Identity, trust_domain: &str) -> Value {
    if identity.trust_domain() == trust_domain {
        let account = json!({ "name": identity.service_account(), "namespace": identity.namespace() });
        json!({ "type": "ServiceAccount", "serviceAccount": account })
    } else {
        json!({ "type": "SPIFFE", "spiffe": identity.as_str() })
    }
}

/// A text as comments, a line each.
fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}
