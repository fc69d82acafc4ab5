//! Problems that follow from several objects, by what they are about: of each namespace no more than are ever listed.
//!
//! They are not among what the objects of a namespace take, and one object may have fifty. Beyond the bound only their number
//! is kept; when there is room again, it is told what is to be looked at again.

use std::sync::Arc;

use crate::{problem::Problem, shared_map::SharedMap};

/// Most problems of the objects of one namespace that are kept, as many as are listed: about a MiB.
pub const MAX_TOLD_OF_NAMESPACE: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Told<K: Ord + Clone> {
    problems: SharedMap<K, Vec<Problem>>,
    /// How many there are by namespace.
    counts: SharedMap<Arc<str>, usize>,
    /// How many more there are, by namespace and what they are about.
    untold: SharedMap<(Arc<str>, K), usize>,
}

impl<K: Ord + Clone> Default for Told<K> {
    fn default() -> Self {
        Self { problems: SharedMap::default(), counts: SharedMap::default(), untold: SharedMap::default() }
    }
}

impl<K: Ord + Clone> Told<K> {
    /// What is wrong now with one thing of a namespace. Says whether that is news.
    pub fn set(&mut self, namespace: &Arc<str>, key: &K, now: Vec<Problem>) -> bool {
        if self.problems.get(key).map_or(&[][..], Vec::as_slice) == now && !now.is_empty() {
            return false;
        }
        let before = self.problems.remove(key).map_or(0, |before| before.len());
        let at = (namespace.clone(), key.clone());
        let untold = self.untold.remove(&at);
        let others = self.count(namespace).saturating_sub(before);
        let is_news = before > 0 || !now.is_empty() || untold.is_some();
        let mut count = others;
        if others + now.len() > MAX_TOLD_OF_NAMESPACE {
            let is_same = before == 0 && untold.is_some_and(|untold| *untold == now.len());
            self.untold.insert(at, now.len());
            if is_same {
                return false;
            }
        } else if !now.is_empty() {
            count += now.len();
            self.problems.insert(key.clone(), now);
        }
        match count {
            0 => drop(self.counts.remove(namespace)),
            count => self.counts.insert(namespace.clone(), count),
        }
        is_news
    }

    /// What is to be looked at again in a namespace, now that there is room for problems that were not kept.
    pub fn again(&self, namespace: &Arc<str>) -> Vec<K> {
        // Not for each one that goes.
        let mut room = (MAX_TOLD_OF_NAMESPACE / 2).saturating_sub(self.count(namespace));
        let mut again = Vec::new();
        for (key, count) in self.untold_of(namespace) {
            if *count <= room {
                room -= *count;
                again.push(key.clone());
            }
        }
        again
    }

    /// All that are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// How many more there are, by namespace.
    pub fn more(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.untold.iter().map(|((namespace, _), count)| (namespace, *count))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&K, &Vec<Problem>)> {
        self.problems.iter()
    }

    fn count(&self, namespace: &Arc<str>) -> usize {
        self.counts.get(namespace).copied().unwrap_or_default()
    }

    fn untold_of<'t>(&'t self, namespace: &'t Arc<str>) -> impl Iterator<Item = (&'t K, &'t usize)> {
        // Few namespaces have any.
        self.untold.iter().filter(move |((of, _), _)| of == namespace).map(|((_, key), count)| (key, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        object::ObjectId,
        problem::{Reason, Report},
    };

    fn problems(count: usize) -> Vec<Problem> {
        let (kind, namespace, name) = ("HTTPRoute".to_owned(), "a".to_owned(), "r".to_owned());
        let mut report = Report::about(ObjectId::used(&kind, &namespace, &name));
        (0..count).for_each(|_| report.error("spec", Reason::Conflicted, "what", "fix"));
        report.finish()
    }

    #[test]
    fn of_a_namespace_as_many_are_kept_as_are_listed_and_the_others_when_there_is_room() {
        let mut told = Told::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        (0..100).for_each(|n| assert!(told.set(&a, &n, problems(50))));
        assert!(told.set(&b, &1_000, problems(50)), "another namespace's");
        assert_eq!(told.iter().count(), MAX_TOLD_OF_NAMESPACE + 50);
        let more: usize = told.more().map(|(_, count)| count).sum();
        assert_eq!((more, told.again(&a)), (4_000, Vec::new()));
        assert!(!told.set(&a, &0, problems(50)) && !told.set(&a, &99, problems(50)), "no news");
        (0..15).for_each(|n| assert!(told.set(&a, &n, Vec::new())));
        let again = told.again(&a);
        assert_eq!(again, [20, 21, 22, 23, 24], "up to the half");
        again.iter().for_each(|n| assert!(told.set(&a, n, problems(50))));
        (0..100).for_each(|n| assert_eq!(told.set(&a, &n, Vec::new()), n >= 15));
        assert_eq!((told.iter().count(), told.more().count()), (50, 0));
        assert!(!told.set(&a, &0, Vec::new()));
    }
}
