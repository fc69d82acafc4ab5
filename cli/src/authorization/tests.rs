//! Every form of a decision, who is meant by a name, and what manifests imply.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, Method};
use mesh_policy::{
    Identity, PathMatch, PortPolicies, PortPolicy, Protocol, RequestFacts, RequestMatch, ServiceRef, Target,
    WorkloadPolicy,
    authorization::{
        Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Level, Operation, Ports, Principal, Source, Tier,
    },
};
use mesh_resources::parse_manifests;

use super::*;

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

fn sources(all: Principal) -> Option<Vec<Source>> {
    Some(vec![Source { all: vec![all], except: Vec::new() }])
}

fn to(path: &str) -> Option<Vec<Operation>> {
    Some(vec![Operation(RequestMatch { path: PathMatch::Exact(path.into()), ..RequestMatch::default() })])
}

fn policy(action: Action, level: Level, rules: Vec<AuthorizationRule>) -> AuthorizationPolicy {
    let name = format!("AuthorizationPolicy shop/{action}").to_lowercase().into();
    let tier = Tier::Namespace;
    AuthorizationPolicy { name, tier, action, mode: Enforcement::Enforce, level, ports: None, rules }
}

fn behind_of(authorization: Vec<AuthorizationPolicy>) -> Behind {
    let policy = WorkloadPolicy { authorization, ..WorkloadPolicy::default() };
    Behind { port: 8080, pods: vec!["shop/web-0".to_owned()], policy: Some(policy) }
}

/// What one group of pods decides about a GET of a path, or about bytes.
fn decided(behind: Behind, who: Who, path: Option<&str>) -> Decided {
    let headers = HeaderMap::new();
    let facts =
        path.map(|path| RequestFacts { method: &Method::GET, host: "web", path, query: None, headers: &headers });
    let mut found = groups(Some("shop/web:80"), &[behind], &Caller::new("c", who), facts.as_ref());
    assert_eq!(found.len(), 1);
    found.remove(0).decided
}

#[test]
fn each_verdict_has_its_words() {
    use AuthorizationRule as Rule;
    let (caller, client) = (|| Who::Proved(web()), Principal::Identity(web()));
    let of_web = || Rule { sources: sources(client.clone()), ..Rule::default() };
    let other = || Rule { sources: sources(Principal::Unauthenticated), ..Rule::default() };
    let at_80 = || Rule { ports: Some(Ports::only([80])), ..Rule::default() };
    let allow = |rules| vec![policy(Action::Allow, Level::Network, rules)];
    let of_path = || Rule { to: to("/a"), ..of_web() };
    let requests = |rules| vec![policy(Action::Allow, Level::Application, rules)];
    for (policies, who, path, verdict, said, nearest) in [
        (vec![], caller(), Some("/"), Verdict::Allowed, "no policy speaks of spiffe://", None),
        (allow(vec![other(), of_web()]), caller(), Some("/"), Verdict::Allowed, "shop/allow rule 1 lets in", None),
        (allow(vec![of_web()]), Who::Nobody, None, Verdict::Closed, "a caller without identity", Some("rule 0 is not")),
        (allow(vec![at_80(), other()]), caller(), None, Verdict::Closed, "closes the port", Some("rule 1 is not")),
        (allow(vec![at_80()]), caller(), None, Verdict::Closed, "closes the port", Some("rule 0 the port")),
        (allow(vec![]), caller(), None, Verdict::Closed, "closes the port", None),
        (
            vec![policy(Action::Deny, Level::Network, vec![other(), of_web()])],
            caller(),
            Some("/"),
            Verdict::Denied,
            "shop/deny rule 1 refuses",
            None,
        ),
        (requests(vec![of_path(), other()]), caller(), Some("/b"), Verdict::Closed, "closes", Some("rule 0 the path")),
        (requests(vec![of_path()]), caller(), Some("/a"), Verdict::Allowed, "rule 0 lets in", None),
        (requests(vec![of_path()]), caller(), None, Verdict::Closed, "closes", Some("rule 0 it is about requests")),
        // The gate that closes says what came near, not the one that was passed.
        (
            [allow(vec![other(), of_web()]), requests(vec![other()])].concat(),
            caller(),
            Some("/"),
            Verdict::Closed,
            "closes",
            Some("rule 0 is not"),
        ),
        (allow(vec![of_web()]), Who::Unknown, Some("/"), Verdict::Unknown, "closed but for 1 rule", None),
    ] {
        let found = decided(behind_of(policies.clone()), who, path);
        assert_eq!(found.verdict, verdict, "{policies:?}: {found:?}");
        assert!(found.reason.contains(said), "{said}: {}", found.reason);
        let is_near = match (&found.nearest, nearest) {
            (None, None) => true,
            (Some(near), Some(nearest)) => {
                let (rule, why) = nearest.split_at("rule 0".len());
                format!("rule {}", near.rule) == rule && near.why.contains(why.trim())
            }
            _ => false,
        };
        assert!(is_near, "{nearest:?}: {:?}", found.nearest);
        assert_eq!(found.policies.len(), policies.len());
    }
}

