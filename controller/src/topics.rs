//! Word of changes to those whom they concern.
//!
//! A thousand proxies hold tens of thousands of streams, and a cluster changes all the time: each stream follows the one
//! topic that its answer depends on, and sleeps through everything else. What any policy may depend on (Services, routes,
//! grants) wakes them all; such changes are rare.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_resources::{Key, Touched};
use tokio::sync::watch;

/// The table is swept when it has grown to twice what was followed at the last sweep, and not before it has this many.
const SWEEP_FROM: usize = 1024;

/// What an answer depends on beside Services, routes and grants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Nothing else.
    Policies,
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
    sweep_at: usize,
}

impl Topics {
    /// Changes of a topic from now on.
    pub fn follow(&self, topic: Topic) -> watch::Receiver<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.senders.len() >= table.sweep_at.max(SWEEP_FROM) {
            table.senders.retain(|_, sender| sender.receiver_count() > 0);
            table.sweep_at = table.senders.len() * 2;
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
        for sender in services.chain(addresses).chain(pods).filter_map(|topic| table.senders.get(&topic)) {
            // Nobody may follow it any more.
            sender.send(()).unwrap_or_default();
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
        let mut followers = [Topic::Policies, web, Topic::Pod(Key::new("shop", "web"))].map(|t| topics.follow(t));
        let mut told = |touched: Touched| {
            topics.tell(&touched);
            followers.each_mut().map(|follower| {
                let is_told = follower.has_changed().unwrap();
                follower.mark_unchanged();
                is_told
            })
        };
        let services = [Key::new("shop", "web")].into();
        assert_eq!(told(Touched { services, ..Touched::default() }), [false, true, false]);
        let pods = [Key::new("shop", "web"), Key::new("shop", "other")].into();
        assert_eq!(told(Touched { pods, ..Touched::default() }), [false, false, true]);
        assert_eq!(told(Touched { everything: true, ..Touched::default() }), [true; 3]);
    }

    #[test]
    fn topics_that_nobody_follows_are_forgotten() {
        let topics = Topics::default();
        let kept = topics.follow(Topic::Policies);
        for n in 0..10 * SWEEP_FROM {
            drop(topics.follow(Topic::Pod(Key::new("shop", n.to_string()))));
        }
        assert!(topics.0.lock().unwrap().senders.len() <= 2 * SWEEP_FROM);
        topics.tell(&Touched { everything: true, ..Touched::default() });
        assert!(kept.has_changed().unwrap());
    }
}
