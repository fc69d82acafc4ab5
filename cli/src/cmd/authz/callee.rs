//! What is called: a Service, a pod, or the pods of a workload.

use std::collections::BTreeSet;

use anyhow::{anyhow, bail, ensure};
use mesh_policy::{ServiceRef, Target, well_known::PROXY_CONTAINER};
use mesh_resources::{Key, Object};
use serde_json::Value;

use crate::{
    authorization::{Behind, Named, Objects, behind, named, pods_of, ports_of},
    kube::value,
};

/// What a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Callee<'a> {
    /// `Service`, or the kind of a workload; `None`: a Service, or a pod if there is no such Service.
    kind: Option<&'static str>,
    /// The namespace, where the text says it.
    pub namespace: Option<&'a str>,
    name: &'a str,
    port: Option<u16>,
}

/// The pods of one thing that is called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Called {
    /// `namespace/name:port` of the Service; `None`: the pods themselves.
    pub service: Option<String>,
    /// Its pods, by policy.
    pub behind: Vec<Behind>,
}

impl<'a> Callee<'a> {
    /// Reads `NAME[.NAMESPACE]`, `NAMESPACE/NAME`, `svc/NAME`, `pod/NAME` or `deploy/NAME`, each with `:PORT` or without.
    pub(super) fn read(text: &'a str) -> anyhow::Result<Self> {
        let (rest, port) = match text.rsplit_once(':') {
            Some((rest, port)) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                (rest, Some(number.ok_or_else(|| anyhow!("{text:?}: {port:?} is no port"))?))
            }
            None => (text, None),
        };
        let (kind, namespace, name) = match (rest.split_once('/'), named(rest)) {
            (Some(("svc" | "service" | "services", name)), _) => (Some("Service"), None, name),
            (_, Named::Workload { kind: "ServiceAccount", .. } | Named::Spiffe(_)) => {
                bail!("{text:?} calls and is not called; name a Service, a pod or a workload such as deploy/web")
            }
            (_, Named::Workload { kind, name }) => (Some(kind), None, name),
            (_, Named::PodOf { namespace, name }) => (None, Some(namespace), name),
            (_, Named::Namespace(host)) => {
                let mut labels = host.split('.');
                let name = labels.next().unwrap_or_default();
                (None, labels.next(), name)
            }
        };
        ensure!(!name.is_empty(), "{text:?} names nothing; write a Service, as in web.shop:80");
        Ok(Self { kind, namespace, name, port })
    }

    /// The workload whose object must be read for its pods.
    pub(super) fn workload(&self) -> Option<Named<'a>> {
        let kind = self.kind.filter(|kind| !["Service", "Pod"].contains(kind))?;
        Some(Named::Workload { kind, name: self.name })
    }

    /// The namespace of an object that is named so: in manifests no namespace is meant more than others.
    pub(super) fn namespace_in<'o>(&self, objects: &'o Objects) -> Option<&'o str> {
        let is_it = |object: &&Object| {
            let is_kind = match self.kind {
                Some(kind) => object.is(kind),
                None => object.is("Service") || object.is("Pod"),
            };
            is_kind && object.name == self.name
        };
        objects.all.iter().find(is_it).map(|object| object.namespace.as_str())
    }

    /// How a client names it as a host.
    pub(super) fn host(&self, namespace: &str) -> String {
        format!("{}.{}", self.name, self.namespace.unwrap_or(namespace))
    }

    /// What is called of it: each port of a Service, or of pods, unless one is named.
    pub(super) fn called(&self, objects: &Objects, namespace: &str) -> anyhow::Result<Vec<Called>> {
        let namespace = self.namespace.unwrap_or(namespace);
        let key = Key::new(namespace, self.name);
        let full = format!("{namespace}/{}", self.name);
        let is_service = objects.snapshot.services.get(&key).is_some();
        match self.kind {
            Some("Service") | None if is_service => self.of_service(objects, &key),
            Some("Pod") | None if objects.snapshot.pod(&full).is_some() => self.of_pods(objects, vec![full]),
            None | Some("Service") => {
                let what = if self.kind.is_some() { "Service" } else { "Service and no pod" };
                bail!("there is no {what} {full}; see: meshctl authz -n {namespace}")
            }
            Some(kind) => {
                let workload = objects.find(kind, namespace, self.name);
                let workload = workload.ok_or_else(|| anyhow!("there is no {kind} {full}"))?;
                let pods: Vec<String> = pods_of(objects, workload).collect();
                ensure!(!pods.is_empty(), "{kind} {full} has no pods");
                self.of_pods(objects, pods)
            }
        }
    }

    /// As [`Self::called`], of one port.
    pub(super) fn one_called(&self, objects: &Objects, namespace: &str) -> anyhow::Result<Called> {
        let mut called = self.called(objects, namespace)?;
        // A client that names no port means that of HTTP.
        if called.len() > 1
            && let Some(place) = called.iter().position(|c| c.service.as_ref().is_some_and(|s| s.ends_with(":80")))
        {
            return Ok(called.swap_remove(place));
        }
        let ports: BTreeSet<u16> =
            called.iter().filter(|c| c.service.is_none()).flat_map(|c| &c.behind).map(|behind| behind.port).collect();
        let names: Vec<&str> = called.iter().filter_map(|called| called.service.as_deref()).collect();
        ensure!(names.len() <= 1, "there are several ports: {}; name one, as in {}:PORT", names.join(", "), self.name);
        ensure!(ports.len() <= 1, "the pods have several ports: {ports:?}; name one, as in pod/{}:PORT", self.name);
        called.pop().ok_or_else(|| anyhow!("{} has no port that is known; name one, as in {0}:PORT", self.name))
    }

    fn of_service(&self, objects: &Objects, key: &Key) -> anyhow::Result<Vec<Called>> {
        let service = objects.snapshot.services.get(key);
        let all: Vec<u16> = service.iter().flat_map(|service| &service.ports).map(|port| port.port).collect();
        let ports: Vec<u16> =
            all.iter().copied().filter(|port| self.port.is_none_or(|wanted| wanted == *port)).collect();
        ensure!(
            !ports.is_empty(),
            "Service {}/{} has {}the ports: {all:?}",
            key.namespace,
            key.name,
            if self.port.is_some() { "another port; it has " } else { "" }
        );
        let called = |port| {
            let service = ServiceRef::new(key.namespace.clone(), key.name.clone(), port);
            let name = service.to_string();
            Called { service: Some(name), behind: behind(&objects.snapshot, &Target::Service(service)) }
        };
        Ok(ports.into_iter().map(called).collect())
    }

    fn of_pods(&self, objects: &Objects, pods: Vec<String>) -> anyhow::Result<Vec<Called>> {
        let mut found: Vec<Behind> = Vec::new();
        for pod in pods {
            let ports = match self.port {
                Some(port) => BTreeSet::from([port]),
                None => {
                    let mut ports = ports_of(&objects.snapshot, &pod);
                    ports.extend(container_ports(objects, &pod));
                    ports
                }
            };
            ports.into_iter().for_each(|port| Behind::pod(&objects.snapshot, &pod, port).join(&mut found));
        }
        ensure!(!found.is_empty(), "no port of {} is known; name one, as in pod/{0}:8080", self.name);
        found.sort_by_key(|behind| behind.port);
        Ok(vec![Called { service: None, behind: found }])
    }
}

/// The ports that the containers of a pod say that they have, without those of its sidecar.
fn container_ports(objects: &Objects, pod: &str) -> Vec<u16> {
    let found = pod.split_once('/').and_then(|(namespace, name)| objects.find("Pod", namespace, name));
    let containers = found.map_or(&[][..], |pod| value::items(&pod.value, "/spec/containers"));
    let own = containers.iter().filter(|container| value::text(container, "/name") != PROXY_CONTAINER);
    let ports = own.flat_map(|container| value::items(container, "/ports"));
    let is_tcp = |port: &&Value| matches!(value::text(port, "/protocol"), "" | "TCP");
    ports.filter(is_tcp).filter_map(|port| u16::try_from(value::number(port, "/containerPort")).ok()).collect()
}
