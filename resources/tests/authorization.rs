//! Which policies are in force at a pod, within which bounds, and what is said of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{
    Action, AuthorizationPolicy, ConnectionFacts, Identity, Level, Ports, RequestFacts, Tier, decide_inbound,
};
use mesh_resources::{Condition, Found, Judged, Key, Object, Options, Problem, Snapshot, StatusId, parse_manifests};
use proptest::prelude::*;
use serde_json::{Value, json};

const GROUP: &str = "policy.meshctl.dev/v1alpha1";

fn object(value: Value) -> Object {
    Object::from_value(value, None).unwrap()
}

fn world(objects: impl IntoIterator<Item = Value>) -> Snapshot {
    let mut snapshot = Snapshot::new(Options::default());
    for value in objects {
        let problems = snapshot.apply(&object(value));
        assert_eq!(problems, []);
    }
    snapshot
}

fn pod(name: &str, app: &str, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": app},
            "annotations": {"meshctl.dev/injected": "0.2.0"}},
        "spec": {"serviceAccountName": app, "containers": [{"name": "mesh-proxy"}, {"name": "app", "ports": ports}]},
        "status": {"podIP": "10.0.0.1"}})
}

fn service(name: &str, app: Option<&str>, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": app.map(|app| json!({"app": app})), "ports": ports}})
}

fn policy(name: &str, targets: Value, action: &str, rules: Value) -> Value {
    json!({"apiVersion": GROUP, "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRefs": targets, "action": action, "enforcementLevel": "Network", "rules": rules}})
}

fn cluster_policy(name: &str, tier: &str, namespaces: Value, rules: Value) -> Value {
    json!({"apiVersion": GROUP, "kind": "ClusterAuthorizationPolicy", "metadata": {"name": name},
        "spec": {"tier": tier, "namespaceSelector": namespaces, "action": "DENY", "enforcementLevel": "Network",
            "rules": rules}})
}

fn every_pod() -> Value {
    json!([{"kind": "Pod", "selector": {}}])
}

fn at(snapshot: &Snapshot, workload: &str) -> Vec<AuthorizationPolicy> {
    snapshot.compile_workload(workload, &[]).unwrap().authorization
}

fn names(policies: &[AuthorizationPolicy]) -> Vec<&str> {
    policies.iter().map(|policy| &*policy.name).collect()
}

fn judge(snapshot: &Snapshot, name: &str) -> Judged {
    snapshot.judge(&StatusId::new("AuthorizationPolicy", Key::new("shop", name)), &mut Found::default()).unwrap()
}

fn enforced(judged: &Judged) -> (&str, &str) {
    let Condition { kind, reason, message, .. } = &judged.status.entries[0].conditions[1];
    assert_eq!(*kind, "Enforced");
    (reason, message)
}

fn told(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| &*problem.what).collect()
}

#[test]
fn policies_are_about_the_pods_that_they_select() {
    let snapshot = world([
        pod("web-0", "web", json!([])),
        pod("api-0", "api", json!([])),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}}),
        policy("all", every_pod(), "ALLOW", json!([])),
        policy("web", json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}]), "ALLOW", json!([])),
        cluster_policy("team", "Admin", json!({"matchLabels": {"team": "a"}}), json!([{}])),
        cluster_policy(
            "named",
            "Baseline",
            json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}),
            json!([{}]),
        ),
        cluster_policy("others", "Baseline", json!({"matchLabels": {"team": "b"}}), json!([{}])),
    ]);
    let (team, named) = ("ClusterAuthorizationPolicy team", "ClusterAuthorizationPolicy named");
    let (all, web) = ("AuthorizationPolicy shop/all", "AuthorizationPolicy shop/web");
    assert_eq!(names(&at(&snapshot, "shop/web-0")), [team, all, web, named]);
    assert_eq!(names(&at(&snapshot, "shop/api-0")), [team, all, named]);
    assert_eq!(snapshot.compile_workload("shop/none", &[]), None);
}

