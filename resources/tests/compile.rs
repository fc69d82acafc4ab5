//! Manifests in, policies and problems out: the rules of the Gateway API and of GEP-1426, one test each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{
    BackendTarget, Endpoint, OutboundPolicy, OutboundVerdict, Protocol, RequestFacts, ServiceRef, Target,
    decide_outbound,
};
use mesh_resources::{Options, Problem, Reason, Severity, Snapshot, parse_manifests};

/// Services web (two ports), api and headless, with endpoints; pods of which web-0 and web-1 are meshed.
const BASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: grpc, port: 81, targetPort: rpc, appProtocol: kubernetes.io/h2c}
---
apiVersion: v1
kind: Service
metadata:
  name: api
  namespace: shop
  annotations: {config.meshctl.dev/opaque-ports: "3306,5000-5010"}
spec: {clusterIP: 10.0.0.2, ports: [{name: web, port: 8080}, {name: sql, port: 3306}, {name: raw, port: 9000, appProtocol: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: bank}
spec: {type: ExternalName, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {meshctl.dev/inject: enabled}}
spec: {serviceAccountName: web, containers: [{name: app, ports: [{name: rpc, containerPort: 9090}]}]}
status: {podIP: 10.1.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {meshctl.dev/inject: enabled}, annotations: {config.meshctl.dev/opaque-ports: "7777"}}
spec: {serviceAccountName: web}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop}
spec: {}
status: {podIP: 10.1.0.3}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}, zone: z1}
- {addresses: [10.1.0.1], targetRef: {kind: Pod, name: web-0}}
- {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}, targetRef: {kind: Pod, name: plain}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-b, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, name: web-0}}]
"#;

fn snapshot(more: &str) -> (Snapshot, Vec<Problem>) {
    let objects = parse_manifests(&format!("{BASE}---\n{more}"), "test.yaml").unwrap();
    Snapshot::from_objects(&objects, Options { meshed_by_label: true, ..Options::default() })
}

