//! Which objects do not say of us what they should, and what to write into them. Pure.
//!
//! What should be said is `mesh_resources`' to decide; what is there is what the watches showed last (`observed_status`).
//! Writes are limited in number, wait longer after each failure, and stop altogether while the API server is away. Each
//! namespace has its turn, and in it what is wrong for longest: whoever changes objects all day delays nobody else's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use mesh_credentials::Backoff;
use mesh_resources::{StatusId, kinds::StatusForm};
use serde_json::Value;

use crate::status::{
    judge::Wanted,
    observed::{ObservedStatus, entries, fingerprint, is_our_condition, is_ours},
};

/// Writes a second in the long run: a change that concerns five thousand objects takes under two minutes, and an API
/// server hardly notices.
const WRITES_PER_SECOND: f64 = 50.0;
/// Writes at once, after a time without any: what one change of a usual cluster needs.
const BURST: f64 = 100.0;
/// Waits after a write that failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Waits while the API server is away.
const AWAY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// How long what we wrote is believed to be there before a watch has shown it.
const UNSEEN: Duration = Duration::from_secs(10);

/// A wait that grows with each failure.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Duration,
    backoff: Backoff,
}

impl Wait {
    /// Before the first failure.
    fn new(backoff: Backoff) -> Self {
        Self { until: Duration::ZERO, backoff }
    }

    /// One more failure.
    fn failed(&mut self, now: Duration) {
        self.until = now + self.backoff.next_wait();
    }
}

/// What was written and not seen yet.
#[derive(Clone, Copy, Debug)]
struct Written {
    print: Option<u64>,
    /// What was seen before.
    before: Option<u64>,
    at: Duration,
}

/// The state; times are since any one moment.
#[derive(Debug)]
pub(crate) struct StatusPlan {
    /// What each object should say of us.
    wanted: Wanted,
    written: BTreeMap<StatusId, Written>,
    failed: BTreeMap<StatusId, Wait>,
    /// Set while the API server is away.
    away: Option<Wait>,
    /// Writes that are allowed now, as of a time.
    allowed: (f64, Duration),
    /// Since when an object that does not say what it should waits for its turn. What it should say may change meanwhile.
    outdated: BTreeMap<StatusId, Duration>,
    /// Turns given so far, and the last one of each namespace with something to write.
    turns: u64,
    last_turn: BTreeMap<Arc<str>, u64>,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusTodo {
    /// Objects to write now.
    pub write: Vec<StatusId>,
    /// How many objects are not as they should be, these included.
    pub outdated: usize,
}

impl Default for StatusPlan {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            written: BTreeMap::new(),
            failed: BTreeMap::new(),
            away: None,
            allowed: (BURST, Duration::ZERO),
            outdated: BTreeMap::new(),
            turns: 0,
            last_turn: BTreeMap::new(),
        }
    }
}

impl StatusPlan {
    /// What should be said from now on, by object: fingerprints of what is wanted.
    pub(crate) fn want(&mut self, wanted: Wanted) {
        // One that is to say something else is a new matter.
        self.failed.retain(|id, _| self.wanted.get(id) == wanted.get(id));
        self.wanted = wanted;
    }

    /// What to do now, given what is there.
    pub(crate) fn todo(&mut self, there: &ObservedStatus, now: Duration) -> StatusTodo {
        self.written.retain(|id, written| there.get(id) == written.before && now < written.at + UNSEEN);
        let is_right = |id: &StatusId, wanted: Option<u64>| {
            let found = self.written.get(id).map_or_else(|| there.get(id), |written| written.print);
            found == wanted
        };
        let wrong = self.wanted.iter().filter(|(id, wanted)| !is_right(id, Some(**wanted))).map(|(id, _)| id);
        // Entries of ours where there should be none.
        let left = there.iter().map(|(id, _)| id).filter(|id| self.wanted.get(id).is_none() && !is_right(id, None));
        let outdated =
            wrong.chain(left).map(|id| (id.clone(), self.outdated.get(id).copied().unwrap_or(now))).collect();
        self.outdated = outdated;
        self.failed.retain(|id, _| self.outdated.contains_key(id));
        let (allowed, since) = self.allowed;
        let allowed = (allowed + now.saturating_sub(since).as_secs_f64() * WRITES_PER_SECOND).min(BURST);
        let mut todo = StatusTodo { write: Vec::new(), outdated: self.outdated.len() };
        if self.away.is_none_or(|away| away.until <= now) {
            todo.write = self.turns(now, allowed as usize);
        }
        self.allowed = (allowed - todo.write.len() as f64, now);
        todo
    }