#[test]
fn a_service_of_which_not_all_is_known_closes_every_port() {
    let ports: Vec<Value> = (1..=1_025).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let mut snapshot = world([
        pod("web-0", "web", json!([])),
        policy("p", json!([{"kind": "Service", "name": "web"}]), "ALLOW", json!([{}])),
        policy("q", json!([{"kind": "Service", "name": "web"}]), "DENY", json!([{}])),
    ]);
    assert_eq!(at(&snapshot, "shop/web-0"), [], "there is no Service");
    assert_eq!(told(&judge(&snapshot, "p").problems), ["there is no Service shop/web"]);
    snapshot.apply(&object(service("web", Some("web"), json!(ports))));
    let policies = at(&snapshot, "shop/web-0");
    assert_eq!(policies.iter().map(|p| (p.ports.clone(), p.rules.len())).collect::<Vec<_>>(), [(None, 1), (None, 0)]);
    assert!(judge(&snapshot, "p").problems[0].effect.contains("about every port"));
    snapshot.apply(&object(service("web", None, json!([]))));
    assert_eq!(at(&snapshot, "shop/web-0"), []);
    assert_eq!(told(&judge(&snapshot, "p").problems), ["Service shop/web has no selector, so no pods"]);
}

proptest! {
    #[test]
    fn a_service_stands_for_the_target_ports_of_the_pods_that_it_selects(
        services in prop::collection::vec((prop::option::of(0..2usize), prop::collection::vec(0..6u16, 0..4)), 3),
        targets in prop::sample::subsequence(vec![0usize, 1, 2], 1..=3),
        named in prop::option::of(9000..9003u16), app in 0..2usize,
    ) {
        let apps = ["web", "api"];
        let target = |port: &u16| if *port == 0 { json!("named") } else { json!(8080 + port) };
        let mut objects = vec![pod("x", apps[app], named.map_or(json!([]), |port| json!([{"name": "named", "containerPort": port}])))];
        for (n, (selected, ports)) in services.iter().enumerate() {
            let ports = ports.iter().enumerate().map(|(at, port)| json!({"name": format!("p{at}"), "port": 80 + at, "targetPort": target(port)}));
            objects.push(service(&format!("s{n}"), selected.map(|app| apps[app]), ports.collect()));
        }
        let refs: Vec<_> = targets.iter().map(|n| json!({"kind": "Service", "name": format!("s{n}")})).collect();
        objects.push(policy("p", json!(refs), "ALLOW", json!([{}])));
        let selecting: Vec<_> = targets.iter().map(|n| &services[*n]).filter(|(selected, _)| *selected == Some(app)).collect();
        let expected = selecting.iter().flat_map(|(_, ports)| ports).filter_map(|port| if *port == 0 { named } else { Some(8080 + port) });
        let expected = (!selecting.is_empty()).then(|| Ports::only(expected));
        let found = at(&world(objects), "shop/x");
        prop_assert_eq!(found.first().map(|policy| policy.ports.clone().unwrap()), expected);
    }
}

#[test]
fn beyond_the_policies_of_a_pod_the_last_ones_only_close() {
    let name = |n: usize| format!("p{n:04}");
    let allows = (0..1_001).map(|n| policy(&name(n), every_pod(), "ALLOW", json!([{}])));
    let audit = policy("audit", every_pod(), "AUDIT", json!([{}]));
    let snapshot = world(allows.chain([pod("x", "web", json!([])), audit]));
    let policies = at(&snapshot, "shop/x");
    assert_eq!(policies.len(), 991);
    let last = policies.last().unwrap();
    assert_eq!((&*last.name, last.action, last.rules.len()), ("AuthorizationPolicy shop/p0990", Action::Allow, 0));
    assert!(policies.iter().rev().skip(1).all(|policy| policy.rules.len() == 1));
    assert!(judge(&snapshot, "p0989").problems.is_empty());
    let judged = judge(&snapshot, "p1000");
    assert_eq!(judged.problems[0].effect, "it lets nobody in there");
    assert_eq!(judged.status.entries[0].conditions[0].reason, "Invalid");
    assert_eq!(judge(&snapshot, "audit").problems[0].effect, "it reports nothing there");
    // Denials come first; those of them that are too many refuse everyone.
    let denials = (0..1_001).map(|n| policy(&name(n), every_pod(), "DENY", json!([{"sources": []}])));
    let allow = policy("open", every_pod(), "ALLOW", json!([{}]));
    let policies = at(&world(denials.chain([pod("x", "web", json!([])), allow])), "shop/x");
    let folded: Vec<_> =
        policies.iter().skip(990).map(|policy| (&*policy.name, policy.tier, policy.rules.len())).collect();
    let expected = [("AuthorizationPolicy shop/p0990", 1), ("AuthorizationPolicy shop/open", 0)];
    assert_eq!(folded, expected.map(|(name, rules)| (name, Tier::Namespace, rules)));
    assert_eq!(policies[990].rules[0], Default::default(), "it matches everything");
}

