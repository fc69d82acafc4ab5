//! What a name or an address stands for.

use std::net::{IpAddr, SocketAddr};

use mesh_policy::{ServiceRef, Target};

use crate::{object::Key, snapshot::Snapshot};

/// Most ExternalNames followed, one to the next.
const MAX_ALIASES: usize = 4;

impl Snapshot {
    /// What `host:port` stands for to a client in a namespace; `None` when it is nothing known here.
    ///
    /// Names are those that the cluster's DNS knows, in its order of search, without regard to case, a trailing dot
    /// allowed: a Service is `web` (in the client's namespace), `web.ns`, `web.ns.svc` and `web.ns.svc.cluster.local`; a
    /// pod with a name of its own below a Service, as those of a StatefulSet, has that in front: `web-0.web`. An
    /// ExternalName is what it names. Addresses are those of Services, then those of pods; every other address is outside
    /// of the cluster, or it is not known whose it is: neither is `None`.
    pub fn resolve(&self, target: &str, client_namespace: &str) -> Option<Target> {
        if let Ok(address) = target.parse::<SocketAddr>() {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            return Some(self.resolve_address(address, client_namespace));
        }
        let (host, port) = target.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let mut host = host.to_ascii_lowercase();
        for _ in 0..=MAX_ALIASES {
            match self.resolve_name(&host, port, client_namespace)? {
                Name::Is(target) => return Some(target),
                Name::Alias(other) => host = self.in_cluster(&other)?,
            }
        }
        None
    }

    /// What a target's answer depends on. Says it also of targets that are not known. What is named in it may make it depend on
    /// something else: then this says so.
    pub fn depends(&self, target: &str, client_namespace: &str) -> Vec<Depends> {
        if let Ok(address) = target.parse::<SocketAddr>() {
            let ip = address.ip().to_canonical();
            let services = self.links.services_by_ip.linked(&ip).iter().cloned().map(Depends::Policies);
            return [Depends::Address(ip)].into_iter().chain(services).collect();
        }
        let mut host = target.rsplit_once(':').map_or(target, |(host, _)| host).to_ascii_lowercase();
        let mut all = Vec::new();
        for _ in 0..=MAX_ALIASES {
            let service = match self.labels(&host).as_slice() {
                [name] => Key::new(client_namespace, *name),
                [first, second] => {
                    // In its order of search: a pod below a Service of the client's namespace goes first.
                    let near = Key::new(client_namespace, *second);
                    all.push(Depends::Policies(near.clone()));
                    if self.services.get(&near).is_some() {
                        all.push(Depends::Endpoints(near));
                    }
                    Key::new(*second, *first)
                }
                [name, namespace, "svc"] => Key::new(*namespace, *name),
                [_, name, namespace] | [_, name, namespace, "svc"] => {
                    let service = Key::new(*namespace, *name);
                    all.extend([Depends::Policies(service.clone()), Depends::Endpoints(service)]);
                    return all;
                }
                _ => return all,
            };
            all.push(Depends::Policies(service.clone()));
            let alias = self.services.get(&service).and_then(|found| self.in_cluster(found.external_name.as_ref()?));
            let Some(alias) = alias else { return all };
            host = alias;
        }
        all
    }

    /// The labels of a name, without the cluster's domain.
    fn labels<'h>(&self, host: &'h str) -> Vec<&'h str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let local = host.strip_suffix(self.options.cluster_domain.as_str()).and_then(|h| h.strip_suffix('.'));
        local.unwrap_or(host).split('.').collect()
    }

    /// A full name of the cluster's domain; an alias of anything else is none of the mesh's.
    fn in_cluster(&self, alias: &str) -> Option<String> {
        let alias = alias.to_ascii_lowercase();
        let full = alias.strip_suffix('.').unwrap_or(&alias);
        let is_local =
            full.strip_suffix(self.options.cluster_domain.as_str()).is_some_and(|rest| rest.ends_with(".svc."));
        is_local.then(|| full.to_owned())
    }

    fn resolve_name(&self, host: &str, port: u16, client_namespace: &str) -> Option<Name> {
        match self.labels(host).as_slice() {
            [name] => self.service_name(&Key::new(client_namespace, *name), port),
            // Search goes through the client's own namespace first.
            [first, second] => {
                let pod = || self.pod_name(first, &Key::new(client_namespace, *second), port);
                pod().or_else(|| self.service_name(&Key::new(*second, *first), port))
            }
            [name, namespace, "svc"] => self.service_name(&Key::new(*namespace, *name), port),
            [pod, name, namespace] | [pod, name, namespace, "svc"] => {
                self.pod_name(pod, &Key::new(*namespace, *name), port)
            }
            _ => None,
        }
    }

    fn service_name(&self, key: &Key, port: u16) -> Option<Name> {
        match &self.services.get(key)?.external_name {
            Some(name) => Some(Name::Alias(name.to_string())),
            None => self.service_target(key, port).map(Name::Is),
        }
    }

    /// The pod that has a name of its own below a Service's. The port is that of the pod: nothing translates it.
    fn pod_name(&self, hostname: &str, service: &Key, port: u16) -> Option<Name> {
        let found = self.services.get(service)?;
        let slices =
            self.links.slices_by_service.linked(service).iter().filter_map(|key| self.endpoint_slices.get(key));
        let named = slices.flat_map(|slice| &slice.endpoints).filter(|e| e.hostname.as_deref() == Some(hostname));
        // As DNS does, which lists the ready ones.
        let ready = named.filter(|endpoint| endpoint.ready);
        let known = ready.filter_map(|e| Some((self.owner(&service.namespace, e, port).ok()?, e)));
        let (owner, endpoint) =
            known.min_by_key(|(_, endpoint)| (endpoint.address.is_ipv6() != found.prefers_v6, endpoint.address))?;
        let address = SocketAddr::new(endpoint.address, port);
        Some(Name::Is(Target::Endpoint(self.endpoint_of(owner, endpoint, address))))
    }

    fn resolve_address(&self, address: SocketAddr, client_namespace: &str) -> Target {
        let services = self.links.services_by_ip.linked(&address.ip());
        if !services.is_empty() {
            let has_port =
                |key: &&Key| self.services.get(key).is_some_and(|found| found.port(address.port()).is_some());
            let mut found = services.iter().filter(has_port);
            // Where two claim the same address and port, neither is it.
            let target = match (found.next(), found.next()) {
                (Some(key), None) => self.service_target(key, address.port()),
                _ => None,
            };
            return target.unwrap_or(Target::Unknown(address));
        }
        self.resolve_direct(address, client_namespace)
    }

    fn service_target(&self, key: &Key, port: u16) -> Option<Target> {
        let service = self.services.get(key).filter(|service| service.external_name.is_none())?;
        service.port(port)?;
        Some(Target::Service(ServiceRef::new(key.namespace.clone(), key.name.clone(), port)))
    }
}

/// See [`Snapshot::depends`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Depends {
    /// A Service, and the policies attached to it.
    Policies(Key),
    /// What is at an address.
    Address(IpAddr),
    /// The endpoints of a Service.
    Endpoints(Key),
}

/// What a name turned out to be.
enum Name {
    Is(Target),
    Alias(String),
}
