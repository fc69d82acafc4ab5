//! Who calls: the identity that a workload proves, and the address that it calls from.

use std::net::{IpAddr, Ipv4Addr};

use mesh_policy::Identity;
use mesh_resources::Object;
use serde::Serialize;
use serde_json::Value;

use super::{
    implied::labels,
    named::{Named, template_of},
    objects::Objects,
    selector::selects,
};
use crate::kube::value;

/// What servers know of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// It proves this identity.
    Proved(Identity),
    /// It proves none.
    Nobody,
    /// It is not known who it is.
    Unknown,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Caller {
    /// As it was named, in full.
    pub name: String,
    /// The identity that it proves; `null`: none, or it is not known.
    pub identity: Option<String>,
    /// Whether that is known.
    pub known: bool,
    /// The address that it calls from; `null`: it is not known.
    pub source: Option<IpAddr>,
    /// What servers know of it.
    #[serde(skip)]
    pub who: Who,
    /// What was taken for granted.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Caller {
    /// A caller.
    pub(crate) fn new(name: impl Into<String>, who: Who) -> Self {
        let identity = match &who {
            Who::Proved(identity) => Some(identity.to_string()),
            Who::Nobody | Who::Unknown => None,
        };
        let known = who != Who::Unknown;
        Self { name: name.into(), identity, known, source: None, who, notes: Vec::new() }
    }

    /// The address that rules are judged by.
    pub(super) fn address(&self) -> IpAddr {
        self.source.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    fn noting(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    fn at(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }
}

/// Who is named. `namespace` is that of workloads. Errors say what is not there.
pub(crate) fn caller(objects: &Objects, named: Named<'_>, namespace: &str) -> Result<Caller, String> {
    match named {
        Named::Spiffe(text) => {
            let identity = Identity::parse(text).map_err(|why| format!("{text:?}: {why}"))?;
            Ok(Caller::new(text, Who::Proved(identity)))
        }
        Named::Namespace(namespace) => Ok(Caller::new(namespace, Who::Unknown)),
        Named::PodOf { namespace, name } => of_pod(objects, namespace, name),
        Named::Workload { kind: "Pod", name } => of_pod(objects, namespace, name),
        Named::Workload { kind: "ServiceAccount", name } => {
            let caller = of_account(objects, namespace, name)?;
            Ok(Caller { name: format!("ServiceAccount {namespace}/{name}"), ..caller })
        }
        Named::Workload { kind, name } => of_workload(objects, kind, namespace, name),
    }
}

fn of_account(objects: &Objects, namespace: &str, account: &str) -> Result<Caller, String> {
    let identity = Identity::new(&objects.trust_domain, namespace, account)
        .map_err(|why| format!("the service account {namespace}/{account} has no identity: {why}"))?;
    Ok(Caller::new(account, Who::Proved(identity)))
}

fn of_pod(objects: &Objects, namespace: &str, name: &str) -> Result<Caller, String> {
    let full = format!("{namespace}/{name}");
    let pod = objects.snapshot.pod(&full).ok_or_else(|| format!("there is no pod {full}"))?;
    let title = format!("Pod {full}");
    let source = pod.ips.first().copied();
    Ok(match &pod.identity {
        Some(identity) => Caller::new(title, Who::Proved(identity.clone())).at(source),
        None => {
            let note = format!("pod {full} has no sidecar: it calls without identity");
            Caller::new(title, Who::Nobody).at(source).noting(note)
        }
    })
}

fn of_workload(objects: &Objects, kind: &str, namespace: &str, name: &str) -> Result<Caller, String> {
    let title = format!("{kind} {namespace}/{name}");
    let workload = objects.find(kind, namespace, name).ok_or_else(|| format!("there is no {title}"))?;
    let template = template_of(kind).and_then(|at| workload.value.pointer(at)).unwrap_or(&Value::Null);
    let account = Some(value::text(template, "/spec/serviceAccountName")).filter(|name| !name.is_empty());
    let assumed = of_account(objects, namespace, account.unwrap_or("default"))?;
    let pods: Vec<_> = pods_of(objects, workload)
        .filter_map(|pod| objects.snapshot.pod(&pod).map(|found| (objects.implied.contains(&pod), found)))
        .collect();
    let meshed: Vec<_> = pods.iter().filter_map(|(_, pod)| pod.identity.clone()).collect();
    let is_implied = pods.iter().all(|(is_implied, _)| *is_implied);
    let source = match pods.as_slice() {
        [(false, pod)] => pod.ips.first().copied(),
        _ => None,
    };
    let caller = match meshed.first() {
        Some(identity) => Caller { name: title.clone(), ..Caller::new("", Who::Proved(identity.clone())) },
        None if pods.is_empty() => Caller { name: title.clone(), ..assumed },
        None => Caller::new(title.clone(), Who::Nobody)
            .noting(format!("the pods of {title} have no sidecar: they call without identity")),
    };
    let caller = caller.at(source);
    Ok(if is_implied && caller.who != Who::Nobody {
        caller.noting(format!("{title} is taken for meshed: there is no pod of it"))
    } else if !meshed.is_empty() && meshed.len() < pods.len() {
        caller.noting(format!("{} of {} pods of {title} have no sidecar", pods.len() - meshed.len(), pods.len()))
    } else {
        caller
    })
}

/// `namespace/name` of the pods of a workload, those of templates too.
pub(crate) fn pods_of<'o>(objects: &'o Objects, workload: &'o Object) -> impl Iterator<Item = String> + use<'o> {
    // A CronJob selects nothing; its Jobs do.
    let template = template_of(&workload.kind).and_then(|at| workload.value.pointer(at));
    let written = template.and_then(|template| template.pointer("/metadata/labels")).unwrap_or(&Value::Null);
    let selector = workload.value.pointer("/spec/selector");
    let is_of = move |pod: &&Object| {
        let full = format!("{}/{}", pod.namespace, pod.name);
        pod.is("Pod")
            && pod.namespace == workload.namespace
            && match selector {
                Some(selector) => selects(selector, labels(pod)),
                None => {
                    let template = serde_json::json!({ "matchLabels": written });
                    objects.implied.contains(&full) && selects(&template, labels(pod))
                }
            }
    };
    objects.all.iter().filter(is_of).map(|pod| format!("{}/{}", pod.namespace, pod.name))
}
