//! What is claimed to be in force while changes, lists and readings come in any order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::source::object_budget::ObjectBudget;

fn key(namespace: &str, name: &str) -> Key {
    Key::new(namespace, name)
}

fn pod(namespace: &str, name: &str) -> PendingChange {
    let metadata = serde_json::json!({"namespace": namespace, "name": name});
    let value = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
    let place = Arc::<ObjectBudget>::default().take(&namespace.into(), 1).unwrap();
    PendingChange::Put(Box::new(Object::from_value(value, None).unwrap()), place)
}

fn stale() -> PendingChange {
    PendingChange::Stale(Arc::new(Origin { path: "/api/v1/pods".to_owned(), api: "v1".to_owned() }))
}

/// Takes in the next change.
fn take_in(waiting: &mut Waiting) -> Option<ObjectName> {
    let (name, _) = waiting.next()?;
    waiting.in_force(&name);
    Some(name)
}

#[test]
fn a_revision_is_reached_when_nothing_before_it_waits() {
    let mut waiting = Waiting::default();
    waiting.listed("Pod", &HashSet::new(), Vec::new(), 100);
    assert_eq!(waiting.reached("Pod"), 100);
    // The newest of one namespace is taken in in its turn, while another's older one waits.
    waiting.put("Pod", key("tenant", "a"), Some(110), pod("tenant", "a"));
    waiting.put("Pod", key("tenant", "b"), Some(120), pod("tenant", "b"));
    waiting.put("Pod", key("shop", "web"), Some(130), pod("shop", "web"));
    waiting.told("Pod", 150);
    waiting.put("Pod", key("tenant", "a"), Some(160), pod("tenant", "a"));
    assert_eq!(waiting.reached("Pod"), 109);
    assert_eq!(take_in(&mut waiting), Some(("Pod", key("tenant", "a"))), "in its place, with what it is by now");
    assert_eq!((waiting.reached("Pod"), waiting.reached("Service")), (119, 0));
    assert_eq!(take_in(&mut waiting), Some(("Pod", key("shop", "web"))));
    assert_eq!(waiting.reached("Pod"), 119);
    take_in(&mut waiting);
    assert_eq!((waiting.reached("Pod"), waiting.is_done()), (160, true));
}

#[test]
fn a_flood_does_not_make_what_is_reached_stand_still() {
    let mut waiting = Waiting::default();
    waiting.listed("Pod", &HashSet::new(), Vec::new(), 100);
    let mut reached = 100;
    for n in 0..100 {
        for name in ["a", "b", "c"] {
            waiting.put("Pod", key("tenant", name), Some(101 + n), pod("tenant", name));
        }
        (0..2).for_each(|_| drop(take_in(&mut waiting)));
        assert!(waiting.has_next());
        reached = waiting.reached("Pod");
    }
    assert!(reached >= 195, "{reached}");
}

#[test]
fn items_of_a_list_reach_nothing_before_all_of_them_are_in_force() {
    let mut waiting = Waiting::default();
    waiting.listed("Pod", &HashSet::new(), Vec::new(), 700);
    // After a stall: the first page has a pod that is newer than another's of the last page, and one has gone.
    let there: HashSet<_> = [key("a", "new"), key("shop", "web")].into();
    waiting.put("Pod", key("a", "new"), None, pod("a", "new"));
    take_in(&mut waiting);
    assert_eq!(waiting.reached("Pod"), 700);
    waiting.put("Pod", key("shop", "web"), None, pod("shop", "web"));
    waiting.put("Pod", key("b", "waits"), None, pod("b", "waits"));
    waiting.listed("Pod", &there, vec![key("a", "new"), key("shop", "old")], 1500);
    waiting.put("Pod", key("shop", "web"), Some(1510), pod("shop", "web"));
    let mut taken = Vec::new();
    while let Some((name, change)) = waiting.next() {
        assert_eq!(waiting.reached("Pod"), 700);
        taken.push((format!("{}/{}", name.1.namespace, name.1.name), matches!(change, PendingChange::Gone(1500))));
        waiting.in_force(&name);
    }
    taken.sort();
    let expected = [("b/waits", true), ("shop/old", true), ("shop/web", false)];
    assert_eq!(taken, expected.map(|(name, is_gone)| (name.to_owned(), is_gone)));
    assert_eq!(waiting.reached("Pod"), 1510);
}

#[test]
fn what_has_to_be_read_is_not_in_force_before_and_what_was_read_counts_for_its_own_change() {
    let mut waiting = Waiting::default();
    let name = ("Pod", key("shop", "web"));
    waiting.put("Pod", name.1.clone(), Some(10), pod("shop", "web"));
    waiting.put("Pod", name.1.clone(), Some(11), stale());
    let (_, PendingChange::Stale(origin)) = waiting.next().unwrap() else { panic!("the newest waits") };
    waiting.put_to_read(name.clone(), origin);
    assert!(!waiting.has_next() && !waiting.is_done() && !waiting.is_done_with("Pod"));
    assert_eq!((waiting.reached("Pod"), waiting.since(&name)), (9, Some(10)));
    let (_, _, number) = waiting.next_to_read().unwrap();
    assert!(waiting.is_newest(&name, number));
    // It changes while it is read, and that is taken in before the answer comes.
    waiting.put("Pod", name.1.clone(), Some(12), pod("shop", "web"));
    assert!(!waiting.is_newest(&name, number));
    take_in(&mut waiting);
    assert!(!waiting.is_newest(&name, number) && waiting.is_done());
    assert_eq!(waiting.reached("Pod"), 12);
    // What changed before its reading began is not read.
    waiting.put("Pod", name.1.clone(), Some(13), stale());
    let (_, PendingChange::Stale(origin)) = waiting.next().unwrap() else { panic!("it is to be read") };
    waiting.put_to_read(name.clone(), origin);
    waiting.put("Pod", name.1, Some(14), pod("shop", "web"));
    assert!(waiting.next_to_read().is_none());
}

#[test]
fn what_is_in_no_namespace_is_in_nobodys_queue() {
    let mut waiting = Waiting::default();
    for n in 0..100 {
        waiting.put("Pod", key("default", &n.to_string()), Some(n), stale());
    }
    waiting.put("Node", key("default", "n1"), Some(200), PendingChange::Gone(200));
    waiting.next();
    assert_eq!(waiting.next().unwrap().0, ("Node", key("default", "n1")), "it waits for one piece of that namespace");
}

proptest! {
    /// Against a plain model: of each object the revisions that were told and are not in force.
    #[test]
    fn nothing_is_claimed_that_is_not_in_force(steps in prop::collection::vec((0..4u8, 0..6u8), 0..200)) {
        let (mut waiting, mut missing) = (Waiting::default(), HashMap::<ObjectName, u64>::new());
        let mut revision = 1;
        waiting.listed("Pod", &HashSet::new(), Vec::new(), revision);
        for (what, which) in steps {
            revision += 1;
            let key = key(["a", "b"][usize::from(which % 2)], &which.to_string());
            match what {
                0 | 1 => {
                    missing.entry(("Pod", key.clone())).or_insert(revision);
                    waiting.put("Pod", key, Some(revision), PendingChange::Gone(revision));
                }
                2 => waiting.told("Pod", revision),
                _ => {
                    if let Some(name) = take_in(&mut waiting) {
                        missing.remove(&name);
                    }
                }
            }
            let reached = waiting.reached("Pod");
            prop_assert!(missing.values().all(|since| reached < *since));
            prop_assert_eq!(waiting.is_done(), missing.is_empty());
            prop_assert!(missing.values().min().is_none_or(|least| reached == least - 1));
        }
    }
}
