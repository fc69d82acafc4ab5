//! What is to be said of each object whose status we write: the status, and what is wrong with what it refers to. Kept up
//! object by object.
//!
//! A change makes something else to be said of few objects; only those are judged again, each namespace in its turn, and not
//! more at a time than whoever drives it asks for.

use std::collections::HashSet;

use mesh_resources::{Found, Problem, SharedMap, Snapshot, StatusId, Told, kinds::kind};
use tokio::sync::watch;

use crate::{
    status::observed::{fingerprint, wanted},
    turns::Turns,
};

/// What each object should say of us: fingerprints.
pub type Wanted = SharedMap<StatusId, u64>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge {
    waiting: Turns<StatusId, ()>,
    /// What was found out of the state that is judged now.
    found: Found,
    /// What is wrong with what objects refer to. One with nothing wrong is not in it.
    problems: Told<StatusId>,
    wanted: Wanted,
    publish: watch::Sender<Wanted>,
}

impl Default for Judge {
    fn default() -> Self {
        let wanted = Wanted::default();
        Self {
            waiting: Turns::default(),
            found: Found::default(),
            problems: Told::default(),
            publish: watch::Sender::new(wanted.clone()),
            wanted,
        }
    }
}

impl Judge {
    /// Where it appears what objects should say.
    pub(crate) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.publish.subscribe()
    }

    /// Objects of which something else may be to be said.
    pub(crate) fn put<'i>(&mut self, ids: impl Iterator<Item = &'i StatusId>) {
        for id in ids {
            self.waiting.put(&id.key.namespace, id.clone(), ());
        }
    }

    /// The state is another.
    pub(crate) fn forget(&mut self) {
        self.found = Found::default();
    }

    /// Whether some are not judged yet.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Judges at most so many. Says whether something else is wrong than before.
    pub(crate) fn some(&mut self, snapshot: &Snapshot, most: usize) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let (mut found, mut is_news) = (std::mem::take(&mut self.found), false);
        let mut judged = HashSet::new();
        while judged.len() < most
            && let Some((id, ())) = self.waiting.next()
        {
            is_news |= self.judge(snapshot, &id, &mut found);
            judged.insert(id);
        }
        self.found = found;
        self.publish.send_if_modified(|told| {
            let is_same = judged.iter().all(|id| told.get(id) == self.wanted.get(id));
            if !is_same {
                *told = self.wanted.clone();
            }
            !is_same
        });
        is_news
    }

    /// What is wrong with what objects refer to.
    pub(crate) fn problems(&self) -> &Told<StatusId> {
        &self.problems
    }

    fn judge(&mut self, snapshot: &Snapshot, id: &StatusId, found: &mut Found) -> bool {
        let form = kind(id.kind).and_then(|kind| kind.status);
        let Some((judged, form)) = snapshot.judge(id, found).zip(form) else {
            self.wanted.remove(id);
            return self.tell(id, Vec::new());
        };
        match fingerprint(form, &wanted(form, &judged.status)) {
            Some(print) => self.wanted.insert(id.clone(), print),
            None => drop(self.wanted.remove(id)),
        }
        self.tell(id, judged.problems)
    }

    /// Notes what is wrong with an object. Where that makes room for what was not kept of others, they are judged again.
    fn tell(&mut self, id: &StatusId, problems: Vec<Problem>) -> bool {
        let (namespace, is_better) = (&id.key.namespace, problems.is_empty());
        let is_news = self.problems.set(namespace, id, problems);
        if is_news && is_better {
            for other in self.problems.again(namespace) {
                self.waiting.put(namespace, other, ());
            }
        }
        is_news
    }
}
