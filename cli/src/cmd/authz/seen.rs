//! What sidecars saw, summed over the pods of each workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use mesh_policy::Identity;
use serde::Serialize;
use serde_json::Value;

use super::{
    owners::Owner,
    page::{Counts, Page},
    sidecars::full_name,
};
use crate::kube::value;

/// A caller of a workload's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// `namespace/name` of the workload that is called.
    pub server: String,
    /// The port of its pods; 0 for callers that sidecars had no room for.
    pub port: u16,
    /// `http` or `bytes`.
    pub protocol: String,
    /// Who calls; `null`: it proved no identity.
    pub identity: Option<String>,
    /// Where a caller without identity calls from.
    pub source: Option<IpAddr>,
    /// Whose address that is, as far as the cluster tells.
    pub caller: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub counts: Counts,
    /// The rule that refused it last.
    pub last_denied_by: Option<String>,
    /// The rule in shadow that would have refused it last.
    pub last_shadow_denied_by: Option<String>,
    /// When it called last.
    pub last_seen: Option<Timestamp>,
}

impl Entry {
    /// Whether it stands for callers that sidecars had no room for.
    pub(super) fn is_rest(&self) -> bool {
        self.identity.is_none() && self.source.is_none()
    }

    /// Who called, for people.
    pub(super) fn who(&self) -> String {
        match (&self.identity, self.source, &self.caller) {
            (Some(identity), ..) => identity.clone(),
            (None, Some(source), Some(caller)) => format!("{source} ({caller})"),
            (None, Some(source), None) => source.to_string(),
            (None, None, _) => "others, for which there was no room".to_owned(),
        }
    }
}

/// What a policy decided in all pods that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicySum {
    /// As in `AuthorizationPolicy shop/web`.
    pub name: String,
    /// `ALLOW`, `DENY` or `AUDIT`.
    pub action: String,
    /// `Enforce` or `Shadow`.
    pub mode: String,
    /// What it decided.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What tells entries apart.
type Key = (String, u16, String, Option<Identity>, Option<IpAddr>);

/// The callers of all pods, by server, port and caller.
pub(super) fn entries(pods: &[(Value, Page)], addresses: &BTreeMap<IpAddr, String>) -> Vec<Entry> {
    let mut all: BTreeMap<Key, Entry> = BTreeMap::new();
    for (pod, page) in pods {
        let owner = Owner::of(pod);
        let server = format!("{}/{}", owner.namespace, owner.name);
        for seen in &page.callers {
            let key = (server.clone(), seen.port, seen.protocol.clone(), seen.identity.clone(), seen.source);
            let entry = all.entry(key).or_insert_with(|| Entry {
                server: server.clone(),
                port: seen.port,
                protocol: seen.protocol.clone(),
                identity: seen.identity.as_ref().map(ToString::to_string),
                source: seen.source,
                caller: seen.source.and_then(|source| addresses.get(&source.to_canonical()).cloned()),
                counts: Counts::default(),
                last_denied_by: None,
                last_shadow_denied_by: None,
                last_seen: None,
            });
            entry.counts.add(seen.counts);
            let at = i64::try_from(seen.last_seen).ok().filter(|seconds| *seconds > 0);
            let at = at.and_then(|seconds| Timestamp::from_second(seconds).ok());
            let is_later = entry.last_seen <= at;
            entry.last_seen = entry.last_seen.max(at);
            for (last, new) in [
                (&mut entry.last_denied_by, &seen.denied_by),
                (&mut entry.last_shadow_denied_by, &seen.shadow_denied_by),
            ] {
                if new.is_some() && (is_later || last.is_none()) {
                    last.clone_from(new);
                }
            }
        }
    }
    all.into_values().collect()
}

/// What each policy decided.
pub(super) fn policies(pods: &[(Value, Page)]) -> Vec<PolicySum> {
    let mut all: BTreeMap<&str, PolicySum> = BTreeMap::new();
    for policy in pods.iter().flat_map(|(_, page)| &page.policies) {
        let sum = all.entry(&policy.name).or_insert_with(|| PolicySum {
            name: policy.name.clone(),
            action: policy.action.clone(),
            mode: policy.mode.clone(),
            counts: Counts::default(),
        });
        sum.counts.add(policy.counts);
    }
    all.into_values().collect()
}

/// Who has each address: a pod, or the node whose pods share it.
pub(super) fn addresses(pods: &[Value]) -> BTreeMap<IpAddr, String> {
    let mut found = BTreeMap::new();
    let parsed = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    for pod in pods {
        if let (Some(ip), node) = (parsed(value::text(pod, "/status/hostIP")), value::text(pod, "/spec/nodeName")) {
            found.entry(ip).or_insert_with(|| format!("node {node}"));
        }
    }
    for pod in pods.iter().filter(|pod| !value::flag(pod, "/spec/hostNetwork")) {
        let several = value::items(pod, "/status/podIPs").iter().map(|ip| value::text(ip, "/ip"));
        let ips = several.chain([value::text(pod, "/status/podIP")]).filter_map(parsed);
        ips.for_each(|ip| drop(found.insert(ip, format!("pod {}", full_name(pod)))));
    }
    found
}

/// Whether addresses of callers are not known to be anybody's.
pub(super) fn has_unknown(pods: &[(Value, Page)], addresses: &BTreeMap<IpAddr, String>) -> bool {
    let sources: BTreeSet<IpAddr> =
        pods.iter().flat_map(|(_, page)| &page.callers).filter_map(|caller| caller.source).collect();
    sources.iter().any(|source| !addresses.contains_key(&source.to_canonical()))
}
