//! Which problems an API server would have refused the object for, which it would not, and where each points.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_resources::{Class, Options, Problem, Snapshot, parse_manifests};

/// The problems of one object by itself.
fn problems(text: &str) -> Vec<Problem> {
    let objects = parse_manifests(text, "f.yaml").unwrap();
    let mut snapshot = Snapshot::new(Options { meshed_by_label: true, ..Options::default() });
    objects.iter().flat_map(|object| snapshot.apply(object)).collect()
}

fn http_route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn rule(rule: &str) -> String {
    http_route(&format!("rules: [{{{rule}}}]"))
}

fn backend(backend: &str) -> String {
    rule(&format!("backendRefs: [{{{backend}}}]"))
}

fn object(kind: &str, rest: &str) -> String {
    let api = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    format!("apiVersion: {api}\nkind: {kind}\n{rest}\n")
}

const META: &str = "metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: x}}";

/// Exactly one thing is wrong that an API server would have refused: at a field, and what.
fn is_refused(text: &str, field: &str, what: &str) {
    let found = problems(text);
    assert!(found.iter().all(|p| !p.to_string().contains('\n')), "{found:?}");
    let schema: Vec<_> = found.iter().filter(|p| p.class == Class::Schema).collect();
    assert_eq!(schema.len(), 1, "{text}{found:?}");
    assert!(schema[0].field.ends_with(field), "{text}{:?}", schema[0]);
    assert!(schema[0].what.contains(what), "{text}{:?}", schema[0]);
}

#[test]
fn what_no_api_server_takes_of_a_route() {
    for (text, field, what) in [
        (backend("name: a, port: 1, weight: -5"), "weight", "weight is -5; it must be 0 to 1000000"),
        (backend("name: a, port: 1, weight: 1000001"), "weight", "weight is 1000001; it must be 0 to 1000000"),
        (backend("name: a, port: 1, weight: 0.5"), "weight", "weight is 0.5; it must be a whole number, 0 to 1000000"),
        (
            backend("name: a, port: 1, weight: ten"),
            "weight",
            "weight is \"ten\"; it must be a whole number, 0 to 1000000",
        ),
        (backend("name: a, port: 0"), "port", "port is 0; it must be 1 to 65535"),
        (backend("name: a, port: 70000"), "port", "port is 70000; it must be 1 to 65535"),
        (backend("name: a"), "port", "a Service needs `port`"),
        (backend("port: 1"), "name", "`name` is required"),
        (http_route("rules: all"), "spec.rules", "rules is \"all\"; it must be a list"),
        (http_route("rules: []"), "spec.rules", "the route has no rule"),
        (http_route("rules: [5]"), "spec.rules[0]", "rules[0] is 5; it must be an object"),
        (http_route("hostnames: ['a:80']"), "spec.hostnames[0]", "each label must be"),
        (http_route("parentRefs: [{kind: Service}]"), "spec.parentRefs[0].name", "`name` is required"),
        (rule("matches: [{path: {value: x}}]"), "path.value", "\"x\" can be no path of a request"),
        (rule("matches: [{path: {type: exact, value: /}}]"), "path.type", "type is \"exact\", which is not known here"),
        (rule("matches: [{method: get}]"), "method", "method is \"get\", which is not known here"),
        (rule("matches: [{headers: [{name: 'a b', value: x}]}]"), "headers[0].name", "\"a b\" is not a header name"),
        (rule("matches: [{queryParams: [{name: q}]}]"), "queryParams[0].value", "`value` is required"),
        (rule("timeouts: {request: 1.5s}"), "timeouts.request", "\"1.5s\" is not a duration"),
        (rule("timeouts: {request: 5}"), "timeouts.request", "request is 5; it must be a text"),
        (rule("timeouts: {request: 1s, backendRequest: 2s}"), "timeouts.backendRequest", "is longer than request"),
        (
            rule("filters: [{type: RequestHeaderModifier}]"),
            "requestHeaderModifier",
            "`requestHeaderModifier` is required",
        ),
        (
            rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a}]}}]"),
            "set[0].value",
            "`value` is required",
        ),
        (backend("name: A_b, port: 1"), "name", "name is \"A_b\", which is not a name of Kubernetes"),
        (backend("name: a, namespace: b.c, port: 1"), "namespace", "which is not a name of Kubernetes"),
        (http_route(&format!("hostnames: [{}]", vec!["a"; 65].join(", "))), "hostnames", "at most 64"),
        (rule(&format!("name: {}", "a".repeat(5000))), "name", "at most 4096"),
        (rule("name: 'a b'"), "rules[0].name", "name is \"a b\""),
    ] {
        is_refused(&text, field, what);
    }
}