#[test]
fn what_nobody_decides_and_what_is_ambiguous() {
    let strict = PortPolicy { strict_paths: true, ..PortPolicy::default() };
    let ports = PortPolicies::new([(8080, 8080, strict)]).unwrap();
    let strict = Behind { policy: Some(WorkloadPolicy { ports, ..WorkloadPolicy::default() }), ..behind_of(vec![]) };
    let found = decided(strict, Who::Nobody, Some("/a%2fb"));
    assert_eq!((found.verdict, found.verdict.is_refused()), (Verdict::AmbiguousPath, true));
    let plain = Behind { policy: None, ..behind_of(vec![]) };
    assert_eq!(decided(plain, Who::Nobody, Some("/")).verdict, Verdict::NoSidecar);
    let none = groups(Some("shop/web:80"), &[], &Caller::new("c", Who::Nobody), None);
    assert_eq!((none[0].decided.verdict, none[0].port), (Verdict::NoPods, None));
    assert_eq!(line(&none[0]), "shop/web:80: nobody: there is no pod behind it, so nobody decides");
}

#[test]
fn a_port_of_bytes_shows_no_requests() {
    let opaque = PortPolicy { protocol: Protocol::Opaque, ..PortPolicy::default() };
    let rule = AuthorizationRule { to: to("/"), ..AuthorizationRule::default() };
    let mut behind = behind_of(vec![policy(Action::Allow, Level::Application, vec![rule])]);
    assert_eq!(decided(behind.clone(), Who::Nobody, Some("/")).verdict, Verdict::Allowed);
    behind.policy.as_mut().unwrap().ports = PortPolicies::new([(8080, 8080, opaque)]).unwrap();
    assert_eq!(decided(behind, Who::Nobody, Some("/")).verdict, Verdict::Closed);
}

#[test]
fn what_shadow_and_audit_say_is_told() {
    let shadow = AuthorizationPolicy { mode: Enforcement::Shadow, ..policy(Action::Allow, Level::Network, Vec::new()) };
    let audit = policy(Action::Audit, Level::Network, vec![AuthorizationRule::default()]);
    let found = decided(behind_of(vec![shadow, audit]), Who::Proved(web()), Some("/"));
    assert_eq!(found.verdict, Verdict::Allowed);
    assert_eq!(
        details(&found),
        [
            "authorizationpolicy shop/allow (Namespace ALLOW Network): in shadow",
            "authorizationpolicy shop/audit (Namespace AUDIT Network): reports only",
            "with policies in shadow it would be refused by authorizationpolicy shop/allow",
            "authorizationpolicy shop/audit reports it",
        ]
    );
}

#[test]
fn pods_that_decide_alike_are_one_group() {
    let named = |name: &str, policies| Behind { pods: vec![name.to_owned()], ..behind_of(policies) };
    let shut = policy(Action::Allow, Level::Network, Vec::new());
    let behind = [named("a", vec![]), named("b", vec![shut]), named("c", vec![])];
    let found = groups(None, &behind, &Caller::new("c", Who::Proved(web())), None);
    let pods: Vec<_> = found.iter().map(|group| group.pods.join(" ")).collect();
    assert_eq!(pods, ["a c", "b"]);
}

