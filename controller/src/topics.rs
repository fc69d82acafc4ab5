//! Word of changes to those whom they concern.
//!
//! A thousand proxies hold tens of thousands of streams, and a cluster changes all the time: each stream follows the one
//! topics that its answer depends on, and sleeps through everything else. What any answer may depend on (the zone of a Node, or
//! the networks of its pods) wakes them all; such changes are rare, and no tenant's.

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
pub enum Topic {
    /// Nothing but what any answer depends on.
    Everything,
    /// The policies of a Service for clients of a namespace: the Service, and the routes of its own namespace and of theirs.
    Policies(Key, Arc<str>),
    /// The endpoints of a Service.
    Service(Key),
    /// What is at an address.
    Address(IpAddr),
    /// A pod and the Services that lead to it.
    Pod(Key),
}

/// All topics that someone follows.
#[derive(Clone, Debug, Default)]
pub struct Topics(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    senders: HashMap<Topic, watch::Sender<()>>,
    /// The namespaces of the clients that follow the policies of a Service.
    clients: HashMap<Key, HashSet<Arc<str>>>,
    sweep_at: usize,
}

impl Topics {
    /// Changes of a topic from now on.
    pub fn follow(&self, topic: Topic) -> watch::Receiver<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.senders.len() >= table.sweep_at.max(SWEEP_FROM) {
            table.senders.retain(|_, sender| sender.receiver_count() > 0);
            table.sweep_at = table.senders.len() * 2;
            let Table { senders, clients, .. } = &mut *table;
            clients.retain(|service, namespaces| {
                namespaces.retain(|client| senders.contains_key(&Topic::Policies(service.clone(), client.clone())));
                !namespaces.is_empty()
            });
        }
        if let Topic::Policies(service, client) = &topic {
            table.clients.entry(service.clone()).or_default().insert(client.clone());
        }
        table.senders.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Tells of a change that is in force by now.
    pub fn tell(&self, touched: &Touched) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.everything {
            return table.senders.values().for_each(|sender| sender.send(()).unwrap_or_default());
        }
        let services = touched.services.iter().cloned().map(Topic::Service);
        let addresses = touched.addresses.iter().copied().map(Topic::Address);
        let pods = touched.pods.iter().cloned().map(Topic::Pod);
        let policies = touched.policies.iter().flat_map(|(service, namespace)| {
            let clients = table.clients.get(service).into_iter().flatten();
            // Routes of the Service's own namespace are for every client, others for those beside them.
            let concerned = clients.filter(move |client| *namespace == service.namespace || *client == namespace);
            concerned.map(|client| Topic::Policies(service.clone(), client.clone()))
        });
        for sender in
            services.chain(addresses).chain(pods).chain(policies).filter_map(|topic| table.senders.get(&topic))
        {
            // Nobody may follow it any more.
            sender.send(()).unwrap_or_default();
        }
        if touched.networks.is_empty() {
            return;
        }
        for (topic, sender) in &table.senders {
            if matches!(topic, Topic::Address(ip) if touched.networks.iter().any(|network| network.contains(ip))) {
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
        let topics = Topics::default();
        let web = Topic::Service(Key::new("shop", "web"));
        let policies = |client: &str| Topic::Policies(Key::new("shop", "web"), client.into());
        let all = [policies("shop"), policies("bank"), web, Topic::Pod(Key::new("shop", "web"))];
        let mut followers = all.map(|topic| topics.follow(topic));
        let mut told = |touched: Touched| {
            topics.tell(&touched);
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
        assert_eq!(told(Touched { everything: true, ..Touched::default() }), [true; 4]);
        let mut addresses = ["10.0.1.5", "10.0.2.5"].map(|ip| topics.follow(Topic::Address(ip.parse().unwrap())));
        topics.tell(&Touched { networks: ["10.0.1.0/24".parse().unwrap()].into(), ..Touched::default() });
        assert_eq!(addresses.each_mut().map(|follower| follower.has_changed().unwrap()), [true, false]);
    }

    #[test]
    fn topics_that_nobody_follows_are_forgotten() {
        let topics = Topics::default();
        let kept = topics.follow(Topic::Everything);
        for n in 0..10 * SWEEP_FROM {
            let service = Key::new("shop", n.to_string());
            drop(topics.follow(Topic::Pod(service.clone())));
            drop(topics.follow(Topic::Policies(service, "bank".into())));
        }
        let table = topics.0.lock().unwrap();
        assert!(table.senders.len() <= 2 * SWEEP_FROM && table.clients.len() <= 2 * SWEEP_FROM);
        drop(table);
        topics.tell(&Touched { everything: true, ..Touched::default() });
        assert!(kept.has_changed().unwrap());
    }
}
