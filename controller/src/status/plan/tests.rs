//! The plan over fingerprints and times, and the merging of lists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_resources::{Key, Object};
use serde_json::json;

use super::*;
use mesh_policy::well_known::CONTROLLER_NAME;

fn id(name: &str) -> StatusId {
    StatusId::new("HTTPRoute", Key::new("shop", name))
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// One entry of ours that says this.
fn says(message: &str) -> Value {
    entry("web", &[("Accepted", "True", message)], None)
}

fn entry(parent: &str, conditions: &[(&str, &str, &str)], time: Option<&str>) -> Value {
    let condition = |(kind, status, message): &(&str, &str, &str)| {
        let mut condition =
            json!({"type": kind, "status": status, "reason": "R", "message": message, "observedGeneration": 1});
        if let Some(time) = time {
            condition["lastTransitionTime"] = json!(time);
        }
        condition
    };
    let conditions: Vec<_> = conditions.iter().map(condition).collect();
    json!({"parentRef": {"name": parent}, "controllerName": CONTROLLER_NAME, "conditions": conditions})
}

fn route(name: &str, parents: &[Value]) -> Object {
    let value = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"}, "status": {"parents": parents}});
    Object::from_value(value, None).unwrap()
}

fn print(entries: &[Value]) -> Option<u64> {
    fingerprint(StatusForm::Parents, entries)
}

/// A plan that wants these messages of these routes.
fn wants(messages: &[(&str, &str)]) -> Wanted {
    shared(messages.iter().map(|(name, message)| (id(name), print(&[says(message)]).unwrap())))
}

fn shared(prints: impl Iterator<Item = (StatusId, u64)>) -> Wanted {
    let mut wanted = Wanted::default();
    prints.for_each(|(id, print)| wanted.insert(id, print));
    wanted
}

fn write(plan: &mut StatusPlan, there: &ObservedStatus, now: Duration) -> Vec<String> {
    plan.todo(there, now).write.iter().map(|id| id.key.name.to_string()).collect()
}

#[test]
fn what_differs_is_written_once_and_what_is_left_is_removed() {
    let (mut plan, mut there) = (StatusPlan::default(), ObservedStatus::default());
    there.see(&route("right", &[says("a")]));
    there.see(&route("wrong", &[says("b")]));
    there.see(&route("old", &[says("a")]));
    there.see(&route("foreign", &[json!({"controllerName": "other", "parentRef": {}})]));
    plan.want(wants(&[("right", "a"), ("wrong", "a"), ("new", "a")]));
    assert_eq!(write(&mut plan, &there, at(0.0)), ["new", "old", "wrong"]);
    // Written, and not shown by the watches yet.
    for name in ["new", "wrong"] {
        plan.written(&id(name), print(&[says("a")]), there.get(&id(name)), at(0.0));
    }
    plan.written(&id("old"), None, there.get(&id("old")), at(0.0));
    assert_eq!(plan.todo(&there, at(1.0)), StatusTodo::default());
    for (name, entries) in [("new", vec![says("a")]), ("wrong", vec![says("a")]), ("old", vec![])] {
        there.see(&route(name, &entries));
    }
    assert_eq!(plan.todo(&there, at(2.0)), StatusTodo::default());
    // Somebody else wrote over it.
    there.see(&route("new", &[says("other")]));
    assert_eq!(write(&mut plan, &there, at(3.0)), ["new"]);
    // What is wanted changes.
    plan.written(&id("new"), print(&[says("a")]), there.get(&id("new")), at(3.0));
    plan.want(wants(&[("right", "a"), ("wrong", "a"), ("new", "c")]));
    assert_eq!(write(&mut plan, &there, at(3.0)), ["new"]);
}

#[test]
fn what_no_watch_shows_is_looked_at_again() {
    let (mut plan, there) = (StatusPlan::default(), ObservedStatus::default());
    plan.want(wants(&[("r", "a")]));
    plan.written(&id("r"), print(&[says("a")]), None, at(0.0));
    assert!(write(&mut plan, &there, at(9.0)).is_empty());
    assert_eq!(write(&mut plan, &there, at(10.0)), ["r"]);
}

#[test]
fn writes_are_bounded_in_number() {
    let (mut plan, there) = (StatusPlan::default(), ObservedStatus::default());
    let names: Vec<String> = (0..5_000).map(|n| format!("r{n}")).collect();
    plan.want(wants(&names.iter().map(|name| (name.as_str(), "a")).collect::<Vec<_>>()));
    let mut write = |now| {
        let todo = plan.todo(&there, now);
        let right = print(&[says("a")]);
        todo.write.iter().for_each(|id| plan.written(id, right, None, now));
        (todo.write.len(), todo.outdated)
    };
    assert_eq!(write(at(0.0)), (100, 5_000));
    assert_eq!(write(at(0.0)), (0, 4_900));
    assert_eq!(write(at(1.0)), (50, 4_900));
    assert_eq!(write(at(1.5)), (25, 4_850));
    // A time without any allows no more than before.
    assert_eq!(write(at(9.9)).0, 100);
}

#[test]
fn a_namespace_whose_routes_change_all_the_time_delays_no_other() {
    let (mut plan, there) = (StatusPlan::default(), ObservedStatus::default());
    // By kind, namespace and name the flood comes first.
    let flooding = |n: usize| StatusId::new("GRPCRoute", Key::new("a-tenant", format!("r{n}")));
    let victims = ["shop", "tills"].map(|namespace| StatusId::new("HTTPRoute", Key::new(namespace, "victim")));
    let says = |n: usize| print(&[says(&n.to_string())]).unwrap();
    let mut written: BTreeMap<StatusId, usize> = BTreeMap::new();
    for round in 0..40usize {
        let now = at(round as f64 / 4.0);
        // The victims' routes change in the midst of it.
        let theirs = victims.iter().filter(|_| round >= 20).map(|id| (id.clone(), says(0)));
        plan.want(shared((0..150).map(|n| (flooding(n), says(round))).chain(theirs)));
        for id in plan.todo(&there, now).write {
            if victims.contains(&id) {
                plan.written(&id, Some(says(0)), None, now);
            }
            written.entry(id).or_insert(round);
        }
    }
    assert_eq!(victims.map(|id| written.get(&id).copied()), [Some(20); 2], "in the first round after they came");
    assert!((0..150).all(|n| written.contains_key(&flooding(n))), "and each of the others has its turn, oldest first");
}

#[test]
fn failures_wait_longer_each_time_and_hold_up_no_other() {
    let (mut plan, there) = (StatusPlan::default(), ObservedStatus::default());
    plan.want(wants(&[("a", "1"), ("b", "1")]));
    plan.failed(&id("a"), at(0.0));
    assert_eq!(write(&mut plan, &there, at(0.5)), ["b"]);
    assert_eq!(write(&mut plan, &there, at(1.0)), ["a", "b"]);
    plan.failed(&id("a"), at(1.0));
    assert_eq!(write(&mut plan, &there, at(2.9)), ["b"]);
    assert_eq!(write(&mut plan, &there, at(3.0)), ["a", "b"]);
    (0..10).for_each(|_| plan.failed(&id("a"), at(3.0)));
    assert_eq!(write(&mut plan, &there, at(32.0)), ["b"]);
    assert_eq!(write(&mut plan, &there, at(33.0)), ["a", "b"]);
    plan.failed(&id("a"), at(33.0));
    // Something else is to be said: that may well go through.
    plan.want(wants(&[("a", "2"), ("b", "1")]));
    assert_eq!(write(&mut plan, &there, at(33.0)), ["a", "b"]);
}

#[test]
fn nothing_is_tried_while_the_api_server_is_away() {
    let (mut plan, there) = (StatusPlan::default(), ObservedStatus::default());
    plan.want(wants(&[("a", "1"), ("b", "1")]));
    assert!(plan.away(at(0.0)));
    assert!(write(&mut plan, &there, at(0.4)).is_empty());
    assert_eq!(write(&mut plan, &there, at(0.5)), ["a", "b"]);
    assert!(!plan.away(at(0.5)), "it is told once");
    assert!((0..10).all(|_| !plan.away(at(1.0))));
    assert!(write(&mut plan, &there, at(5.9)).is_empty());
    assert_eq!(write(&mut plan, &there, at(6.0)), ["a", "b"]);
    plan.written(&id("a"), wants(&[("a", "1")]).get(&id("a")).copied(), None, at(6.0));
    assert_eq!(write(&mut plan, &there, at(6.0)), ["b"]);
}

#[test]
fn times_move_only_with_the_status_and_others_entries_stay() {
    let foreign =
        json!({"controllerName": "example.com/other", "parentRef": {"name": "web"}, "conditions": [{"x": 1}]});
    let there = [
        entry("web", &[("Accepted", "True", "old"), ("ResolvedRefs", "True", "")], Some("T1")),
        foreign.clone(),
        entry("gone", &[("Accepted", "True", "")], Some("T1")),
    ];
    let object = json!({"status": {"parents": there}});
    let wanted = [
        entry("web", &[("Accepted", "True", "new"), ("ResolvedRefs", "False", "")], None),
        entry("db", &[("Accepted", "True", "")], None),
    ];
    let merged_now = merged(StatusForm::Parents, &object, &wanted, "T2").unwrap();
    let mut web = entry("web", &[("Accepted", "True", "new"), ("ResolvedRefs", "False", "")], Some("T1"));
    web["conditions"][1]["lastTransitionTime"] = json!("T2");
    assert_eq!(merged_now, [foreign.clone(), web, entry("db", &[("Accepted", "True", "")], Some("T2"))]);
    // Once it is so, there is nothing to write.
    assert_eq!(merged(StatusForm::Parents, &json!({"status": {"parents": merged_now}}), &wanted, "T3"), None);
    assert_eq!(merged(StatusForm::Parents, &object, &[], "T2").unwrap(), [foreign]);
    assert_eq!(merged(StatusForm::Parents, &json!({}), &[], "T2"), None);
    assert_eq!(
        merged(StatusForm::Parents, &json!({"status": {"parents": null}}), &wanted[1..], "T2").unwrap().len(),
        1
    );
}

#[test]
fn conditions_of_others_in_our_entry_stay_where_they_are() {
    let foreign = json!({"type": "special.io/X", "status": "True", "reason": "R", "message": "m"});
    let wanted = [entry("web", &[("Accepted", "True", "new"), ("ResolvedRefs", "True", "")], None)];
    let mut there = entry("web", &[("PartiallyInvalid", "True", "old"), ("Accepted", "True", "old")], Some("t"));
    there["conditions"].as_array_mut().unwrap().insert(1, foreign.clone());
    let object = json!({"status": {"parents": [there]}});
    let written = merged(StatusForm::Parents, &object, &wanted, "now").unwrap();
    let conditions = written[0]["conditions"].as_array().unwrap();
    let kinds: Vec<_> = conditions.iter().map(|condition| condition["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["special.io/X", "Accepted", "ResolvedRefs"]);
    assert_eq!(conditions[0], foreign);
    let object = json!({"status": {"parents": written}});
    assert_eq!(merged(StatusForm::Parents, &object, &wanted, "later"), None, "what others say is no reason to write");
}

#[test]
fn a_list_with_a_bound_has_room_for_others_first() {
    let form = StatusForm::Ancestors;
    let entry = |controller: &str, n: usize| json!({"ancestorRef": {"name": format!("r{n}")}, "controllerName": controller, "conditions": []});
    let theirs: Vec<_> = (0..10).map(|n| entry("example.com/other", n)).collect();
    let wanted: Vec<_> = (0..16).map(|n| entry(CONTROLLER_NAME, n)).collect();
    let now = merged(form, &json!({"status": {"ancestors": theirs}}), &wanted, "now").unwrap();
    assert_eq!((now.len(), &now[..10], &now[10]), (16, &theirs[..], &wanted[0]));
    let object = json!({"status": {"ancestors": now}});
    assert_eq!(merged(form, &object, &wanted, "later"), None, "there is room for no more");
    assert_eq!(merged(form, &object, &[], "later").unwrap(), theirs, "nobody refers to it any more");
}
