//! Word of changes to those whom they concern.
//!
//! A thousand proxies hold tens of thousands of streams, and a cluster changes all the time: each stream follows what its
//! answer depends on, and sleeps through everything else. No change wakes them all: what concerns many (a Node's zone, a
//! namespace that is closed) is worked out before, as the Services, addresses and pods that it concerns.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_resources::{Key, Touched};
use tokio::sync::watch;

/// The table is swept when it has grown to twice what was followed at the last sweep, and not before it has this many.
const SWEEP_FROM: usize = 1024;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    /// The policies of a Service for clients of a namespace: the Service, and the routes of its own namespace and of theirs.
    Policies(Key, Arc<str>),
    /// The endpoints of a Service.
    Service(Key),
    /// What is at an address.
    Address(IpAddr),
    /// A pod and the Services that lead to it.
    Pod(Key),
    /// The zone of a Node.
    Node(Arc<str>),
}

/// All interests that someone follows.
#[derive(Clone, Debug, Default)]
pub struct Interests(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    senders: HashMap<Interest, watch::Sender<()>>,
    /// The namespaces of the clients that follow the policies of a Service.
    clients: HashMap<Key, HashSet<Arc<str>>>,
    sweep_at: usize,
}

impl Interests {
    /// Changes of a interest from now on.
    pub(crate) fn follow(&self, interest: Interest) -> watch::Receiver<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.senders.len() >= table.sweep_at.max(SWEEP_FROM) {
            table.senders.retain(|_, sender| sender.receiver_count() > 0);
            table.sweep_at = table.senders.len() * 2;
            let Table { senders, clients, .. } = &mut *table;
            clients.retain(|service, namespaces| {
                namespaces.retain(|client| senders.contains_key(&Interest::Policies(service.clone(), client.clone())));
                !namespaces.is_empty()
            });
        }
        if let Interest::Policies(service, client) = &interest {
            table.clients.entry(service.clone()).or_default().insert(client.clone());
        }
        table.senders.entry(interest).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Tells of a change that is in force by now.
    pub(crate) fn tell(&self, touched: &Touched) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let services = touched.services.iter().cloned().map(Interest::Service);
        let addresses = touched.addresses.iter().copied().map(Interest::Address);
        let pods = touched.pods.iter().cloned().map(Interest::Pod);
        let nodes = touched.nodes.iter().cloned().map(Interest::Node);
        let policies = touched.policies.iter().flat_map(|(service, namespace)| {
            let clients = table.clients.get(service).into_iter().flatten();
            // Routes of the Service's own namespace are for every client, others for those beside them.
            let concerned = clients.filter(move |client| *namespace == service.namespace || *client == namespace);
            concerned.map(|client| Interest::Policies(service.clone(), client.clone()))
        });
        for sender in services
            .chain(addresses)
            .chain(pods)
            .chain(nodes)
            .chain(policies)
            .filter_map(|interest| table.senders.get(&interest))
        {
            // Nobody may follow it any more.
            sender.send(()).unwrap_or_default();
        }
        if touched.networks.is_empty() {
            return;
        }
        for (interest, sender) in &table.senders {
            if matches!(interest, Interest::Address(ip) if touched.networks.iter().any(|network| network.contains(ip)))
            {
                sender.send(()).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_those_concerned_are_told() {
        let interests = Interests::default();
        let web = Interest::Service(Key::new("shop", "web"));
        let policies = |client: &str| Interest::Policies(Key::new("shop", "web"), client.into());
        let all = [policies("shop"), policies("bank"), web, Interest::Pod(Key::new("shop", "web"))];
        let mut followers = all.map(|interest| interests.follow(interest));
        let mut told = |touched: Touched| {
            interests.tell(&touched);
            followers.each_mut().map(|follower| {
                let is_told = follower.has_changed().unwrap();
                follower.mark_unchanged();
                is_told
            })
        };
        let services = [Key::new("shop", "web")].into();
        assert_eq!(told(Touched { services, ..Touched::default() }), [false, false, true, false]);
        let pods = [Key::new("shop", "web"), Key::new("shop", "other")].into();
        assert_eq!(told(Touched { pods, ..Touched::default() }), [false, false, false, true]);
        let policies = |namespace: &str| [(Key::new("shop", "web"), namespace.into())].into();
        let consumer = Touched { policies: policies("bank"), ..Touched::default() };
        assert_eq!(told(consumer), [false, true, false, false], "a route of a client's namespace is for its clients");
        let producer = Touched { policies: policies("shop"), ..Touched::default() };
        assert_eq!(told(producer), [true, true, false, false]);
        let mut addresses = ["10.0.1.5", "10.0.2.5"].map(|ip| interests.follow(Interest::Address(ip.parse().unwrap())));
        interests.tell(&Touched { networks: ["10.0.1.0/24".parse().unwrap()].into(), ..Touched::default() });
        assert_eq!(addresses.each_mut().map(|follower| follower.has_changed().unwrap()), [true, false]);
    }

    #[test]
    fn interests_that_nobody_follows_are_forgotten() {
        let interests = Interests::default();
        let kept = interests.follow(Interest::Service(Key::new("shop", "web")));
        for n in 0..10 * SWEEP_FROM {
            let service = Key::new("shop", n.to_string());
            drop(interests.follow(Interest::Pod(service.clone())));
            drop(interests.follow(Interest::Policies(service, "bank".into())));
        }
        let table = interests.0.lock().unwrap();
        assert!(table.senders.len() <= 2 * SWEEP_FROM && table.clients.len() <= 2 * SWEEP_FROM);
        drop(table);
        interests.tell(&Touched { services: [Key::new("shop", "web")].into(), ..Touched::default() });
        assert!(kept.has_changed().unwrap());
    }
}