#[test]
fn beyond_the_bytes_of_a_pods_policies_the_last_ones_only_close() {
    let networks = |n: usize| (0..64).map(move |m| json!({"type": "CIDR", "cidr": format!("10.{n}.{m}.0/24")}));
    let rules =
        |n: usize| json!((0..64).map(|_| json!({"sources": networks(n).collect::<Vec<_>>()})).collect::<Vec<_>>());
    let snapshot = world((0..12).map(|n| policy(&format!("p{n:02}"), every_pod(), "ALLOW", rules(n))).chain([pod(
        "x",
        "web",
        json!([]),
    )]));
    let policies = at(&snapshot, "shop/x");
    let bytes: usize = policies.iter().map(AuthorizationPolicy::bytes).sum();
    assert!(policies.len() < 12 && bytes <= 2 * 1024 * 1024, "{} of {bytes} bytes", policies.len());
    assert!(policies.last().unwrap().rules.is_empty());
    assert_eq!(judge(&snapshot, "p11").problems.len(), 1);
}

#[test]
fn policies_of_the_cluster_have_a_bound_of_their_own() {
    let of = |n: usize| object(cluster_policy(&format!("c{n:04}"), "Admin", json!({}), json!([{"sources": []}])));
    let mut snapshot = world([pod("x", "web", json!([]))]);
    (0..1_000).for_each(|n| assert_eq!(snapshot.apply(&of(n)), []));
    assert_eq!(snapshot.apply(&of(1_000))[0].effect, "an ALLOW lets nobody in, and a DENY refuses everyone");
    let last = || StatusId::new("ClusterAuthorizationPolicy", Key::new("default", "c1000"));
    assert!(!snapshot.judge(&last(), &mut Found::default()).unwrap().status.entries[0].conditions[0].status);
    assert_eq!(snapshot.take_readable(), []);
    snapshot.delete("ClusterAuthorizationPolicy", "default", "c0007");
    let readable = snapshot.take_readable();
    assert_eq!(readable.iter().map(|id| id.name.as_str()).collect::<Vec<_>>(), ["c1000"]);
    assert_eq!(snapshot.apply(&of(1_000)), []);
    assert_eq!((at(&snapshot, "shop/x").len(), snapshot.take_readable()), (1_000, vec![]));
}

#[test]
fn a_policy_without_room_closes() {
    let mut snapshot = world([pod("x", "web", json!([]))]);
    // What a pattern of a route takes is not kept, so the room is filled by names.
    let filler = |n: usize| {
        let ports: Vec<Value> =
            (0..1_024).map(|port| json!({"name": format!("{port}{}", "x".repeat(4_000)), "port": port + 1})).collect();
        object(service(&format!("f{n}"), None, json!(ports)))
    };
    (0..11).for_each(|n| drop(snapshot.apply(&filler(n))));
    let wide = |action: &str| {
        let networks: Vec<Value> = (0..64).map(|m| json!({"type": "CIDR", "cidr": format!("10.0.{m}.0/24")})).collect();
        let rules: Vec<Value> = (0..64).map(|_| json!({"sources": networks})).collect();
        policy(&action.to_lowercase(), every_pod(), action, json!(rules))
    };
    for action in ["ALLOW", "DENY"] {
        for n in 0..20 {
            let mut one = wide(action);
            one["metadata"]["name"] = json!(format!("{}{n:02}", action.to_lowercase()));
            snapshot.apply(&object(one));
        }
    }
    let rules = |name: &str| &snapshot.authorization_policies.get(&Key::new("shop", name)).unwrap().policy.rules;
    assert_eq!((rules("allow00").len(), rules("allow19").len()), (64, 0));
    assert_eq!(*rules("deny19"), [Default::default()], "it refuses everyone");
    assert_eq!(judge(&snapshot, "allow19").status.entries[0].conditions[0].reason, "Invalid");
    let policies = at(&snapshot, "shop/x");
    assert!(policies.iter().any(|policy| policy.action == Action::Allow && policy.rules.is_empty()));
}

