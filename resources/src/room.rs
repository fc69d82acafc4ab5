//! How much the objects of one namespace may take, and what is left of one for which there is no room.
//!
//! An API server takes objects of 1.5 MiB, and any number of them. What is decoded of a namespace is added up; of an object
//! beyond the bound only as much is kept as keeps it from meaning something else: a route stays attached and serves nothing,
//! an EndpointSlice has no endpoints, a Service no ports. What was there before it goes on, and one that becomes smaller is
//! taken. What is kept of those has a bound as well: beyond it only names are known, and which Services their routes close
//! ([`crate::closed`]). When there is room again, it is told which objects to read again.

use std::{
    collections::BTreeSet,
    mem::{size_of, size_of_val},
    sync::Arc,
};

use mesh_policy::RouteKind;

use crate::{
    endpoint_slice::EndpointSlice,
    object::Key,
    object::ObjectId,
    problem::{Problem, Reason, Report},
    reference_grant::ReferenceGrant,
    retry_policy::RetryPolicy,
    route::{Parent, RouteObject},
    selector::Selector,
    service::Service,
    shared_map::SharedMap,
};

/// Most bytes that is kept of the objects of one namespace, as they are decoded and with what is said of them. Ten thousand
/// pods with their Services and slices take a quarter of it.
pub const MAX_NAMESPACE_BYTES: usize = 48 * 1024 * 1024;
/// Beyond so many bytes of a namespace nothing is kept of a route, a slice or what has no address but its name.
const MAX_KEPT_BYTES: usize = 2 * MAX_NAMESPACE_BYTES;
/// Most bytes of all namespaces together, a quarter of the memory that destination may take, for who has most. Beyond it what
/// a namespace has more than its even part of what is left up to twice this is not in force; whoever has less goes on.
pub const MAX_ALL_BYTES: usize = 256 * 1024 * 1024;
/// What one problem takes, about.
const PROBLEM_BYTES: usize = 512;

/// An object of a namespace.
pub(crate) trait Bounded: Sized {
    /// Bytes that it takes in memory, about.
    fn bytes(&self) -> usize;
    /// What is kept of it where there is no room; `None`: nothing.
    fn left_out(self) -> Option<Self>;
    /// Whether even that may go: nobody is taken for somebody else without it.
    fn may_go(&self) -> bool {
        true
    }
    /// The Services that it closes as long as it is not in force.
    fn closes(&self) -> Vec<(Key, RouteKind)> {
        Vec::new()
    }
}

/// Namespace, kind and name: the objects of a namespace stand together.
type Name = (Arc<str>, Arc<str>, Arc<str>);

/// What all objects take.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Room {
    by_namespace: SharedMap<Arc<str>, Held>,
    all: usize,
    /// Objects that are not in force for want of room.
    left_out: SharedMap<Name, LeftOut>,
    /// Namespaces that hold less than before and may have room for what was left out.
    shrunk: BTreeSet<Arc<str>>,
    /// Whether something was left out because of all namespaces together.
    is_full: bool,
}

/// What the objects of one namespace take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    bytes: usize,
    /// Objects of which nothing but the name is known.
    gone: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeftOut {
    /// What it would take.
    bytes: usize,
    /// Whether nothing else of it is known.
    is_gone: bool,
}

/// What becomes of an object.
pub(crate) enum Fit<T> {
    /// This is in force of it.
    Kept(Option<T>),
    /// Nothing is known of it but its name; it closes these Services.
    Gone(Vec<(Key, RouteKind)>),
}

/// What some problems take.
pub(crate) fn of_problems(count: usize) -> usize {
    count * PROBLEM_BYTES
}

impl Room {
    /// What the objects of a namespace take.
    pub(crate) fn held(&self, namespace: &Arc<str>) -> usize {
        self.of(namespace).bytes
    }

    /// Whether there are objects of a namespace of which nothing but the name is known.
    pub(crate) fn has_gone(&self, namespace: &Arc<str>) -> bool {
        self.of(namespace).gone > 0
    }