/// An HTTPRoute of a namespace; `spec` is YAML in flow style without its braces.
fn route(kind: &str, full: &str, spec: &str) -> String {
    let (namespace, name) = full.split_once('/').unwrap();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

const WEB: &str = "parentRefs: [{group: '', kind: Service, name: web, namespace: shop}]";

fn web(port: u16) -> Target {
    Target::Service(ServiceRef { namespace: "shop".into(), name: "web".into(), port })
}

/// `METHOD path` decided for a client in a namespace: the verdict in a word, or the backends.
fn decide(policy: &OutboundPolicy, method: &str, path: &str) -> String {
    let method = http::Method::from_bytes(method.as_bytes()).unwrap();
    let headers = http::HeaderMap::new();
    let facts = RequestFacts { method: &method, host: "web", path, query: None, headers: &headers };
    match decide_outbound(policy, &facts, &mut ()).verdict {
        OutboundVerdict::Default(_) => "default".to_owned(),
        OutboundVerdict::NotFound => "404".to_owned(),
        OutboundVerdict::NoBackends => "500".to_owned(),
        OutboundVerdict::Redirect(redirect) => redirect.status.to_string(),
        OutboundVerdict::Preflight(_) => "preflight".to_owned(),
        OutboundVerdict::Forward(rule) => {
            let backend = |b: &mesh_policy::Backend| match &b.target {
                BackendTarget::Service(service) => format!("{}x{service}", b.weight),
                BackendTarget::Invalid { .. } => format!("{}x500", b.weight),
            };
            rule.backends.iter().map(backend).collect::<Vec<_>>().join(" ")
        }
    }
}

fn seen(more: &str, method: &str, path: &str) -> (String, Vec<(Reason, String)>) {
    let (snapshot, problems) = snapshot(more);
    let (policy, compiled) = snapshot.compile_outbound(&web(80), "shop");
    assert!(compiled.iter().all(|p| problems.contains(p)), "what a client meets is known to everyone: {compiled:?}");
    (decide(&policy, method, path), problems.into_iter().map(|p| (p.reason, p.field)).collect())
}

#[test]
fn names_and_addresses() {
    let (snapshot, problems) = snapshot("");
    assert_eq!(problems, []);
    let service = |target: &str, namespace: &str| match snapshot.resolve(target, namespace) {
        Some(Target::Service(service)) => service.to_string(),
        Some(Target::Endpoint(endpoint)) => {
            format!("{}={:?}", endpoint.workload, endpoint.identity.map(|i| i.to_string()))
        }
        Some(Target::Outside(_)) => "outside".to_owned(),
        Some(Target::Unknown(_)) => "unknown".to_owned(),
        None => "none".to_owned(),
    };
    for (target, namespace, expected) in [
        ("web:80", "shop", "shop/web:80"),
        ("web:80", "bank", "none"),
        ("web.shop:80", "bank", "shop/web:80"),
        ("web.shop.svc:81", "bank", "shop/web:81"),
        ("WEB.shop.svc.cluster.local.:80", "bank", "shop/web:80"),
        ("web.shop.svc.other.domain:80", "bank", "none"),
        ("web:82", "shop", "none"),
        ("web", "shop", "none"),
        ("web:0", "shop", "none"),
        ("10.0.0.1:80", "x", "shop/web:80"),
        ("10.0.0.1:82", "x", "unknown"),
        ("10.1.0.2:8080", "x", "shop/web-1=Some(\"spiffe://cluster.local/ns/shop/sa/web\")"),
        ("10.1.0.1:1234", "x", "shop/web-0=Some(\"spiffe://cluster.local/ns/shop/sa/web\")"),
        ("10.1.0.3:1", "x", "shop/plain=None"),
        ("10.9.9.9:80", "x", "outside"),
        ("vault.bank:80", "x", "bank/vault:80"),
        ("other.bank:80", "x", "none"),
        ("[::1]:80", "x", "outside"),
        ("", "x", "none"),
        (":80", "x", "none"),
    ] {
        assert_eq!(service(target, namespace), expected, "{target} in {namespace}");
    }
}

#[test]
fn endpoints_are_ready_sorted_and_once() {
    let (mut snapshot, _) = snapshot("");
    let Target::Service(service) = web(80) else { unreachable!() };
    let workloads = |snapshot: &Snapshot| -> Vec<String> {
        let text = |e: Endpoint| format!("{} {} {}", e.address, e.workload, e.identity.is_some());
        snapshot.endpoints(&service).into_iter().map(text).collect()
    };
    assert_eq!(workloads(&snapshot), ["10.1.0.1:8080 shop/web-0 true", "10.1.0.2:8080 shop/web-1 true"]);
    snapshot.delete("Pod", "shop", "web-1");
    snapshot.delete("EndpointSlice", "shop", "web-b");
    assert_eq!(workloads(&snapshot), ["10.1.0.1:8080 shop/web-0 true"], "who has 10.1.0.2 is not known any more");
    let drain = BASE.replace("conditions: {ready: true}", "conditions: {ready: false}");
    let drain = drain
        .replace("{addresses: [10.1.0.1], targetRef", "{addresses: [10.1.0.1], conditions: {ready: false}, targetRef");
    let objects = parse_manifests(&drain, "t").unwrap();
    let (snapshot, _) = Snapshot::from_objects(&objects, Options::default());
    assert_eq!(workloads(&snapshot), ["10.1.0.3:8080 shop/plain false"], "none is ready, so those that drain serve");
}

#[test]
fn protocols() {
    let (snapshot, _) = snapshot("");
    let outbound =
        |target: &str| snapshot.compile_outbound(&snapshot.resolve(target, "shop").unwrap(), "shop").0.protocol;
    for (target, expected) in [
        ("web:80", Protocol::Http1),
        ("web:81", Protocol::Http2),
        ("api:8080", Protocol::Detect),
        ("api:3306", Protocol::Opaque),
        ("api:9000", Protocol::Opaque),
        ("10.1.0.1:8080", Protocol::Http1),
        ("10.1.0.2:7777", Protocol::Opaque),
        ("10.1.0.1:7777", Protocol::Detect),
    ] {
        assert_eq!(outbound(target), expected, "{target}");
    }
    let inbound = |pod: &str, port| snapshot.compile_inbound(pod, port, port).map(|policy| policy.protocol);
    assert_eq!(inbound("shop/web-0", 8080), Some(Protocol::Http1));
    assert_eq!(inbound("shop/web-0", 9090), Some(Protocol::Http2), "by the name of the container port");
    assert_eq!(inbound("shop/web-1", 9090), Some(Protocol::Detect));
    assert_eq!(inbound("shop/web-1", 7777), Some(Protocol::Opaque));
    assert_eq!(inbound("shop/none", 80), None);
    assert_eq!(inbound("none", 80), None);
}

#[test]
fn a_port_is_told_of_the_routes_of_its_services() {
    let parent = "parentRefs: [{group: '', kind: Service, name: web, port: 80}]";
    let rules = "rules: [{backendRefs: [{name: web, port: 80}]}]";
    let consumer = "parentRefs: [{group: '', kind: Service, name: web, namespace: shop, port: 80}]";
    let tcp = "rules: [{backendRefs: [{name: web, port: 80}]}]";
    for (routes, expected) in [
        (String::new(), false),
        (route("HTTPRoute", "shop/r", &format!("{parent}, {rules}")), true),
        (route("GRPCRoute", "shop/r", &format!("{parent}, {rules}")), true),
        (
            route("HTTPRoute", "shop/r", &format!("parentRefs: [{{group: '', kind: Service, name: web}}], {rules}")),
            true,
        ),
        (
            route(
                "HTTPRoute",
                "shop/r",
                &format!("parentRefs: [{{group: '', kind: Service, name: api, port: 8080}}], {rules}"),
            ),
            false,
        ),
        (route("HTTPRoute", "bank/r", &format!("{consumer}, {rules}")), false),
        (route("TCPRoute", "shop/r", &format!("{parent}, {tcp}")), false),
    ] {
        let (snapshot, _) = snapshot(&routes);
        let has = |port, listed| snapshot.compile_inbound("shop/web-0", port, listed).unwrap().has_request_routes;
        assert_eq!(has(8080, 8080), expected, "{routes}");
        assert_eq!(has(7, 8080), expected, "by the port that is listed: {routes}");
        assert!(!has(7, 7), "{routes}");
    }
}

#[test]
fn a_split_is_compiled() {
    let rules = "rules: [{matches: [{path: {type: PathPrefix, value: /a}, method: GET}], backendRefs: [{name: web, port: 80, weight: 9}, {name: api, port: 8080}], timeouts: {request: 10s, backendRequest: 0s}}]";
    let text = route("HTTPRoute", "shop/r", &format!("{WEB}, {rules}"));
    assert_eq!(seen("", "GET", "/a").0, "default");
    assert_eq!(seen(&text, "GET", "/a/b"), ("9xshop/web:80 1xshop/api:8080".to_owned(), vec![]));
    assert_eq!(seen(&text, "POST", "/a/b").0, "404");
    let (snapshot, _) = snapshot(&text);
    let (policy, _) = snapshot.compile_outbound(&web(80), "bank");
    let rule = &policy.routes.routes()[0].rules[0];
    assert_eq!((rule.timeouts.request.unwrap().as_secs(), rule.timeouts.backend_request), (10, None));
}

/// Rules of one route to `web`, a request, what happens, and every problem.
type Case = (&'static str, &'static str, &'static str, &'static [(Reason, &'static str)]);

#[test]
fn what_is_not_understood_is_contained() {
    use Reason::{BackendNotFound, IncompatibleFilters, InvalidKind, RefNotPermitted, UnsupportedValue};
    let cases: &[Case] = &[
        ("rules: []", "/", "404", &[(UnsupportedValue, "spec.rules")]),
        ("rules: 5", "/", "404", &[(UnsupportedValue, "spec.rules")]),
        ("x: 1", "/", "500", &[(UnsupportedValue, "spec.x")]),
        ("rules: [{}]", "/", "500", &[]),
        (
            "rules: [{retry: {brandNew: 3}, backendRefs: [{name: web, port: 80}]}]",
            "/",
            "1xshop/web:80",
            &[(UnsupportedValue, "spec.rules[0].retry.brandNew")],
        ),
        ("hostnames: [x.com], rules: [{backendRefs: [{name: web, port: 80}]}]", "/", "404", &[]),
        (
            "hostnames: ['x:1'], rules: [{backendRefs: [{name: web, port: 80}]}]",
            "/",
            "404",
            &[(UnsupportedValue, "spec.hostnames[0]")],
        ),
        (
            "hostnames: [web, 'x:1'], rules: [{backendRefs: [{name: web, port: 80}]}]",
            "/",
            "1xshop/web:80",
            &[(UnsupportedValue, "spec.hostnames[1]")],
        ),
        // Matches: the rule is dropped, the others stay.
        (
            "rules: [{matches: [{path: {type: Fuzzy, value: /}}], backendRefs: [{name: web, port: 80}]}]",
            "/",
            "404",
            &[(UnsupportedValue, "spec.rules[0]"), (UnsupportedValue, "spec.rules[0].matches[0].path.type")],
        ),
        (
            "rules: [{matches: [{cookie: x}], backendRefs: [{name: web, port: 80}]}, {backendRefs: [{name: api, port: 8080}]}]",
            "/",
            "1xshop/api:8080",
            &[(UnsupportedValue, "spec.rules[0]"), (UnsupportedValue, "spec.rules[0].matches[0].cookie")],
        ),
        (
            "rules: [{matches: [{method: get}]}]",
            "/",
            "404",
            &[(UnsupportedValue, "spec.rules[0]"), (UnsupportedValue, "spec.rules[0].matches[0].method")],
        ),
        (
            "rules: [{matches: [{headers: [{name: a, value: '(', type: RegularExpression}]}]}]",
            "/",
            "404",
            &[(UnsupportedValue, "spec.rules[0]"), (UnsupportedValue, "spec.rules[0].matches[0].headers[0].value")],
        ),
        (
            "rules: [{matches: [{path: {value: no-slash}}]}]",
            "/",
            "404",
            &[(UnsupportedValue, "spec.rules[0]"), (UnsupportedValue, "spec.rules[0].matches[0].path.value")],
        ),
        // Filters: 500, never skipped.
        (
            "rules: [{filters: [{type: ExternalAuth, externalAuth: {}}], backendRefs: [{name: web, port: 80}]}]",
            "/",
            "1x500",
            &[(UnsupportedValue, "spec.rules[0].filters[0].type")],
        ),
        (
            "rules: [{backendRefs: [{name: web, port: 80, filters: [{type: New}]}, {name: api, port: 8080}]}]",
            "/",
            "1x500 1xshop/api:8080",
            &[(UnsupportedValue, "spec.rules[0].backendRefs[0].filters[0].type")],
        ),
        (
            "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], rename: []}}], backendRefs: [{name: web, port: 80}]}]",
            "/",
            "1x500",
            &[(UnsupportedValue, "spec.rules[0].filters[0].requestHeaderModifier.rename")],
        ),
        (
            "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}, {type: RequestHeaderModifier, requestHeaderModifier: {}}], backendRefs: [{name: web, port: 80}]}]",
            "/",
            "1x500",
            &[(IncompatibleFilters, "spec.rules[0].filters")],
        ),
        // Backends: their share is 500.
        (
            "rules: [{backendRefs: [{name: gone, port: 80}, {name: web, port: 80}]}]",
            "/",
            "1x500 1xshop/web:80",
            &[(BackendNotFound, "spec.rules[0].backendRefs[0]")],
        ),
        (
            "rules: [{backendRefs: [{name: web, port: 99}]}]",
            "/",
            "1x500",
            &[(BackendNotFound, "spec.rules[0].backendRefs[0]")],
        ),
        (
            "rules: [{backendRefs: [{name: web}]}]",
            "/",
            "1x500",
            &[(UnsupportedValue, "spec.rules[0].backendRefs[0].port")],
        ),
        (
            "rules: [{backendRefs: [{name: web, port: 80, weight: 1000001}]}]",
            "/",
            "1x500",
            &[(UnsupportedValue, "spec.rules[0].backendRefs[0].weight")],
        ),
        (
            "rules: [{backendRefs: [{name: web, port: 80, kind: Bucket, group: s3}]}]",
            "/",
            "1x500",
            &[(InvalidKind, "spec.rules[0].backendRefs[0].kind")],
        ),
        (
            "rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]",
            "/",
            "1x500",
            &[(RefNotPermitted, "spec.rules[0].backendRefs[0]")],
        ),
        // Time limits.
        (
            "rules: [{backendRefs: [{name: web, port: 80}], timeouts: {request: 1.5s}}]",
            "/",
            "1xshop/web:80",
            &[(UnsupportedValue, "spec.rules[0].timeouts.request")],
        ),
        (
            "rules: [{backendRefs: [{name: web, port: 80}], timeouts: {request: 1s, backendRequest: 2s}}]",
            "/",
            "1xshop/web:80",
            &[(UnsupportedValue, "spec.rules[0].timeouts.backendRequest")],
        ),
    ];
    for (rules, path, verdict, problems) in cases {
        let found = seen(&route("HTTPRoute", "shop/r", &format!("{WEB}, {rules}")), "GET", path);
        let problems: Vec<_> = problems.iter().map(|(reason, field)| (*reason, (*field).to_owned())).collect();
        assert_eq!((found.0.as_str(), found.1), (*verdict, problems), "{rules}");
    }
}

#[test]
fn a_grant_allows_and_a_parent_needs_none() {
    let to_vault = "rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]";
    let text = route("HTTPRoute", "shop/r", &format!("{WEB}, {to_vault}"));
    let grant = |kind: &str, to: &str| {
        route(
            "ReferenceGrant",
            "bank/g",
            &format!("from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: shop}}], to: [{to}]"),
        )
    };
    let verdict = |grant: &str| seen(&format!("{text}{grant}"), "GET", "/").0;
    assert_eq!(verdict(&grant("HTTPRoute", "{group: '', kind: Service}")), "1xbank/vault:80");
    assert_eq!(verdict(&grant("HTTPRoute", "{group: '', kind: Service, name: vault}")), "1xbank/vault:80");
    assert_eq!(verdict(&grant("HTTPRoute", "{group: '', kind: Service, name: other}")), "1x500");
    assert_eq!(verdict(&grant("GRPCRoute", "{group: '', kind: Service}")), "1x500");
    let consumer = route(
        "HTTPRoute",
        "bank/r",
        &format!("{WEB}, rules: [{{backendRefs: [{{name: web, namespace: shop, port: 80}}]}}]"),
    );
    let (snapshot, problems) = snapshot(&consumer);
    assert_eq!(problems, []);
    assert_eq!(decide(&snapshot.compile_outbound(&web(80), "bank").0, "GET", "/"), "1xshop/web:80");
}

#[test]
fn consumers_come_before_producers_and_only_for_themselves() {
    let producer =
        route("HTTPRoute", "shop/p", &format!("{WEB}, rules: [{{backendRefs: [{{name: api, port: 8080}}]}}]"));
    let consumer = route(
        "HTTPRoute",
        "bank/c",
        &format!(
            "{WEB}, rules: [{{matches: [{{path: {{type: Exact, value: /x}}}}], backendRefs: [{{name: web, namespace: shop, port: 80}}]}}]"
        ),
    );
    let (snapshot, _) = snapshot(&format!("{producer}{consumer}"));
    let verdict = |namespace: &str, path: &str| decide(&snapshot.compile_outbound(&web(80), namespace).0, "GET", path);
    assert_eq!(verdict("shop", "/x"), "1xshop/api:8080");
    assert_eq!(verdict("third", "/x"), "1xshop/api:8080");
    assert_eq!(verdict("bank", "/x"), "1xshop/web:80");
    assert_eq!(verdict("bank", "/y"), "404", "the two groups are never merged");
}

#[test]
fn ports_and_sections_of_parents() {
    let attach = |more: &str| {
        route(
            "HTTPRoute",
            "shop/r",
            &format!("parentRefs: [{{group: '', kind: Service, name: web{more}}}], rules: [{{}}]"),
        )
    };
    for (more, on_80, on_81, problems) in [
        ("", true, true, 0),
        (", port: 80", true, false, 0),
        (", sectionName: grpc", false, true, 0),
        (", port: 80, sectionName: grpc", false, false, 1),
        (", port: 99", false, false, 1),
        (", namespace: bank", false, false, 1),
    ] {
        let (snapshot, found) = snapshot(&attach(more));
        let attached = |port| !snapshot.compile_outbound(&web(port), "shop").0.routes.is_empty();
        assert_eq!((attached(80), attached(81), found.len()), (on_80, on_81, problems), "{more}: {found:?}");
        assert!(found.iter().all(|p| p.reason == Reason::NoMatchingParent));
    }
    let (_, found) = snapshot(&route(
        "HTTPRoute",
        "shop/r",
        "parentRefs: [{name: gw}], rules: [{backendRefs: [{name: gone, port: 1}]}]",
    ));
    assert_eq!(found, [], "a route of a Gateway is another controller's");
    let (_, found) = snapshot(&route("HTTPRoute", "shop/r", "parentRefs: [{kind: Service, name: web}], rules: [{}]"));
    assert_eq!(found[0].field, "spec.parentRefs[0].group");
}

#[test]
fn grpc_displaces_http_on_a_port() {
    let http = route("HTTPRoute", "shop/h", &format!("{WEB}, rules: [{{backendRefs: [{{name: web, port: 80}}]}}]"));
    let grpc = route(
        "GRPCRoute",
        "shop/g",
        "parentRefs: [{group: '', kind: Service, name: web, port: 81}], rules: [{matches: [{method: {service: s.v1, method: Get}}], backendRefs: [{name: web, port: 81}]}]",
    );
    let (snapshot, problems) = snapshot(&format!("{http}{grpc}"));
    let verdict =
        |port, method: &str, path: &str| decide(&snapshot.compile_outbound(&web(port), "shop").0, method, path);
    assert_eq!(verdict(80, "GET", "/"), "1xshop/web:80");
    assert_eq!(verdict(81, "POST", "/s.v1/Get"), "1xshop/web:81");
    assert_eq!(verdict(81, "POST", "/s.v1/Put"), "404");
    let reasons: Vec<_> = problems.iter().map(|p| (p.reason, p.object.name.as_str())).collect();
    assert_eq!(reasons, [(Reason::Conflicted, "h")]);
}

#[test]
fn a_problem_is_one_line_with_its_place() {
    let text = route(
        "HTTPRoute",
        "shop/r",
        &format!("{WEB}, rules: [{{filters: [{{type: New}}], backendRefs: [{{name: web, port: 80}}]}}]"),
    );
    let (_, problems) = snapshot(&text);
    let line = problems[0].to_string();
    assert_eq!(problems[0].severity, Severity::Error);
    assert!(line.starts_with("test.yaml:"), "{line}");
    assert!(
        line.contains(": HTTPRoute shop/r: spec.rules[0].filters[0].type: the filter \"New\" is not supported"),
        "{line}"
    );
    assert!(line.contains("; fix: ") && !line.contains('\n'), "{line}");
    let json = serde_json::to_value(&problems[0]).unwrap();
    assert_eq!((json["severity"].as_str(), json["reason"].as_str()), (Some("error"), Some("UnsupportedValue")));
}

#[test]
fn apply_and_delete_keep_it_up() {
    let text = route("HTTPRoute", "shop/r", &format!("{WEB}, rules: [{{backendRefs: [{{name: late, port: 1}}]}}]"));
    let (mut snapshot, problems) = snapshot(&text);
    assert_eq!(problems.iter().map(|p| p.reason).collect::<Vec<_>>(), [Reason::BackendNotFound]);
    let late = "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: shop}\nspec: {ports: [{port: 1}]}\n";
    assert_eq!(snapshot.apply(&parse_manifests(late, "late.yaml").unwrap()[0]), []);
    assert_eq!(snapshot.problems(), []);
    snapshot.delete("Service", "shop", "late");
    assert_eq!(snapshot.problems().len(), 1);
    snapshot.delete("HTTPRoute", "shop", "r");
    assert_eq!(snapshot.problems(), []);
    assert!(snapshot.compile_outbound(&web(80), "shop").0.routes.is_empty());
}