#[test]
fn a_status_says_which_pods_nothing_governs() {
    let mut plain = pod("x", "web", json!([]));
    plain["spec"]["containers"] = json!([]);
    let mut old = pod("y", "web", json!([]));
    old["metadata"]["annotations"] = json!({});
    let mut skips = pod("z", "web", json!([{"containerPort": 9090}]));
    skips["spec"]["initContainers"] =
        json!([{"name": "mesh-init", "env": [{"name": "MESH_SKIP_INBOUND_PORTS", "value": "25,9090"}]}]);
    let mut snapshot = world([policy("p", every_pod(), "DENY", json!([{}]))]);
    let judged = judge(&snapshot, "p");
    assert_eq!(enforced(&judged), ("NoPods", "0 pods"));
    assert_eq!(told(&judged.problems), ["no pod is selected"]);
    let mut say = |value: &Value| {
        snapshot.apply(&object(value.clone()));
        let judged = judge(&snapshot, "p");
        let (reason, message) = enforced(&judged);
        (reason.to_owned(), message.to_owned())
    };
    let said = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    assert_eq!(say(&pod("w", "web", json!([]))), said("Enforced", "1 pod"));
    assert_eq!(say(&plain), said("NotGoverned", "2 pods; 1 without a sidecar (shop/x)"));
    let of_old = "1 whose proxy is older than 0.2.0 and knows no policies (shop/y)";
    assert_eq!(say(&old), said("NotGoverned", &format!("3 pods; 1 without a sidecar (shop/x); {of_old}")));
    let of_ports = "port 9090 of shop/z is in skip-inbound-ports";
    assert_eq!(
        say(&skips),
        said("NotGoverned", &format!("4 pods; 1 without a sidecar (shop/x); {of_old}; {of_ports}"))
    );
    let reference = &judge(&snapshot, "p").status.entries[0].reference;
    assert_eq!(*reference, json!({"group": "", "kind": "Namespace", "name": "shop"}));
    for (version, knows) in [("0.1.9", false), ("0.2.0-dev", true), ("1.0.0", true), ("soon", false), ("", false)] {
        let mut one = pod("v", "web", json!([]));
        one["metadata"]["annotations"] = json!({"meshctl.dev/injected": version});
        let mut world = world([policy("p", every_pod(), "DENY", json!([{}]))]);
        world.apply(&object(one));
        assert_eq!(enforced(&judge(&world, "p")).0 == "Enforced", knows, "{version}");
    }
}