    /// An object in the place of one that takes `own` bytes, as far as there is room for it.
    pub(crate) fn fit<T: Bounded>(&mut self, id: &ObjectId, own: usize, object: T, report: &mut Report<'_>) -> Fit<T> {
        let namespace: Arc<str> = id.namespace.as_str().into();
        let was_in_force = own > 0 && self.left_out.get(&name_of(id)).is_none();
        let bytes = object.bytes() + of_problems(report.mark());
        let others = self.held(&namespace).saturating_sub(own);
        let others_in_all = self.all.saturating_sub(own);
        let part = (2 * MAX_ALL_BYTES).saturating_sub(others_in_all) / self.by_namespace.len().max(1);
        let is_too_much_in_all = others_in_all + bytes > MAX_ALL_BYTES && others + bytes > part;
        let is_too_much = others + bytes > MAX_NAMESPACE_BYTES || is_too_much_in_all;
        // One that becomes smaller helps.
        if !is_too_much || (was_in_force && bytes <= own) {
            self.note(id, own, bytes, None);
            return Fit::Kept(Some(object));
        }
        self.is_full |= is_too_much_in_all;
        report.forget();
        let closes = object.closes();
        let kept = object.left_out();
        let left = kept.as_ref().map_or(0, Bounded::bytes) + of_problems(1);
        let is_beyond =
            others + left > MAX_KEPT_BYTES || is_too_much_in_all && others_in_all + left > 2 * MAX_ALL_BYTES;
        if is_beyond && kept.as_ref().is_none_or(Bounded::may_go) {
            self.note(id, own, 0, Some(LeftOut { bytes, is_gone: true }));
            return Fit::Gone(closes);
        }
        let what = if is_too_much_in_all {
            format!(
                "the objects of all namespaces take more than {} MiB and those of this one more than its part, so this one is \
                 not in force",
                MAX_ALL_BYTES / 1024 / 1024
            )
        } else {
            let most = MAX_NAMESPACE_BYTES / 1024 / 1024;
            format!("the objects of this namespace take more than {most} MiB, so this one is not in force")
        };
        let fix = "remove objects of the namespace or make them smaller";
        report.error("metadata.name", Reason::TooLarge, what, fix);
        self.note(id, own, left, Some(LeftOut { bytes, is_gone: false }));
        Fit::Kept(kept)
    }

    /// An object that takes `own` bytes goes.
    pub(crate) fn free(&mut self, id: &ObjectId, own: usize) {
        self.note(id, own, 0, None);
    }

    /// What is to be read again, since there is room for it by now.
    pub(crate) fn take_readable(&mut self) -> Vec<ObjectId> {
        if self.is_full && self.all < MAX_ALL_BYTES / 10 * 9 {
            self.is_full = false;
            self.shrunk.extend(self.left_out.keys().map(|(namespace, ..)| namespace.clone()));
        }
        let mut readable = Vec::new();
        for namespace in std::mem::take(&mut self.shrunk) {
            let held = self.held(&namespace);
            // Not for each object that goes of a namespace that is full.
            if held > MAX_NAMESPACE_BYTES / 10 * 9 {
                continue;
            }
            let mut room = MAX_NAMESPACE_BYTES - held;
            let first = (namespace.clone(), "".into(), "".into());
            for ((of, kind, name), left_out) in self.left_out.range_from(&first) {
                if *of != namespace {
                    break;
                }
                if left_out.bytes <= room {
                    room -= left_out.bytes;
                    let (kind, namespace, name) = (kind.to_string(), namespace.to_string(), name.to_string());
                    readable.push(ObjectId::used(&kind, &namespace, &name));
                }
            }
        }
        readable
    }

    /// What is wrong with namespaces of whose objects some are known by name only.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let gone = self.by_namespace.iter().filter(|(_, held)| held.gone > 0);
        gone.flat_map(|(namespace, held)| {
            let (kind, name) = ("Namespace".to_owned(), namespace.to_string());
            let mut report = Report::about(ObjectId::used(&kind, &name, &name));
            let what = format!(
                "its objects take more than {} MiB with what is kept of those that are not in force; nothing is kept of {} \
                 more, and Services to which routes among them are attached are closed",
                MAX_KEPT_BYTES / 1024 / 1024,
                held.gone
            );
            report.error("metadata.name", Reason::TooLarge, what, "remove objects of the namespace or make them smaller");
            report.finish()
        })
    }

    fn of(&self, namespace: &Arc<str>) -> Held {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    /// Notes that an object takes other bytes than before, and whether it is left out.
    fn note(&mut self, id: &ObjectId, own: usize, bytes: usize, left_out: Option<LeftOut>) {
        let name = name_of(id);
        let is_gone = |left_out: Option<&LeftOut>| usize::from(left_out.is_some_and(|it| it.is_gone));
        let mut held = self.of(&name.0);
        held.bytes = held.bytes.saturating_sub(own) + bytes;
        held.gone = (held.gone + is_gone(left_out.as_ref())).saturating_sub(is_gone(self.left_out.get(&name)));
        self.all = self.all.saturating_sub(own) + bytes;
        if bytes < own && !self.left_out.is_empty() {
            self.shrunk.insert(name.0.clone());
        }
        match held == Held::default() {
            true => drop(self.by_namespace.remove(&name.0)),
            false => self.by_namespace.insert(name.0.clone(), held),
        }
        match left_out {
            Some(left_out) => self.left_out.insert(name, left_out),
            None => drop(self.left_out.remove(&name)),
        }
    }
}

fn name_of(id: &ObjectId) -> Name {
    (id.namespace.as_str().into(), id.kind.as_str().into(), id.name.as_str().into())
}

