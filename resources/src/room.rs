//! How much the objects of one namespace may take, and what is left of one for which there is no room.
//!
//! An API server takes objects of 1.5 MiB, and any number of them. What is decoded of a namespace is added up; of an object
//! beyond the bound only as much is kept as keeps it from meaning something else: a route stays attached and serves nothing,
//! an EndpointSlice has no endpoints, a Service no ports. What was there before it goes on.

use std::mem::{size_of, size_of_val};

use crate::{
    endpoint_slice::EndpointSlice,
    pod::Pod,
    problem::{Reason, Report},
    reference_grant::ReferenceGrant,
    retry_policy::RetryPolicy,
    route::{Parent, RouteObject},
    service::Service,
};

/// Most bytes that is kept of the objects of one namespace, as they are decoded and with what is said of them. Ten thousand
/// pods with their Services and slices take a quarter of it.
pub const MAX_NAMESPACE_BYTES: usize = 48 * 1024 * 1024;
/// What one problem takes, about.
const PROBLEM_BYTES: usize = 512;

/// An object of a namespace.
pub(crate) trait Bounded: Sized {
    /// Bytes that it takes in memory, about.
    fn bytes(&self) -> usize;
    /// What is kept of it where there is no room; `None`: nothing.
    fn left_out(self) -> Option<Self>;
}

/// What some problems take.
pub(crate) fn of_problems(count: usize) -> usize {
    count * PROBLEM_BYTES
}

/// An object, or what is kept of it where its namespace has `room` for less.
pub(crate) fn fit<T: Bounded>(object: T, room: usize, report: &mut Report<'_>) -> (Option<T>, usize) {
    let bytes = object.bytes() + of_problems(report.mark());
    if bytes <= room {
        return (Some(object), bytes);
    }
    report.forget();
    let what = format!(
        "the objects of this namespace take more than {} MiB, so this one is not in force",
        MAX_NAMESPACE_BYTES / 1024 / 1024
    );
    report.error(
        "metadata.name",
        Reason::TooLarge,
        what,
        "remove objects of the namespace or make them smaller, and write this one again",
    );
    let kept = object.left_out();
    let bytes = kept.as_ref().map_or(0, Bounded::bytes) + of_problems(1);
    (kept, bytes)
}

impl Bounded for RouteObject {
    /// Twice, for it is compiled.
    fn bytes(&self) -> usize {
        2 * self.bytes
    }

    fn left_out(mut self) -> Option<Self> {
        let mut parents: Vec<Parent> = Vec::new();
        for parent in self.parents {
            if !parents.iter().any(|kept| (&kept.namespace, &kept.name) == (&parent.namespace, &parent.name)) {
                parents.push(Parent { port: None, section: None, ..parent });
            }
        }
        let bytes = size_of::<Self>() + parents.len() * 2 * size_of::<Parent>();
        self = Self { parents, hostnames: Vec::new(), rules: Vec::new(), pattern_bytes: 0, bytes, ..self };
        self.rejected = Some(Reason::TooLarge);
        Some(self)
    }
}

impl Bounded for Service {
    fn bytes(&self) -> usize {
        let ports: usize = self.ports.iter().map(|port| size_of_val(port) + port.name.len() + 32).sum();
        size_of::<Self>() + self.namespace.len() + self.name.len() + ports
    }

    fn left_out(self) -> Option<Self> {
        Some(Self { ports: Vec::new(), ..self })
    }
}

impl Bounded for Pod {
    fn bytes(&self) -> usize {
        let ports: usize = self.ports.keys().map(|name| size_of::<(String, u16)>() + name.len() + 32).sum();
        size_of::<Self>() + 4 * (self.namespace.len() + self.name.len()) + ports
    }

    /// Who it is counts, and where; not what its ports are called.
    fn left_out(self) -> Option<Self> {
        Some(Self { ports: std::collections::BTreeMap::new(), ..self })
    }
}

impl Bounded for EndpointSlice {
    fn bytes(&self) -> usize {
        /// Its places among those of the addresses, pods and Services.
        const LINKS: usize = 256;
        let endpoint = |e: &crate::endpoint_slice::SliceEndpoint| {
            let names = [&e.pod, &e.zone, &e.node, &e.hostname].into_iter().flatten().map(|name| name.len() + 32);
            let hints = e.for_zones.iter().chain(&e.for_nodes).map(|name| name.len() + 32);
            size_of_val(e) + LINKS + names.chain(hints).sum::<usize>()
        };
        let ports: usize = self.ports.iter().map(|port| size_of_val(port) + port.0.len() + 16).sum();
        size_of::<Self>() + ports + self.endpoints.iter().map(endpoint).sum::<usize>()
    }

    fn left_out(self) -> Option<Self> {
        Some(Self { endpoints: Vec::new(), ports: Vec::new(), ..self })
    }
}

impl Bounded for ReferenceGrant {
    fn bytes(&self) -> usize {
        size_of::<Self>() + 128 * (self.from.len() + self.to.len() + 1)
    }

    fn left_out(self) -> Option<Self> {
        None
    }
}

impl Bounded for RetryPolicy {
    fn bytes(&self) -> usize {
        /// Its lists are short.
        const LISTS: usize = 1024;
        size_of::<Self>() + LISTS
    }

    fn left_out(self) -> Option<Self> {
        None
    }
}