    /// So many objects that are due: one of each namespace in turn, that which is outdated for longest; the namespace whose
    /// last turn is longest ago comes first.
    fn turns(&mut self, now: Duration, most: usize) -> Vec<StatusId> {
        let mut due: BTreeMap<Arc<str>, Vec<(Duration, &StatusId)>> = BTreeMap::new();
        for (id, since) in &self.outdated {
            if self.failed.get(id).is_none_or(|wait| wait.until <= now) {
                due.entry(id.key.namespace.clone()).or_default().push((*since, id));
            }
        }
        self.last_turn.retain(|namespace, _| due.contains_key(namespace));
        // The oldest at the end, where it is taken from.
        due.values_mut().for_each(|routes| routes.sort_by(|a, b| b.cmp(a)));
        let mut queue: VecDeque<_> = due.into_iter().collect();
        queue
            .make_contiguous()
            .sort_by_key(|(namespace, _)| self.last_turn.get(namespace).copied().unwrap_or_default());
        let mut chosen = Vec::new();
        while chosen.len() < most
            && let Some((namespace, mut routes)) = queue.pop_front()
        {
            let Some((_, id)) = routes.pop() else { continue };
            chosen.push(id.clone());
            self.turns += 1;
            self.last_turn.insert(namespace.clone(), self.turns);
            queue.push_back((namespace, routes));
        }
        // What comes to nothing waits behind the others.
        for id in &chosen {
            self.outdated.insert(id.clone(), now);
        }
        chosen
    }

    /// An object says by now what it should; `before` is what the watches had shown.
    pub(crate) fn written(&mut self, id: &StatusId, print: Option<u64>, before: Option<u64>, now: Duration) {
        self.away = None;
        self.failed.remove(id);
        self.written.insert(id.clone(), Written { print, before, at: now });
    }

    /// An object cannot be written now, which is its own fault or a matter of permission.
    pub(crate) fn failed(&mut self, id: &StatusId, now: Duration) {
        self.away = None;
        self.failed.entry(id.clone()).or_insert_with(|| Wait::new(RETRY)).failed(now);
    }

    /// The API server does not answer. Says whether that is news.
    pub(crate) fn away(&mut self, now: Duration) -> bool {
        let is_news = self.away.is_none();
        self.away.get_or_insert_with(|| Wait::new(AWAY)).failed(now);
        is_news
    }
}

/// The list in the status as it has to be: what others wrote stays, what is ours is as wanted, as far as there is room. A
/// condition whose status stays keeps its time. `None` when there is nothing to write.
pub(crate) fn merged(form: StatusForm, object: &Value, wanted: &[Value], now: &str) -> Option<Vec<Value>> {
    let (ours, others): (Vec<&Value>, Vec<&Value>) = entries(form, object).partition(|entry| is_ours(entry));
    let wanted = wanted.get(..form.most().saturating_sub(others.len())).unwrap_or(wanted);
    if fingerprint(form, ours.iter().copied()) == fingerprint(form, wanted) {
        return None;
    }
    let mut all: Vec<Value> = others.into_iter().cloned().collect();
    for entry in wanted {
        let before = ours.iter().find(|there| there.get(form.reference()) == entry.get(form.reference()));
        let mut entry = entry.clone();
        for condition in entry.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            let time = before.and_then(|before| time_of(before, condition)).unwrap_or(now).to_owned();
            if let Value::Object(fields) = condition {
                fields.insert("lastTransitionTime".to_owned(), time.into());
            }
        }
        if let Some(before) = before {
            keep_others(before, &mut entry);
        }
        all.push(entry);
    }
    Some(all)
}

/// Conditions of an entry of ours that others wrote stay, and everything keeps its place (Gateway API, `conditions`).
fn keep_others(before: &Value, entry: &mut Value) {
    let Some(ours) = entry.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let before = before.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut kept = Vec::new();
    for there in before {
        let same = ours.iter().position(|condition| condition.get("type") == there.get("type"));
        match same {
            Some(place) => kept.push(ours.remove(place)),
            None if !is_our_condition(there) => kept.push(there.clone()),
            None => {}
        }
    }
    kept.append(ours);
    *ours = kept;
}

/// Since when an entry has a condition of this type and status.
fn time_of<'e>(entry: &'e Value, wanted: &Value) -> Option<&'e str> {
    let conditions = entry.get("conditions")?.as_array()?;
    let same = |found: &&Value| ["type", "status"].iter().all(|field| found.get(field) == wanted.get(field));
    conditions.iter().find(same)?.get("lastTransitionTime")?.as_str()
}

#[cfg(test)]
mod tests;