impl Bounded for RouteObject {
    /// Twice, for it is compiled.
    fn bytes(&self) -> usize {
        2 * self.bytes
    }

    /// Attached as it is written, to nothing broader.
    fn left_out(self) -> Option<Self> {
        let bytes = size_of::<Self>() + self.bytes.saturating_sub(self.policy_bytes);
        let (hostnames, rules, rejected) = (Vec::new(), Vec::new(), Some(Reason::TooLarge));
        let policy_bytes = size_of::<Self>();
        Some(Self { hostnames, rules, rejected, pattern_bytes: 0, bytes, policy_bytes, ..self })
    }

    fn closes(&self) -> Vec<(Key, RouteKind)> {
        let parents = self.parents.iter().filter(|parent| parent.rejected.is_none());
        let service = |parent: &Parent| Key { namespace: parent.namespace.clone(), name: parent.name.clone() };
        parents.map(|parent| (service(parent), self.meta.kind)).collect()
    }
}

impl Bounded for Service {
    fn bytes(&self) -> usize {
        let ports: usize = self.ports.iter().map(|port| size_of_val(port) + port.name.len() + 32).sum();
        let selector = self.selector.as_ref().map_or(0, Selector::bytes);
        size_of::<Self>() + self.namespace.len() + self.name.len() + ports + selector
    }

    /// Its pods are still its own, for policies that are about it.
    fn left_out(self) -> Option<Self> {
        Some(Self { ports: Vec::new(), is_cut: true, ..self })
    }

    /// Its addresses are a Service's, and not outside of the cluster.
    fn may_go(&self) -> bool {
        self.cluster_ips.is_empty()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: usize = 1024 * 1024;

    /// An object that takes so many bytes, and none of which anything is kept.
    struct Fake(usize);

    impl Bounded for Fake {
        fn bytes(&self) -> usize {
            self.0
        }

        fn left_out(self) -> Option<Self> {
            None
        }
    }

    fn put(room: &mut Room, namespace: &str, name: &str, own: usize, bytes: usize) -> bool {
        let id = id(namespace, name);
        let mut report = Report::about(id.clone());
        matches!(room.fit(&id, own, Fake(bytes), &mut report), Fit::Kept(Some(_)))
    }

    fn id(namespace: &str, name: &str) -> ObjectId {
        ObjectId::used("Fake", namespace, name)
    }

    #[test]
    fn all_namespaces_have_one_bound_and_who_has_most_gives_way() {
        let mut room = Room::default();
        assert!((0..2).all(|n| put(&mut room, "small", &n.to_string(), 0, MIB)));
        let taken = |room: &mut Room, of: usize| -> usize {
            (0..60).filter(|n| put(room, &format!("t{of}"), &n.to_string(), 0, MIB)).count()
        };
        let all: Vec<_> = (0..20).map(|of| taken(&mut room, of)).collect();
        assert_eq!(all[..5], [48, 48, 48, 48, 48], "each by itself is within its bound");
        // Whoever comes now has an even part, and nobody who is below it is kept from anything.
        assert!(all[5..].iter().all(|count| (3..=43).contains(count)), "{all:?}");
        assert!(room.all <= 2 * MAX_ALL_BYTES, "{}", room.all);
        assert!(put(&mut room, "small", "2", 0, MIB));
        assert!(!put(&mut room, "t0", "60", 0, MIB));
        assert!(room.take_readable().is_empty());
        // Room comes back for everybody.
        for (of, count) in all.iter().enumerate().skip(1) {
            (0..60).for_each(|n| room.free(&id(&format!("t{of}"), &n.to_string()), if n < *count { MIB } else { 0 }));
        }
        let readable = room.take_readable();
        assert!(readable.iter().all(|id| id.namespace == "t0") && room.all < MAX_ALL_BYTES);
    }

    #[test]
    fn one_that_becomes_smaller_is_taken_and_what_was_left_out_is_read_again_once_there_is_room() {
        let mut room = Room::default();
        assert!((0..48).all(|n| put(&mut room, "a", &n.to_string(), 0, MIB)));
        assert!(!put(&mut room, "a", "more", 0, 8 * MIB) && !put(&mut room, "a", "huge", 0, 60 * MIB));
        assert!(!put(&mut room, "a", "0", MIB, 2 * MIB), "it would be more");
        assert!(put(&mut room, "a", "1", MIB, MIB / 2), "less, though the namespace is full");
        assert_eq!(room.take_readable(), [], "not for half a MiB");
        (2..12).for_each(|n| room.free(&id("a", &n.to_string()), MIB));
        let mut readable = room.take_readable();
        readable.sort();
        assert_eq!(readable, [id("a", "0"), id("a", "more")], "what would fit together");
        assert_eq!(room.take_readable(), [], "once");
        assert!(put(&mut room, "a", "more", PROBLEM_BYTES, 8 * MIB));
    }
}