#[test]
fn what_no_api_server_takes_of_other_objects() {
    let slice = |rest: &str| object("EndpointSlice", &format!("{META}\n{rest}"));
    let grant = |spec: &str| http_route(spec).replace("kind: HTTPRoute\n", "kind: ReferenceGrant\n");
    let pod = |rest: &str| object("Pod", &format!("{META}\n{rest}"));
    for (text, field, what) in [
        (slice("endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: A}}]"), "targetRef.name", "\"A\""),
        (slice("endpoints: [{addresses: [10.0.0.1], zone: \"a\\n\"}]"), "zone", "control characters"),
        (object("Service", &format!("{META}\nspec: {{ports: [{{port: http}}]}}")), "spec.ports[0].port", "\"http\""),
        (object("Service", &format!("{META}\nspec: {{ports: [{{port: 1, protocol: tcp}}]}}")), "protocol", "\"tcp\""),
        (object("Service", &format!("{META}\nspec: {{clusterIP: nowhere}}")), "spec.clusterIP", "not an IP address"),
        (slice("endpoints: [{addresses: [web]}]"), "endpoints[0].addresses", "no IP address"),
        (
            slice("endpoints: [{addresses: [10.0.0.1], conditions: {ready: 'false'}}]"),
            "endpoints[0].conditions.ready",
            "ready is \"false\"; it must be true or false",
        ),
        (grant("from: [{kind: HTTPRoute, namespace: a}]"), "from[0].group", "`group` is required"),
        (grant("to: [{group: ''}]"), "to[0].kind", "`kind` is required"),
        (slice("ports: [{port: 70000}]"), "ports[0].port", "port is 70000"),
        (pod("spec: {serviceAccountName: 7}"), "spec.serviceAccountName", "is 7; it must be a text"),
        (pod("status: {podIP: 10.0.0.1000}"), "status.podIP", "not an IP address"),
        (
            object("Pod", "metadata: {name: p, labels: {meshctl.dev/inject: true}}"),
            "metadata.labels.meshctl.dev/inject",
            "is true; it must be a text",
        ),
    ] {
        is_refused(&text, field, what);
    }
}

#[test]
fn what_may_be_of_a_newer_api_is_no_matter_of_the_schema() {
    for text in [
        rule("retry: {brandNew: 1}"),
        rule("matches: [{path: {type: Fuzzy, value: /}}]"),
        rule("matches: [{method: QUERY}]"),
        rule("matches: [{cookies: []}]"),
        rule("matches: [{path: {type: RegularExpression, value: '('}}]"),
        rule("matches: [{headers: [{type: Prefix, name: a, value: b}]}]"),
        rule("filters: [{type: ExternalAuth, externalAuth: {}}]"),
        rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {rename: []}}]"),
        backend("name: a, port: 1, kind: Bucket, group: example.com"),
        http_route("hostnames: [10.0.0.1]"),
        http_route("parentRefs: [{kind: Service, name: a}]"),
        object("EndpointSlice", &format!("{META}\naddressType: FQDN")),
        object("Pod", "metadata: {name: p, annotations: {config.meshctl.dev/opaque-ports: x}}"),
    ] {
        let found = problems(&text);
        assert!(!found.is_empty() && found.iter().all(|p| p.class == Class::Status), "{text}{found:?}");
    }
}

#[test]
fn a_problem_points_at_the_line_of_its_field() {
    let text = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: r
spec:
  rules:
  - backendRefs:
    - name: a
      port: 80
      weight: -5
    - name: b
  - timeouts:
      request: soon
    brandNew: 1
";
    let lines = |text: &str| -> Vec<_> {
        problems(text).into_iter().map(|p| (p.source.unwrap().line, p.field, p.effect)).collect()
    };
    let is_500 = "its share of the requests is answered 500";
    let expected = [
        (10, "spec.rules[0].backendRefs[0].weight", is_500),
        (11, "spec.rules[0].backendRefs[1].port", is_500),
        (14, "spec.rules[1].brandNew", ""),
        (12, "spec.rules[1].backendRefs", "every request is answered 500"),
        (13, "spec.rules[1].timeouts.request", "there is no such limit"),
    ];
    assert_eq!(lines(text), expected.map(|(line, field, effect)| (line, field.to_owned(), effect.to_owned())));
    // As other systems write text, and as JSON.
    assert_eq!(lines(&text.replace('\n', "\r\n")), lines(text));
    assert_eq!(lines(&format!("\u{feff}{text}")), lines(text));
    let json = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},
        "spec":{"rules":[{"backendRefs":[{"name":"a","port":80,"weight":-5}]}]}}"#;
    assert_eq!(lines(json)[0].0, 2);
}

#[test]
fn references_point_at_their_line_too() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs:\n\
                \x20 - {group: '', kind: Service, name: gone}\n  rules:\n  - backendRefs:\n    - name: a\n      port: 1\n";
    let (_, found) = Snapshot::from_objects(&parse_manifests(text, "f.yaml").unwrap(), Options::default());
    let places: Vec<_> = found.iter().map(|p| (p.source.as_ref().unwrap().line, p.field.as_str())).collect();
    assert_eq!(places, [(6, "spec.parentRefs[0]"), (9, "spec.rules[0].backendRefs[0]")]);
}

#[test]
fn an_object_that_cannot_be_named_refuses_its_file() {
    for (meta, what) in [
        ("{}", "the object has no `metadata.name`"),
        ("{name: A_b}", "`metadata.name` is \"A_b\""),
        ("{name: a, namespace: b.c}", "`metadata.namespace` is \"b.c\""),
    ] {
        let error = parse_manifests(&object("Service", &format!("metadata: {meta}")), "f.yaml").unwrap_err();
        assert!(error.message.contains(what), "{error}");
    }
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'system:node'}\n";
    assert_eq!(parse_manifests(role, "f.yaml").unwrap().len(), 1, "a kind that has other names");
}

#[test]
fn an_object_that_is_wrong_all_over_is_told_in_few_words() {
    let ports = vec!["{port: 0}"; 1000].join(", ");
    let found = problems(&object("Service", &format!("{META}\nspec: {{ports: [{ports}]}}")));
    assert_eq!(found.len(), 50);
    assert!(found[49].to_string().contains("(and 950 more problems of the object)"), "{}", found[49]);
}
