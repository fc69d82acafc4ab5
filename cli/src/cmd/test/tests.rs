//! Files of tests, and what is told of those that fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use super::*;

const OBJECTS: &str = "
objects:
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: web-v1, namespace: shop}, spec: {ports: [{port: 80}]}}
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata: {name: web, namespace: shop}
  spec:
    parentRefs: [{group: '', kind: Service, name: web}]
    rules:
    - matches: [{path: {value: /old}}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: '1'}], remove: ['y']}}]
      timeouts: {request: 2s}
      backendRefs: [{name: web, port: 80, weight: 3}, {name: web-v1, port: 80}]
    - matches: [{path: {value: /broken}}]
      backendRefs: [{name: absent, port: 80}]
";

fn outcomes(tests: &str) -> Vec<TestOutcome> {
    let suite = Suite::parse(&format!("{OBJECTS}\ntests:\n{tests}"), "t.yaml", Path::new("")).unwrap();
    outcomes_of(&suite, "t.yaml").unwrap()
}

#[test]
fn what_holds_passes() {
    for expect in [
        "{route: shop/web, rule: 0, verdict: forward}",
        "{backends: {web: 75, web-v1: 25}}",
        "{backends: {'shop/web:80': 3, shop/web-v1: 1}}",
        "{filters: [RequestHeaderModifier], sent: {headers: {x: 1, y: null, z: c}, path: '/old/a?b=c'}}",
        "{timeouts: {request: 2s, backendRequest: null}, retry: null}",
    ] {
        let request = "{url: 'http://web.shop/old/a?b=c', headers: {y: b, z: c}}";
        let outcomes = outcomes(&format!("- {{name: n, request: {request}, expect: {expect}}}"));
        assert_eq!(outcomes[0].differences, [], "{expect}");
    }
    let refused = "- {name: n, request: {url: 'http://web.shop/broken'}, expect: {refused: absent, status: 500, backends: {invalid: 1}, problems: [absent]}}";
    assert_eq!(outcomes(refused)[0].differences, []);
}

#[test]
fn what_does_not_hold_is_told_field_by_field() {
    let request = "{url: 'http://web.shop/old'}";
    for (expect, field, expected, found) in [
        ("{route: shop/other}", "route", "shop/other", "shop/web"),
        ("{route: null}", "route", "none", "shop/web"),
        ("{rule: 1}", "rule", "1", "0"),
        ("{rule: named}", "rule", "named", "none"),
        (
            "{backends: {web: 50, web-v1: 50}}",
            "backends",
            "web 50 %, web-v1 50 %",
            "shop/web:80 75 %, shop/web-v1:80 25 %",
        ),
        ("{backends: {web: 1}}", "backends", "web 100 %", "shop/web:80 75 %, shop/web-v1:80 25 %"),
        ("{redirect: 'http://x/'}", "redirect", "http://x/", "none"),
        ("{status: 404}", "status", "404", "none"),
        ("{filters: []}", "filters", "", "RequestHeaderModifier"),
        ("{sent: {headers: {x: 2}}}", "sent.headers.x", "2", "1"),
        ("{timeouts: {request: 3s}}", "timeouts.request", "\"3s\"", "\"2s\""),
        ("{retry: {attempts: 2}}", "retry", "{\"attempts\":2}", "none"),
        ("{refused: absent}", "refused", "absent", "it is served (forward)"),
        ("{mirrors: {web: 10}}", "mirrors", "web 10 %", "none"),
    ] {
        let outcome = outcomes(&format!("- {{name: n, request: {request}, expect: {expect}}}")).remove(0);
        let seen: Vec<_> = outcome.differences.iter().map(|d| (&*d.field, &*d.expected, &*d.found)).collect();
        assert_eq!(seen, [(field, expected, found)], "{expect}");
    }
}

#[test]
fn a_failure_says_how_it_came_about_for_people_and_for_ci() {
    let tests = "- {name: a < b, request: {url: 'http://web.shop/broken'}, expect: {rule: 0}}\n- {name: fine, request: {url: 'http://web.shop/old'}, expect: {}}";
    let outcomes = outcomes(tests);
    let message = text(&outcomes[0], Style::PLAIN);
    assert!(message.starts_with("FAIL  a < b (t.yaml)\n      GET http://web.shop:80/broken, for clients in default\n      rule\n        expected 0\n        but is   1\n"), "{message}");
    assert!(message.contains("HTTPRoute shop/web rule 1 matched: path under \"/broken\""), "{message}");
    assert_eq!(text(&outcomes[1], Style::PLAIN), "ok    fine");
    let xml = junit::report(&outcomes);
    assert!(xml.contains("<testsuites tests=\"2\" failures=\"1\">"), "{xml}");
    assert!(
        xml.contains(
            "<testcase classname=\"t.yaml\" name=\"a &lt; b\">\n      <failure message=\"not as expected: rule\">"
        ),
        "{xml}"
    );
    assert!(xml.contains("name=\"fine\"/>"), "{xml}");
}

#[test]
fn files_that_are_not_understood_are_named() {
    for (text, message) in [
        ("tests: []", "it has no tests"),
        ("tests: [{name: n, request: {url: a}, expect: {ruote: a/b}}]", "t.yaml: "),
        ("tests: [{name: n, request: {url: a}, expect: {verdict: yes-please}}]", "there is no verdict"),
        ("objects: [{kind: Service}]\ntests: [{name: n, request: {url: a}, expect: {}}]", "objects[0]"),
    ] {
        let error = format!("{:#}", Suite::parse(text, "t.yaml", Path::new("")).unwrap_err());
        assert!(error.contains(message), "{error}");
    }
    let suite = Suite::parse("tests: [{name: n, request: {url: 'ftp://x'}, expect: {}}]", "t.yaml", Path::new(""));
    let error = format!("{:#}", outcomes_of(&suite.unwrap(), "t.yaml").unwrap_err());
    assert!(error.contains("t.yaml: test \"n\"") && error.contains("use http"), "{error}");
}