#[test]
fn slips_are_told_and_change_nothing() {
    let account = |name: &str, namespace: &str| json!({"type": "ServiceAccount", "serviceAccount": {"name": name, "namespace": namespace}});
    let rules = json!([
        {"sources": [account("web", "shop"), account("ghost", "shop"), account("x", "nowhere")], "networkAttributes": {"ports": [80]}},
        {"sources": [{"type": "Namespace", "namespace": "shop", "except": [{"type": "Namespace", "namespace": "gone"}]}],
            "networkAttributes": {"ports": [8080]}},
    ]);
    let ports = json!([{"containerPort": 8080}, {"name": "metrics", "containerPort": 9090}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
    let mut snapshot = world([
        pod("web-1", "web", ports),
        service("web", Some("web"), json!([{"port": 80, "targetPort": 8080}])),
        policy("p", every_pod(), "ALLOW", rules),
    ]);
    let expected = [
        "no pod of the service account shop/ghost is known",
        "there is no namespace nowhere",
        "there is no namespace gone",
        "port 9090 (metrics) of shop/web-1 is closed to everyone: no ALLOW names it",
        "80 is the port of Service web; its pods listen on 8080",
    ];
    let judged = judge(&snapshot, "p");
    assert_eq!(told(&judged.problems), expected);
    assert_eq!(judged.problems[4].fix, "write 8080");
    assert!(
        judged.status.entries[0].conditions[0].status
            && judged.status.entries[0].conditions[0].message.contains("ghost")
    );
    let all = snapshot.problems();
    assert!(expected.iter().all(|what| told(&all).contains(what)), "{all:?}");
    snapshot.apply(&object(policy("q", every_pod(), "ALLOW", json!([{"networkAttributes": {"ports": [9090]}}]))));
    assert!(!told(&judge(&snapshot, "p").problems).contains(&expected[3]));
}

#[test]
fn ports_are_strict_where_the_pod_says_so() {
    let mut one = pod("x", "web", json!([]));
    one["metadata"]["annotations"] = json!({"config.meshctl.dev/strict-path-ports": "8080, 9000-9001"});
    let snapshot = world([one]);
    let policy = snapshot.compile_workload("shop/x", &[(5000, 8080)]).unwrap();
    let strict: Vec<u16> = [5000, 8079, 8080, 8081, 9000, 9001, 9002]
        .into_iter()
        .filter(|port| policy.ports.get(*port).strict_paths)
        .collect();
    assert_eq!(strict, [5000, 8080, 9000, 9001]);
}

#[test]
fn what_is_compiled_can_be_sent() {
    let text = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: ClusterAuthorizationPolicy\nmetadata: {name: strict}\nspec:\n  \
                tier: Admin\n  namespaceSelector: {}\n  requireMeshIdentity: {except: [{ports: [8080], cidrs: [10.0.0.0/8]}]}\n";
    let mut snapshot = world([
        pod("x", "web", json!([])),
        policy("p", every_pod(), "ALLOW", json!([{"sources": [{"type": "CIDR", "cidr": "::/0"}]}])),
    ]);
    parse_manifests(text, "f.yaml").unwrap().iter().for_each(|object| assert_eq!(snapshot.apply(object), []));
    let policies = at(&snapshot, "shop/x");
    assert_eq!((policies.len(), policies[0].level), (2, Level::Network));
    for policy in policies {
        let wire = mesh_proto::v1::AuthorizationPolicy::from(&policy);
        assert_eq!(AuthorizationPolicy::try_from(wire).unwrap(), policy);
    }
    assert_eq!(mesh_proto::convert::MAX_POLICIES, 1_000);
}

/// Pointers to every value below one.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), all)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| pointers(value, &format!("{at}/{n}"), all))
        }
        _ => {}
    }
}

#[test]
fn whatever_becomes_of_a_field_nobody_is_let_in_for_it() {
    let source = json!({"type": "ServiceAccount", "serviceAccount": {"name": "web", "namespace": "shop"}, "cidr": "10.0.0.0/8",
        "except": [{"type": "CIDR", "cidr": "10.9.0.0/16"}]});
    let to = json!([{"method": "GET", "path": {"type": "PathPrefix", "value": "/x"}, "headers": [{"name": "a", "value": "b"}]}]);
    let rules = json!([{"sources": [source], "networkAttributes": {"ports": [8080]}, "to": to}]);
    let targets = json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}}]);
    // A DENY of what is asked, and an ALLOW of the same with another account.
    let mut deny = policy("p", targets, "DENY", rules);
    deny["spec"]["enforcementLevel"] = json!("Application");
    deny["spec"]["mode"] = json!("Enforce");
    let mut allow = deny.clone();
    allow["spec"]["action"] = json!("ALLOW");
    allow["spec"]["rules"][0]["sources"][0]["serviceAccount"]["name"] = json!("api");
    let client = Identity::new("cluster.local", "shop", "web").unwrap();
    let facts = ConnectionFacts { client: Some(&client), source: "10.0.0.1".parse().unwrap(), port: 8080 };
    let headers = [("a".parse().unwrap(), "b".parse().unwrap())].into_iter().collect();
    let request = RequestFacts { method: &http::Method::GET, host: "web", path: "/x", query: None, headers: &headers };
    let (mut all, mut count) = (Vec::new(), 0);
    pointers(&deny["spec"], "/spec", &mut all);
    for pointer in &all {
        for junk in [json!({"!": 1}), json!(-1), json!([[]]), json!(true)] {
            for good in [&deny, &allow] {
                let mut bad = good.clone();
                *bad.pointer_mut(pointer).unwrap() = junk.clone();
                let mut snapshot = world([pod("x", "web", json!([]))]);
                assert!(!snapshot.apply(&object(bad)).is_empty(), "{pointer} {junk}");
                let workload = snapshot.compile_workload("shop/x", &[]).unwrap();
                let verdict = decide_inbound(&workload, &facts, Some(&request), &mut ()).verdict;
                assert!(verdict.is_refused(), "{pointer} {junk} {good}");
                count += 1;
            }
        }
    }
    assert!(count > 200, "{count}");
}
