//! What is to be said of each route: its status, and what is wrong with what it refers to. Kept up route by route.
//!
//! A change makes something else to be said of few routes; only those are judged again, each namespace in its turn, and not
//! more at a time than whoever drives it asks for.

use std::collections::HashSet;

use mesh_policy::RouteKind;
use mesh_resources::{Found, Key, Problem, SharedMap, Snapshot, Told};
use tokio::sync::watch;

use crate::{
    statuses::{RouteId, fingerprint, wanted},
    turns::Turns,
};

/// What each route of the mesh should say of us: fingerprints.
pub type Wanted = SharedMap<RouteId, u64>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge {
    waiting: Turns<RouteId, ()>,
    /// What was found out of the state that is judged now.
    found: Found,
    /// What is wrong with what routes refer to. A route with nothing wrong is not in it.
    problems: Told<RouteId>,
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
    /// Where it appears what routes should say.
    pub(crate) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.publish.subscribe()
    }

    /// Routes of which something else may be to be said.
    pub(crate) fn put<'r>(&mut self, routes: impl Iterator<Item = &'r RouteId>) {
        for route in routes {
            self.waiting.put(&route.1.namespace, route.clone(), ());
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
            && let Some((route, ())) = self.waiting.next()
        {
            is_news |= self.judge(snapshot, &route, &mut found);
            judged.insert(route);
        }
        self.found = found;
        self.publish.send_if_modified(|told| {
            let is_same = judged.iter().all(|route| told.get(route) == self.wanted.get(route));
            if !is_same {
                *told = self.wanted.clone();
            }
            !is_same
        });
        is_news
    }

    /// What is wrong with what routes refer to.
    pub(crate) fn problems(&self) -> &Told<RouteId> {
        &self.problems
    }

    fn judge(&mut self, snapshot: &Snapshot, route: &(RouteKind, Key), found: &mut Found) -> bool {
        let Some(judged) = snapshot.judge(route.0, &route.1, found) else {
            self.wanted.remove(route);
            return self.tell(route, Vec::new());
        };
        let generation = snapshot.routes(route.0).get(&route.1).map_or(0, |route| route.generation);
        match fingerprint(&wanted(&judged.status, generation)) {
            Some(print) => self.wanted.insert(route.clone(), print),
            None => drop(self.wanted.remove(route)),
        }
        self.tell(route, judged.problems)
    }

    /// Notes what is wrong with a route. Where that makes room for what was not kept of others, they are judged again.
    fn tell(&mut self, route: &RouteId, problems: Vec<Problem>) -> bool {
        let (namespace, is_better) = (&route.1.namespace, problems.is_empty());
        let is_news = self.problems.set(namespace, route, problems);
        if is_news && is_better {
            for other in self.problems.again(namespace) {
                self.waiting.put(namespace, other, ());
            }
        }
        is_news
    }
}
