//! Who called this pod, and what became of it: for people who write policies (the page `/authorization`).
//!
//! One bounded table for the process. A connection looks its caller up once; from then on a request is a few atomic adds, so
//! workers and the page share no lock on the way of a request. It is no log: of each caller it has sums, and the last rule
//! that refused it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use mesh_policy::{Identity, RuleRef};
use serde_json::{Value, json};

use crate::metrics::Decided;

/// Callers that are told apart, by port and protocol. Most pods have fewer than ten.
const MAX_CALLERS: usize = 256;
/// Of those, callers without an identity: anybody may come from many addresses.
const MAX_STRANGERS: usize = 64;

/// A caller of one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) caller: Who,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A peer that proved it.
    Identity(Identity),
    /// Somebody at this address.
    Stranger(IpAddr),
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Http,
    Bytes,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    known: Mutex<Known>,
    /// All that there is no room for.
    others: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Known {
    callers: BTreeMap<Key, Arc<Seen>>,
    strangers: usize,
}

/// What became of a caller's requests, or connections of bytes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    counts: [AtomicU64; Decided::ALL.len()],
    denied_by: ArcSwapOption<Rule>,
    shadow_denied_by: ArcSwapOption<Rule>,
    /// Seconds since 1970.
    last: AtomicU64,
}

/// A rule of a policy, by name.
#[derive(Debug)]
struct Rule {
    policy: Arc<str>,
    rule: Option<usize>,
}

impl Callers {
    /// The entry of a caller.
    pub(super) fn of(&self, key: Key) -> Arc<Seen> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = known.callers.get(&key) {
            return seen.clone();
        }
        let is_stranger = matches!(key.caller, Who::Stranger(_));
        if known.callers.len() >= MAX_CALLERS || (is_stranger && known.strangers >= MAX_STRANGERS) {
            return self.others.clone();
        }
        known.strangers += usize::from(is_stranger);
        known.callers.entry(key).or_default().clone()
    }

    /// All of it, for the page. Callers that there was no room for are the last entry, without a name and a port.
    pub(crate) fn shown(&self) -> Vec<Value> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(key, seen): (&Key, &Arc<Seen>)| {
            let (identity, source) = match &key.caller {
                Who::Identity(identity) => (Some(identity.to_string()), None),
                Who::Stranger(source) => (None, Some(source.to_string())),
            };
            let protocol = match key.protocol {
                Protocol::Http => "http",
                Protocol::Bytes => "bytes",
            };
            seen.shown(json!({ "identity": identity, "source": source, "port": key.port, "protocol": protocol }))
        };
        let others = (self.others.last.load(Ordering::Relaxed) > 0).then(|| {
            let nobody = json!({ "identity": null, "source": null, "port": null, "protocol": null, "overflow": true });
            self.others.shown(nobody)
        });
        known.callers.iter().map(one).chain(others).collect()
    }
}

impl Seen {
    /// Counts what a rule decided, or nobody: then it was let in.
    pub(super) fn count(&self, decided: Decided, by: Option<RuleRef<'_>>) {
        self.counts[decided as usize].fetch_add(1, Ordering::Relaxed);
        let last = match decided {
            Decided::Denied => &self.denied_by,
            Decided::ShadowDenied => &self.shadow_denied_by,
            Decided::Allowed | Decided::Audited => return,
        };
        let Some(by) = by else { return };
        let is_known = |rule: &Arc<Rule>| Arc::ptr_eq(&rule.policy, &by.policy.name) && rule.rule == by.rule;
        if !last.load().as_ref().is_some_and(is_known) {
            last.store(Some(Arc::new(Rule { policy: by.policy.name.clone(), rule: by.rule })));
        }
    }

    /// It called now.
    pub(super) fn now(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.last.store(now, Ordering::Relaxed);
    }

    fn shown(&self, mut who: Value) -> Value {
        for decided in Decided::ALL {
            who[decided.as_str()] = self.counts[decided as usize].load(Ordering::Relaxed).into();
        }
        let rule = |rule: &ArcSwapOption<Rule>| {
            let rule = rule.load();
            rule.as_ref().map(|rule| json!({ "policy": &*rule.policy, "rule": rule.rule }))
        };
        who["denied_by"] = rule(&self.denied_by).into();
        who["shadow_denied_by"] = rule(&self.shadow_denied_by).into();
        who["last_seen"] = self.last.load(Ordering::Relaxed).into();
        who
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(caller: Who) -> Key {
        Key { caller, port: 8080, protocol: Protocol::Http }
    }

    fn stranger(n: u16) -> Key {
        let [a, b] = n.to_be_bytes();
        key(Who::Stranger([10, 0, a, b].into()))
    }

    #[test]
    fn callers_are_told_apart_up_to_their_number() {
        let callers = Callers::default();
        let see = |key| {
            let seen = callers.of(key);
            seen.count(Decided::Allowed, None);
            seen.now();
        };
        (0..500).for_each(|n| see(stranger(n)));
        assert_eq!(callers.shown().len(), MAX_STRANGERS + 1);
        (0..500).for_each(|n| see(key(Who::Identity(Identity::new("d", "shop", &format!("a{n}")).unwrap()))));
        (0..10).for_each(|n| see(stranger(n)));
        let shown = callers.shown();
        assert_eq!(shown.len(), MAX_CALLERS + 1);
        let allowed: u64 = shown.iter().map(|caller| caller["allowed"].as_u64().unwrap()).sum();
        assert_eq!(allowed, 1_010, "none is lost");
        let others = shown.last().unwrap();
        assert_eq!((&others["overflow"], &others["port"]), (&json!(true), &Value::Null));
        assert_eq!(others["allowed"], 1_010 - 10 - MAX_CALLERS);
        assert!(others["last_seen"].as_u64().unwrap() > 1_000_000_000);
    }
}
