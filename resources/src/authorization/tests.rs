//! Tests of decoding: what fields mean, and that nothing that is not understood lets anyone in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{
    Action, AuthorizationRule, ConnectionFacts, Enforcement, Identity, Level, Operation, PathMatch, Ports, Principal,
    RequestFacts, RequestMatch, Source, Tier, WorkloadPolicy, decide_inbound,
};
use serde_json::{Value, json};

use super::{caller::nobody, *};
use crate::{Class, Object, Options, Problem, problem::Report, selector::Selector};

fn read(kind: &str, spec: Value) -> (PolicyObject, Vec<Problem>) {
    let mut value = json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": kind,
        "metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec});
    if kind == CLUSTER_KIND {
        value["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    let object = Object::from_value(value, None).unwrap();
    let mut report = Report::of(&object);
    let decode = if kind == KIND { decode } else { decode_cluster };
    let policy = decode(&object, &Options::default(), &mut report);
    (policy, report.finish())
}

/// An AuthorizationPolicy at the level Application with these rules, and what is changed of it.
fn spec(action: &str, rules: Value, change: &[(&str, Value)]) -> Value {
    let mut spec = json!({"targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}],
        "action": action, "enforcementLevel": "Application", "rules": rules});
    for (field, value) in change {
        spec[*field] = value.clone();
    }
    spec
}

fn account() -> Value {
    json!({"type": "ServiceAccount", "serviceAccount": {"name": "client"}})
}

/// Whether a request of shop/client from 10.0.0.1 for `GET /x` at 8080 is let in, and its bytes.
fn lets_in(policy: &PolicyObject) -> (bool, bool) {
    let workload = WorkloadPolicy { authorization: vec![policy.policy.clone()], ..WorkloadPolicy::default() };
    let client = Identity::new("cluster.local", "shop", "client").unwrap();
    let facts = ConnectionFacts { client: Some(&client), source: "10.0.0.1".parse().unwrap(), port: 8080 };
    let headers = http::HeaderMap::new();
    let request = RequestFacts { method: &http::Method::GET, host: "web", path: "/x", query: None, headers: &headers };
    let is_in = |request| !decide_inbound(&workload, &facts, request, &mut ()).verdict.is_refused();
    (is_in(Some(&request)), is_in(None))
}

#[test]
fn every_field_is_read() {
    let rules = json!([{
        "sources": [
            {"type": "ServiceAccount", "serviceAccount": {"name": "client", "namespace": "ops"}},
            {"type": "ServiceAccount", "serviceAccount": {"name": "*"}, "cidr": "10.0.0.0/8"},
            {"type": "SPIFFE", "spiffe": "spiffe://east.example/ns/a/sa/b"},
            {"type": "Namespace", "namespace": "ops", "except": [account(), {"type": "CIDR", "cidr": "10.1.0.1/16"}]},
            {"type": "TrustDomain", "trustDomain": "east.example"},
            {"type": "CIDR", "cidr": "::ffff:10.2.0.0/112"},
            {"type": "Unauthenticated", "except": [{"type": "Unauthenticated"}]},
        ],
        "networkAttributes": {"ports": [8080, 8081, 90]},
        "to": [
            {"method": "GET", "path": {"type": "Exact", "value": "/"}},
            {"grpc": {"method": {"type": "Exact", "service": "shop.Cart", "method": "Add"}}},
            {},
        ],
    }, {}]);
    let (object, problems) = read(KIND, spec("ALLOW", rules, &[("mode", json!("Shadow"))]));
    assert_eq!(problems, []);
    assert_eq!((object.generation, &*object.policy.name), (3, "AuthorizationPolicy shop/p"));
    let policy = &object.policy;
    assert_eq!((policy.tier, policy.action, policy.mode), (Tier::Namespace, Action::Allow, Enforcement::Shadow));
    assert_eq!((policy.level, policy.ports.clone(), policy.rules.len()), (Level::Application, None, 2));
    let identity = |text: &str| Principal::Identity(Identity::parse(text).unwrap());
    let namespace = |name: &str| Principal::Namespace { trust_domain: "cluster.local".into(), namespace: name.into() };
    let cidr = |text: &str| Principal::Cidr(text.parse().unwrap());
    let of = |all: Vec<Principal>, except: Vec<Principal>| Source { all, except };
    let client = identity("spiffe://cluster.local/ns/shop/sa/client");
    let expected = vec![
        of(vec![identity("spiffe://cluster.local/ns/ops/sa/client")], vec![]),
        of(vec![namespace("shop"), cidr("10.0.0.0/8")], vec![]),
        of(vec![identity("spiffe://east.example/ns/a/sa/b")], vec![]),
        of(vec![namespace("ops")], vec![client, cidr("10.1.0.0/16")]),
        of(vec![Principal::TrustDomain("east.example".into())], vec![]),
        of(vec![cidr("10.2.0.0/16")], vec![]),
        of(vec![Principal::Unauthenticated], vec![Principal::Unauthenticated]),
    ];
    assert_eq!(policy.rules[0].sources, Some(expected));
    assert_eq!(policy.rules[0].ports, Some(Ports::only([90, 8080, 8081])));
    let to = policy.rules[0].to.as_ref().unwrap();
    assert_eq!((to.len(), &to[0].0.path), (3, &PathMatch::Exact("/".to_owned())));
    assert!(matches!(to[1].0.path, PathMatch::Grpc { .. }) && to[2] == Operation(RequestMatch::default()));
    assert_eq!(policy.rules[1], AuthorizationRule::default());
}

#[test]
fn an_allow_without_rules_closes() {
    for (change, rules) in [(&[][..], json!([])), (&[("rules", Value::Null)], json!([{}]))] {
        let (policy, problems) = read(KIND, spec("ALLOW", rules, change));
        assert_eq!((problems, lets_in(&policy)), (vec![], (false, false)));
    }
    let (policy, _) = read(KIND, spec("ALLOW", json!([{"sources": []}]), &[]));
    assert_eq!(lets_in(&policy), (false, false), "nobody");
    let (policy, _) = read(KIND, spec("ALLOW", json!([{"to": []}]), &[]));
    assert_eq!(lets_in(&policy), (false, false), "nothing");
    let (policy, _) = read(KIND, spec("ALLOW", json!([{"to": [{}]}]), &[]));
    assert_eq!(lets_in(&policy), (true, false), "every request, and no bytes");
}

/// Parts of a rule, each wrong in one way, and where that is told.
fn bad_rules() -> Vec<(Value, &'static str)> {
    let source = |source: Value| json!({"sources": [source]});
    let to = |operation: Value| json!({"to": [operation]});
    let many = |value: Value| vec![value; 65];
    vec![
        (json!(5), "rules[0]"),
        (json!({"unknown": 1}), "rules[0].unknown"),
        (json!({"sources": "all"}), "sources"),
        (json!({"sources": many(account())}), "sources"),
        (source(json!({"type": "JWT", "jwt": {}})), "sources[0].jwt"),
        (source(json!({"type": "JWT"})), "sources[0].type"),
        (source(json!({"serviceAccount": {"name": "client"}})), "type"),
        (source(json!({"type": "ServiceAccount"})), "serviceAccount"),
        (source(json!({"type": "ServiceAccount", "serviceAccount": {}})), "serviceAccount.name"),
        (source(json!({"type": "ServiceAccount", "serviceAccount": {"name": "A b"}})), "serviceAccount.name"),
        (source(json!({"type": "ServiceAccount", "serviceAccount": {"name": "a", "uid": 1}})), "serviceAccount.uid"),
        (source(json!({"type": "SPIFFE", "spiffe": "spiffe://east.example"})), "spiffe"),
        (source(json!({"type": "Namespace", "namespace": "a.b"})), "namespace"),
        (source(json!({"type": "TrustDomain", "trustDomain": "a b"})), "trustDomain"),
        (source(json!({"type": "CIDR", "cidr": "10.0.0.0/33"})), "cidr"),
        (source(json!({"type": "CIDR", "cidr": "10.0.0.1"})), "cidr"),
        (source(json!({"type": "CIDR", "cidr": 10})), "cidr"),
        (source(json!({"type": "Unauthenticated", "namespace": "shop"})), "namespace"),
        (json!({"networkAttributes": {}}), "ports"),
        (json!({"networkAttributes": {"ports": []}}), "ports"),
        (json!({"networkAttributes": {"ports": [8080, 0]}}), "ports[1]"),
        (json!({"networkAttributes": {"ports": [8080], "protocol": "TCP"}}), "protocol"),
        (json!({"to": {}}), "to"),
        (json!({"to": many(json!({}))}), "to"),
        (to(json!({"host": "web"})), "to[0].host"),
        (to(json!({"method": "get"})), "method"),
        (to(json!({"path": {"type": "Fuzzy", "value": "/"}})), "path.type"),
        (to(json!({"path": {"value": "x"}})), "path.value"),
        (to(json!({"path": {"type": "RegularExpression", "value": "("}})), "path.value"),
        (to(json!({"path": {"type": "RegularExpression", "value": "((a{99}){99}){99}"}})), "path.value"),
        (to(json!({"grpc": {}, "method": "GET"})), "method"),
        (to(json!({"grpc": {"method": {}}})), "grpc.method.service"),
    ]
}

#[test]
fn a_part_that_is_not_understood_lets_nobody_in() {
    for (rule, field) in bad_rules() {
        let (allow, problems) = read(KIND, spec("ALLOW", json!([rule]), &[]));
        assert_eq!(lets_in(&allow), (false, false), "{rule}");
        assert!(problems.iter().any(|p| p.field.ends_with(field)), "{rule} {problems:?}");
        assert!(problems.iter().all(|p| p.effect == "it lets nobody in"), "{rule} {problems:?}");
        let (deny, problems) = read(KIND, spec("DENY", json!([rule]), &[]));
        assert_eq!(lets_in(&deny), (false, false), "{rule}");
        assert!(problems.iter().all(|p| p.effect.contains("more is denied")), "{rule} {problems:?}");
        let (audit, _) = read(KIND, spec("AUDIT", json!([rule]), &[]));
        let workload = WorkloadPolicy { authorization: vec![audit.policy], ..WorkloadPolicy::default() };
        let source = "10.0.0.1".parse().unwrap();
        let facts = ConnectionFacts { client: None, source, port: 8080 };
        assert!(decide_inbound(&workload, &facts, None, &mut ()).audited.is_empty(), "{rule}");
        // What stands beside it as an alternative is in force.
        let (allow, _) = read(KIND, spec("ALLOW", json!([rule, {"sources": [account()], "to": [{}]}]), &[]));
        assert_eq!((lets_in(&allow).0, allow.policy.rules.len()), (true, 2), "{rule}");
    }
}

#[test]
fn alternatives_beside_one_that_is_not_understood() {
    let bad = json!({"type": "CIDR", "cidr": "x"});
    let (allow, _) = read(KIND, spec("ALLOW", json!([{"sources": [bad, account()]}]), &[]));
    assert_eq!(allow.policy.rules[0].sources.as_ref().unwrap()[0], nobody());
    assert_eq!(lets_in(&allow), (true, false));
    let elsewhere = json!({"type": "Namespace", "namespace": "elsewhere"});
    let (deny, _) = read(KIND, spec("DENY", json!([{"sources": [bad, elsewhere]}]), &[]));
    assert_eq!((deny.policy.rules[0].sources.clone(), lets_in(&deny)), (None, (false, false)), "any caller");
    let (deny, _) = read(KIND, spec("DENY", json!([{"to": [{"method": "POST"}, {"novel": 1}]}]), &[]));
    assert_eq!((deny.policy.rules[0].to.clone(), lets_in(&deny)), (None, (false, false)), "every request");
    // Exceptions: of an ALLOW all must be understood, of a DENY the others are left.
    let source = json!({"type": "Namespace", "namespace": "shop", "except": [account(), bad]});
    let (allow, _) = read(KIND, spec("ALLOW", json!([{"sources": [source]}]), &[]));
    assert_eq!(allow.policy.rules[0].sources, Some(vec![nobody()]));
    let (deny, problems) = read(KIND, spec("DENY", json!([{"sources": [source]}]), &[]));
    assert_eq!(deny.policy.rules[0].sources.as_ref().unwrap()[0].except.len(), 1);
    assert_eq!(problems.len(), 1);
    for except in
        [json!({"type": "CIDR", "cidr": "10.0.0.0/8", "namespace": "a"}), json!({"type": "CIDR", "except": []})]
    {
        let source = json!({"type": "Namespace", "namespace": "shop", "except": [except]});
        let (allow, _) = read(KIND, spec("ALLOW", json!([{"sources": [source]}]), &[]));
        assert_eq!(allow.policy.rules[0].sources, Some(vec![nobody()]), "{except}");
    }
}

#[test]
fn what_is_not_understood_beside_the_rules() {
    let rules = || json!([{"sources": [account()], "to": [{}]}, {"sources": [account()]}]);
    for (change, allow_level, deny_level) in [
        (("novel", json!(1)), Level::Application, Level::Application),
        (("targetRefs", json!([])), Level::Application, Level::Application),
        (("targetRefs", json!([{"kind": "Gateway", "name": "x"}])), Level::Application, Level::Application),
        (("targetRefs", json!([{"kind": "Pod"}])), Level::Application, Level::Application),
        (("targetRefs", json!([{"kind": "Pod", "name": "a", "selector": {}}])), Level::Application, Level::Application),
        (
            ("targetRefs", json!([{"kind": "Pod", "selector": {}}, {"kind": "Service", "name": "a"}])),
            Level::Application,
            Level::Application,
        ),
        (
            ("targetRefs", json!([{"kind": "Service", "name": "a", "selector": {}}])),
            Level::Application,
            Level::Application,
        ),
        (("enforcementLevel", json!("Kernel")), Level::Network, Level::Application),
        (("enforcementLevel", Value::Null), Level::Network, Level::Application),
    ] {
        let (allow, problems) = read(KIND, spec("ALLOW", rules(), std::slice::from_ref(&change)));
        assert!(!problems.is_empty() && allow.policy.rules.is_empty(), "{change:?}");
        assert_eq!((allow.policy.level, lets_in(&allow)), (allow_level, (false, false)), "{change:?}");
        let (deny, _) = read(KIND, spec("DENY", rules(), std::slice::from_ref(&change)));
        assert_eq!((deny.policy.level, lets_in(&deny)), (deny_level, (false, false)), "{change:?}");
        assert!(change.0 != "targetRefs" || deny.target == TargetPods::Selected(Selector::default()), "{change:?}");
    }
    let (deny, _) = read(KIND, spec("DENY", json!([{}]), &[("enforcementLevel", json!("Kernel"))]));
    assert_eq!(deny.policy.level, Level::Network);
    for action in [json!("LOG"), json!("allow"), Value::Null] {
        let (policy, problems) = read(KIND, spec("ALLOW", json!([{}]), &[("action", action)]));
        assert_eq!((lets_in(&policy), problems.is_empty()), ((false, false), false));
    }
    let (policy, _) = read(KIND, spec("DENY", json!([{}]), &[("mode", json!("Off"))]));
    assert_eq!((policy.policy.mode, lets_in(&policy)), (Enforcement::Enforce, (false, false)));
    let (policy, problems) = read(KIND, json!("all"));
    assert_eq!((lets_in(&policy), problems.len()), ((false, false), 1));
    let (policy, problems) = read(KIND, Value::Null);
    assert_eq!((lets_in(&policy), problems.len()), ((false, false), 1));
}

#[test]
fn rules_that_contradict_the_rest() {
    for rules in [json!([]), json!({}), json!(vec![json!({}); 65])] {
        let (deny, problems) = read(KIND, spec("DENY", rules.clone(), &[]));
        assert_eq!((lets_in(&deny), problems.len()), ((false, false), 1), "{rules}");
        assert_eq!(problems[0].class, Class::Schema);
    }
    let network = [("enforcementLevel", json!("Network"))];
    let rules = json!([{"sources": [{"type": "Namespace", "namespace": "x"}], "to": [{"method": "GET"}]}]);
    let (allow, problems) = read(KIND, spec("ALLOW", rules, &network));
    assert_eq!((lets_in(&allow), problems[0].class), ((false, false), Class::Schema));
    let (deny, _) = read(KIND, spec("DENY", json!([{"to": [{"method": "POST"}]}]), &network));
    assert_eq!((lets_in(&deny), deny.policy.level), ((false, false), Level::Network), "the whole connection");
}

#[test]
fn patterns_are_bounded_by_rule_and_policy() {
    let pattern = |n: usize| json!({"path": {"type": "RegularExpression", "value": format!("/{n}/(a{{9}}){{99}}")}});
    let rule = |at: usize, count: usize| json!({"to": (0..count).map(|n| pattern(at * 64 + n)).collect::<Vec<_>>()});
    let (policy, problems) = read(KIND, spec("ALLOW", json!([rule(0, 2)]), &[]));
    assert!(problems.is_empty() && policy.pattern_bytes > 0, "{problems:?}");
    let (policy, problems) = read(KIND, spec("ALLOW", json!((0..20).map(|at| rule(at, 64)).collect::<Vec<_>>()), &[]));
    assert!(problems.iter().any(|p| p.reason == crate::Reason::TooLarge), "{problems:?}");
    assert!(policy.pattern_bytes <= mesh_policy::bounds::MAX_ROUTE_PATTERN_BYTES, "{}", policy.pattern_bytes);
    let (deny, _) = read(KIND, spec("DENY", json!([rule(0, 64)]), &[]));
    assert_eq!((deny.policy.rules[0].to.clone(), deny.pattern_bytes), (None, 0), "every request");
}

fn cluster(change: &[(&str, Value)]) -> Value {
    let mut spec = json!({"tier": "Baseline", "namespaceSelector": {}, "action": "ALLOW",
        "enforcementLevel": "Network",
        "rules": [{"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "client", "namespace": "shop"}}]}]});
    for (field, value) in change {
        spec[*field] = value.clone();
    }
    spec
}

#[test]
fn policies_of_the_cluster() {
    let (object, problems) = read(CLUSTER_KIND, cluster(&[("ports", json!([8080])), ("podSelector", json!({}))]));
    assert_eq!((problems, lets_in(&object)), (vec![], (true, true)));
    assert_eq!((&*object.policy.name, object.policy.tier), ("ClusterAuthorizationPolicy p", Tier::Baseline));
    assert_eq!(object.policy.ports, Some(Ports::only([8080])));
    let nameless = json!([{"sources": [account()]}]);
    for change in [
        ("rules", nameless),
        ("namespaceSelector", Value::Null),
        ("namespaceSelector", json!({"matchNames": []})),
        ("podSelector", json!(1)),
        ("ports", json!([])),
        ("tier", json!("Middle")),
        ("tier", Value::Null),
        ("targetRefs", json!([])),
        ("action", json!("LOG")),
        ("action", Value::Null),
        ("requireMeshIdentity", json!({})),
    ] {
        let (policy, problems) = read(CLUSTER_KIND, cluster(std::slice::from_ref(&change)));
        assert_eq!((lets_in(&policy), problems.is_empty()), ((false, false), false), "{change:?}");
    }
    // An ALLOW of the first tier closes nothing, so it is no stand-in there.
    let (policy, _) = read(CLUSTER_KIND, cluster(&[("tier", json!("Admin")), ("action", json!("LOG"))]));
    assert_eq!((policy.policy.action, lets_in(&policy)), (Action::Deny, (false, false)));
    let (policy, _) = read(CLUSTER_KIND, cluster(&[("tier", json!("Middle")), ("action", json!("DENY"))]));
    assert_eq!((policy.policy.tier, lets_in(&policy)), (Tier::Admin, (false, false)));
    assert_eq!(read(CLUSTER_KIND, Value::Null).0.policy.action, Action::Deny);
}

#[test]
fn mesh_identity_is_required_but_for_exceptions() {
    let require = |except: Value| json!({"tier": "Admin", "namespaceSelector": {}, "mode": "Shadow", "requireMeshIdentity": {"except": except}});
    let (object, problems) = read(CLUSTER_KIND, require(json!([{"ports": [9090], "cidrs": ["10.0.0.0/8"]}])));
    assert_eq!(problems, []);
    let policy = &object.policy;
    assert_eq!((policy.action, policy.level, policy.mode), (Action::Deny, Level::Network, Enforcement::Shadow));
    assert_eq!(policy.rules.len(), 2);
    let plain = read(CLUSTER_KIND, require(json!([]))).0.policy.rules;
    assert_eq!(plain.len(), 1);
    for except in [
        json!([{}]),
        json!([{"ports": []}]),
        json!([{"cidrs": []}]),
        json!([{"cidrs": ["10.0.0.1"]}]),
        json!([{"cidrs": ["10.0.0.0/8"], "accounts": []}]),
        json!([{"ports": vec![1; 17]}]),
        json!(vec![json!({"ports": [1]}); 33]),
        json!("all"),
    ] {
        let (object, problems) = read(CLUSTER_KIND, require(except.clone()));
        assert_eq!((&object.policy.rules, problems.len()), (&plain, 1), "{except}");
    }
}