#[test]
fn a_port_is_told_in_a_word() {
    let rule = |principal| AuthorizationRule { sources: sources(principal), ..AuthorizationRule::default() };
    let (allow, deny) = (Action::Allow, Action::Deny);
    let of = |action, rules| policy(action, Level::Network, rules);
    let elsewhere = AuthorizationRule { ports: Some(Ports::only([80])), ..AuthorizationRule::default() };
    let shadow = AuthorizationPolicy { mode: Enforcement::Shadow, ..of(allow, vec![]) };
    let admin = AuthorizationPolicy { tier: Tier::Admin, ..of(allow, vec![rule(Principal::Authenticated)]) };
    for (policies, expected) in [
        (vec![], "open to everyone"),
        (vec![shadow], "open to everyone"),
        (vec![admin], "open to everyone"),
        (vec![of(allow, vec![])], "closed"),
        (vec![of(allow, vec![rule(Principal::Authenticated), elsewhere])], "closed but for 1 rule"),
        (vec![of(deny, vec![rule(Principal::Identity(web()))])], "open but for 1 rule"),
        (vec![of(deny, vec![rule(Principal::Unauthenticated)])], "strict"),
        (vec![of(deny, vec![rule(Principal::Unauthenticated)]), of(allow, vec![])], "strict, closed"),
    ] {
        let policy = WorkloadPolicy { authorization: policies, ..WorkloadPolicy::default() };
        assert_eq!(openness(&policy, 8080), expected);
    }
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: server, containers: [{name: app, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: web, namespace: shop}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {meshctl.dev/inject: disabled}}, spec: {}}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: shop, labels: {app: other}}
status: {podIP: 10.0.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: meshed, namespace: shop, labels: {app: other, meshctl.dev/inject: enabled}}
spec: {serviceAccountName: front}
status: {podIP: 10.0.0.8}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: other, namespace: shop}
spec: {selector: {matchLabels: {app: other}}, template: {spec: {serviceAccountName: front}}}
";

fn objects() -> Objects {
    Objects::of_manifests(parse_manifests(MANIFESTS, "f.yaml").unwrap())
}

#[test]
fn who_is_meant_by_a_name() {
    let objects = objects();
    for (from, expected, source, noted) in [
        ("deploy/web", "spiffe://cluster.local/ns/shop/sa/server", None, "taken for meshed"),
        ("cj/web", "nobody", None, "without identity"),
        ("sa/any", "spiffe://cluster.local/ns/shop/sa/any", None, ""),
        ("shop/bare", "nobody", Some("10.0.0.9"), "no sidecar"),
        ("pod/meshed", "spiffe://cluster.local/ns/shop/sa/front", Some("10.0.0.8"), ""),
        ("sts/other", "spiffe://cluster.local/ns/shop/sa/front", None, "1 of 2 pods"),
        ("spiffe://other.test/ns/a/sa/b", "spiffe://other.test/ns/a/sa/b", None, ""),
        ("spiffe://nonsense", "spiffe://", None, "error"),
        ("deploy/absent", "there is no Deployment shop/absent", None, "error"),
        ("shop/absent", "there is no pod shop/absent", None, "error"),
        ("shop", "unknown", None, ""),
    ] {
        match caller(&objects, named(from), "shop") {
            Ok(caller) => {
                let who = match (&caller.identity, caller.known) {
                    (Some(identity), _) => identity.as_str(),
                    (None, true) => "nobody",
                    (None, false) => "unknown",
                };
                assert_eq!(who, expected, "{from}");
                assert_eq!(caller.source.map(|ip| ip.to_string()).as_deref(), source, "{from}");
                assert!(caller.notes.join(" ").contains(noted), "{from}: {:?}", caller.notes);
                assert_eq!(caller.notes.is_empty(), noted.is_empty(), "{from}: {:?}", caller.notes);
            }
            Err(why) => assert!(noted == "error" && why.contains(expected), "{from}: {why}"),
        }
    }
}

#[test]
fn a_pod_with_an_address_is_behind_its_service() {
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {selector: {app: other}, ports: [{port: 80}]}
";
    let all = parse_manifests(&format!("{MANIFESTS}{service}"), "f.yaml").unwrap();
    let objects = Objects::of_manifests(all);
    let found = behind(&objects.snapshot, &Target::Service(ServiceRef::new("shop", "other", 80)));
    let pods: Vec<_> = found.iter().map(|behind| (behind.pods.join(" "), behind.policy.is_some())).collect();
    assert_eq!(pods, [("shop/meshed".to_owned(), true), ("shop/bare".to_owned(), false)]);
}

#[test]
fn templates_and_services_imply_pods_and_endpoints() {
    let objects = objects();
    assert_eq!(objects.implied.iter().map(String::as_str).collect::<Vec<_>>(), ["shop/web", "shop/web-cronjob"]);
    let found = behind(&objects.snapshot, &Target::Service(ServiceRef::new("shop", "web", 80)));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].port, found[0].pods.as_slice()), (8080, &["shop/web".to_owned()][..]));
    assert!(found[0].policy.is_some(), "it is taken for meshed");
    assert_eq!(ports_of(&objects.snapshot, "shop/web").into_iter().collect::<Vec<_>>(), [8080]);
}
