//! What routes become: rules that are not understood are contained, backends need grants, and consumers come before
//! producers.

use Reason::{BackendNotFound, IncompatibleFilters, InvalidKind, RefNotPermitted, UnsupportedValue};
use mesh_resources::{Reason, Severity, parse_manifests};

use crate::{WEB, decide, route, seen, snapshot, web};

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

/// What is wrong with a route as a whole.
const WHOLE: &[Case] = &[
    ("rules: []", "/", "404", &[(UnsupportedValue, "spec.rules")]),
    ("rules: 5", "/", "404", &[(UnsupportedValue, "spec.rules")]),
    ("x: 1", "/", "500", &[(UnsupportedValue, "spec"), (UnsupportedValue, "spec.x")]),
    ("rules: [{}]", "/", "500", &[(UnsupportedValue, "spec.rules[0].backendRefs")]),
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
];

/// Matches: the rule is dropped, the others stay.
const MATCHES: &[Case] = &[
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
];

/// Filters: 500, never skipped.
const FILTERS: &[Case] = &[
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
];

/// Backends: their share is 500.
const BACKENDS: &[Case] = &[
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
    ("rules: [{backendRefs: [{name: web}]}]", "/", "1x500", &[(UnsupportedValue, "spec.rules[0].backendRefs[0].port")]),
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
];

/// Time limits.
const LIMITS: &[Case] = &[
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

#[test]
fn what_is_not_understood_is_contained() {
    for (rules, path, verdict, problems) in [WHOLE, MATCHES, FILTERS, BACKENDS, LIMITS].into_iter().flatten() {
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
            &format!(
                "parentRefs: [{{group: '', kind: Service, name: web{more}}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]"
            ),
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
