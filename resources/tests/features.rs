//! What filters, retries, sessions and routes for connections become: one table a feature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use http::Method;
use mesh_policy::{
    BackendTarget, Filter, OutboundVerdict, Route, RouteKind, Rule, ServiceRef, SessionCarrier, Target,
    decide_connection,
};
use mesh_resources::{Options, Problem, Reason, Severity, Snapshot, parse_manifests};

const WORLD: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {ports: [{port: 80}]}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RetryPolicy
metadata: {name: p, namespace: shop}
spec: {attempts: 4, codes: [503], grpcCodes: [Unavailable], timeout: 9s, perTryTimeout: 3s}
";

fn compiled(kind: &str, spec: &str) -> (Snapshot, Vec<Arc<Route>>, Vec<Problem>) {
    let text = format!(
        "{WORLD}---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], {spec}}}\n"
    );
    let (snapshot, problems) = Snapshot::from_objects(&parse_manifests(&text, "f").unwrap(), Options::default());
    let service = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
    let routes = snapshot.compile_outbound(&Target::Service(service), "shop").0.routes.routes().to_vec();
    (snapshot, routes, problems)
}

/// The one rule of a route, and what is wrong with it.
fn rule(kind: &str, rule: &str) -> (Rule, Vec<(Reason, String)>) {
    let (_, routes, problems) = compiled(kind, &format!("rules: [{{{rule}}}]"));
    (routes[0].rules[0].clone(), problems.into_iter().map(|p| (p.reason, p.field)).collect())
}

const TO_WEB: &str = "backendRefs: [{name: web, port: 80}]";

/// Whether all of a rule's requests are answered 500.
fn is_500(rule: &Rule) -> bool {
    let bad = |b: &mesh_policy::Backend| matches!(b.target, BackendTarget::Invalid { .. });
    rule.filters.is_empty() && rule.backends.iter().all(bad)
}

#[test]
fn redirects_and_rewrites() {
    let redirect = |body: &str| {
        let (rule, problems) =
            rule("HTTPRoute", &format!("filters: [{{type: RequestRedirect, requestRedirect: {{{body}}}}}]"));
        assert_eq!(problems, [], "{body}");
        match &rule.filters[..] {
            [Filter::Redirect(redirect)] => format!(
                "{} {:?} {:?} {:?} {:?}",
                redirect.status, redirect.scheme, redirect.hostname, redirect.port, redirect.path
            ),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(redirect(""), "302 None None None None");
    assert_eq!(
        redirect(
            "scheme: https, hostname: a.b, port: 8443, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /x}"
        ),
        r#"308 Some("https") Some("a.b") Some(8443) Some(Full("/x"))"#
    );
    for code in [301, 302, 303, 307] {
        assert!(redirect(&format!("statusCode: {code}")).starts_with(&code.to_string()));
    }
    let (rule, problems) = rule(
        "HTTPRoute",
        &format!(
            "matches: [{{path: {{value: /a}}}}], filters: [{{type: URLRewrite, urlRewrite: {{hostname: x.y, path: {{type: ReplacePrefixMatch, replacePrefixMatch: ''}}}}}}], {TO_WEB}"
        ),
    );
    assert_eq!(problems, []);
    let Filter::Rewrite(rewrite) = &rule.filters[0] else { panic!("{rule:?}") };
    assert_eq!(format!("{:?} {:?}", rewrite.hostname, rewrite.path), r#"Some("x.y") Some(Prefix(""))"#);
}

#[test]
fn filters_that_cannot_be_applied_are_answered_500() {
    use Reason::{BackendNotFound, IncompatibleFilters, InvalidKind, UnsupportedValue};
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {}}";
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}";
    let cors = |body: &str| format!("filters: [{{type: CORS, cors: {{{body}}}}}]");
    let path = |body: &str| format!("filters: [{{type: URLRewrite, urlRewrite: {{path: {{{body}}}}}}}]");
    let goto = |body: &str| format!("filters: [{{type: RequestRedirect, requestRedirect: {{{body}}}}}]");
    let mirror = |body: &str| {
        format!("filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: web, port: 80}}, {body}}}}}]")
    };
    let extension = |body: &str| format!("filters: [{{type: ExtensionRef, extensionRef: {{{body}}}}}]");
    let body = "filters[0]";
    for (kind, text, reason, field) in [
        ("HTTPRoute", format!("filters: [{redirect}]"), IncompatibleFilters, "backendRefs"),
        ("HTTPRoute", format!("filters: [{redirect}, {rewrite}]"), IncompatibleFilters, "filters"),
        ("HTTPRoute", format!("filters: [{rewrite}, {rewrite}]"), IncompatibleFilters, "filters"),
        ("HTTPRoute", format!("filters: [{redirect}, {redirect}]"), IncompatibleFilters, "filters"),
        (
            "HTTPRoute",
            "filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]".to_owned(),
            IncompatibleFilters,
            "filters",
        ),
        (
            "HTTPRoute",
            format!("matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{prefix}]"),
            UnsupportedValue,
            body,
        ),
        (
            "HTTPRoute",
            format!("matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}], filters: [{prefix}]"),
            UnsupportedValue,
            body,
        ),
        ("HTTPRoute", path("type: ReplaceFullPath"), UnsupportedValue, "filters[0].urlRewrite.path.replaceFullPath"),
        (
            "HTTPRoute",
            path("type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b"),
            UnsupportedValue,
            "filters[0].urlRewrite.path.replacePrefixMatch",
        ),
        (
            "HTTPRoute",
            path("type: ReplaceFullPath, replaceFullPath: '/a?b'"),
            UnsupportedValue,
            "filters[0].urlRewrite.path.replaceFullPath",
        ),
        ("HTTPRoute", path("type: ReplaceSuffix"), UnsupportedValue, "filters[0].urlRewrite.path.type"),
        ("HTTPRoute", goto("statusCode: 304"), UnsupportedValue, "filters[0].requestRedirect.statusCode"),
        ("HTTPRoute", goto("scheme: ftp"), UnsupportedValue, "filters[0].requestRedirect.scheme"),
        ("HTTPRoute", goto("hostname: '*.a'"), UnsupportedValue, "filters[0].requestRedirect.hostname"),
        ("HTTPRoute", goto("port: 0"), UnsupportedValue, "filters[0].requestRedirect.port"),
        ("HTTPRoute", cors("allowOrigins: ['*', 'http://a']"), UnsupportedValue, "filters[0].cors.allowOrigins"),
        ("HTTPRoute", cors("allowOrigins: ['ftp://a']"), UnsupportedValue, "filters[0].cors.allowOrigins[0]"),
        ("HTTPRoute", cors("allowMethods: ['*', GET]"), UnsupportedValue, "filters[0].cors.allowMethods"),
        ("HTTPRoute", cors("allowMethods: [get]"), UnsupportedValue, "filters[0].cors.allowMethods[0]"),
        ("HTTPRoute", cors("allowHeaders: ['a b']"), UnsupportedValue, "filters[0].cors.allowHeaders[0]"),
        ("HTTPRoute", cors("maxAge: 0"), UnsupportedValue, "filters[0].cors.maxAge"),
        (
            "HTTPRoute",
            mirror("percent: 5, fraction: {numerator: 1}"),
            UnsupportedValue,
            "filters[0].requestMirror.fraction",
        ),
        ("HTTPRoute", mirror("percent: 101"), UnsupportedValue, "filters[0].requestMirror.percent"),
        (
            "HTTPRoute",
            mirror("fraction: {numerator: 4, denominator: 3}"),
            UnsupportedValue,
            "filters[0].requestMirror.fraction.numerator",
        ),
        (
            "HTTPRoute",
            mirror("fraction: {numerator: 0, denominator: 0}"),
            UnsupportedValue,
            "filters[0].requestMirror.fraction.denominator",
        ),
        ("HTTPRoute", extension("group: x.y, kind: Magic, name: a"), InvalidKind, "filters[0].extensionRef.kind"),
        (
            "HTTPRoute",
            extension("group: policy.meshctl.dev, kind: RetryPolicy, name: gone"),
            BackendNotFound,
            "filters[0].extensionRef",
        ),
        ("GRPCRoute", format!("filters: [{rewrite}]"), UnsupportedValue, "filters[0].type"),
        ("GRPCRoute", "filters: [{type: CORS, cors: {}}]".to_owned(), UnsupportedValue, "filters[0].type"),
    ] {
        let (rule, problems) = rule(kind, &format!("{text}, {TO_WEB}"));
        let expected = (reason, format!("spec.rules[0].{field}"));
        if text.contains("requestRedirect: {") && problems.len() == 2 {
            assert!(problems.contains(&expected), "{text}: {problems:?}");
        } else {
            assert_eq!(problems, [expected], "{text}");
        }
        assert!(is_500(&rule), "{text}: {rule:?}");
    }
    let (rule, problems) = rule("HTTPRoute", &format!("matches: [{{method: GET}}], filters: [{prefix}], {TO_WEB}"));
    assert_eq!((problems, is_500(&rule)), (vec![], false), "without a path the match is the prefix /");
    let on_backend = format!(
        "matches: [{{path: {{type: Exact, value: /a}}}}], backendRefs: [{{name: web, port: 80, filters: [{prefix}]}}]"
    );
    let (rule, problems) = self::rule("HTTPRoute", &on_backend);
    assert_eq!(problems, [(UnsupportedValue, "spec.rules[0].backendRefs[0].filters[0]".to_owned())]);
    assert!(is_500(&rule));
}

#[test]
fn what_all_backends_answer_alike_is_their_rules() {
    let backend =
        |weight: u32, filters: &str| format!("{{name: web, port: 80, weight: {weight}, filters: [{filters}]}}");
    let redirect = "{type: RequestRedirect, requestRedirect: {statusCode: 307}}";
    let cors = "{type: CORS, cors: {allowOrigins: ['*']}}";
    let rule = |backends: &[String]| rule("HTTPRoute", &format!("backendRefs: [{}]", backends.join(", ")));
    let (one, problems) = rule(&[backend(1, redirect)]);
    assert!(problems.is_empty() && matches!(&one.filters[..], [Filter::Redirect(to)] if to.status == 307), "{one:?}");
    let (both, problems) = rule(&[backend(1, cors), backend(3, cors), backend(0, "")]);
    assert!(problems.is_empty() && matches!(&both.filters[..], [Filter::Cors(_)]), "{both:?}");
    assert!(both.backends.iter().all(|backend| backend.filters.is_empty()) && is_500_free(&both.backends));
    let (some, problems) = rule(&[backend(1, redirect), backend(1, "")]);
    assert!(problems.is_empty() && some.filters.is_empty() && is_500_free(&some.backends), "{some:?}");
    assert!(matches!(&some.backends[0].filters[..], [Filter::Redirect(to)] if to.status == 307), "{some:?}");
}

#[test]
fn names_of_rules_are_unique() {
    let rules = format!("rules: [{{name: a, {TO_WEB}}}, {{name: b, {TO_WEB}}}, {{name: a, {TO_WEB}}}, {{{TO_WEB}}}]");
    let (_, routes, problems) = compiled("HTTPRoute", &rules);
    assert_eq!(routes[0].rules.len(), 4);
    assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["spec.rules[2].name"]);
    assert!(problems[0].to_string().contains("rules[0] has this name already"), "{}", problems[0]);
}

#[test]
fn mirrors() {
    let mirror = |kind: &str, backend: &str, part: &str| {
        let text =
            format!("filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{{backend}}}{part}}}}}], {TO_WEB}");
        let (rule, problems) = rule(kind, &text);
        assert!(matches!(rule.backends[0].target, BackendTarget::Service(_)), "the requests themselves go on: {text}");
        let [Filter::Mirror(mirror)] = &rule.filters[..] else { panic!("{rule:?}") };
        let target = match &mirror.target {
            BackendTarget::Service(service) => service.to_string(),
            BackendTarget::Invalid { .. } => "invalid".to_owned(),
        };
        let reasons: Vec<_> = problems.into_iter().map(|(reason, _)| reason).collect();
        (format!("{target} {}/{}", mirror.numerator, mirror.denominator), reasons)
    };
    let web = "name: web, port: 80";
    assert_eq!(mirror("HTTPRoute", web, ""), ("shop/web:80 100/100".to_owned(), vec![]));
    assert_eq!(mirror("GRPCRoute", web, ", percent: 0"), ("shop/web:80 0/100".to_owned(), vec![]));
    let fraction = ", fraction: {numerator: 1, denominator: 3}";
    assert_eq!(mirror("HTTPRoute", web, fraction), ("shop/web:80 1/3".to_owned(), vec![]));
    for (backend, reason) in [
        ("name: gone, port: 80", Reason::BackendNotFound),
        ("name: web, port: 81", Reason::BackendNotFound),
        ("name: vault, namespace: bank, port: 80", Reason::RefNotPermitted),
        ("name: b, kind: Bucket, group: x.y", Reason::InvalidKind),
        ("name: web", Reason::UnsupportedValue),
    ] {
        assert_eq!(mirror("HTTPRoute", backend, ""), ("invalid 100/100".to_owned(), vec![reason]), "{backend}");
    }
}

#[test]
fn cors() {
    let body = "allowOrigins: ['https://*.a.com', 'http://b.com:8080'], allowCredentials: true, allowMethods: [PUT, DELETE], allowHeaders: ['*'], exposeHeaders: [x-a, X-B], maxAge: 9";
    let (rule, problems) = rule("HTTPRoute", &format!("filters: [{{type: CORS, cors: {{{body}}}}}], {TO_WEB}"));
    assert_eq!(problems, []);
    let [Filter::Cors(cors)] = &rule.filters[..] else { panic!("{rule:?}") };
    assert!(cors.allow_origins[0].matches("https://x.y.a.com") && cors.allow_origins[1].matches("http://b.com:8080"));
    assert_eq!(
        format!(
            "{} {} {:?} {:?} {:?}",
            cors.allow_credentials, cors.max_age, cors.allow_methods, cors.allow_headers, cors.expose_headers
        ),
        r#"true 9 Listed("PUT, DELETE") Any Listed("x-a, X-B")"#
    );
    let (rule, _) = self::rule("HTTPRoute", &format!("filters: [{{type: CORS, cors: {{}}}}], {TO_WEB}"));
    let [Filter::Cors(cors)] = &rule.filters[..] else { panic!("{rule:?}") };
    assert_eq!((cors.max_age, cors.allow_origins.len(), cors.allow_credentials), (5, 0, false));
}

#[test]
fn retries() {
    let (first, problems) =
        rule("HTTPRoute", &format!("retry: {{codes: [503, 500], attempts: 2, backoff: 2s}}, {TO_WEB}"));
    let retry = first.retry.unwrap();
    assert_eq!((problems, retry.statuses, retry.attempts), (vec![], vec![500, 503], 2));
    assert_eq!((retry.backoff, retry.max_backoff), (Duration::from_secs(2), Duration::from_secs(2)));
    assert!(retry.on_no_response && !retry.methods.include(&Method::POST));
    let retry = rule("HTTPRoute", &format!("retry: {{}}, {TO_WEB}")).0.retry.unwrap();
    assert_eq!((retry.attempts, retry.backoff), (1, Duration::from_millis(25)));
    assert_eq!(rule("HTTPRoute", TO_WEB).0.retry, None);
    // v1.7: an explicit zero switches them off.
    let (none, problems) = rule("HTTPRoute", &format!("retry: {{attempts: 0}}, {TO_WEB}"));
    assert_eq!((none.retry.unwrap().attempts, problems.len()), (0, 0));
    let (rule_, problems) = rule("HTTPRoute", &format!("retry: {{codes: [200], attempts: 5000}}, {TO_WEB}"));
    let fields: Vec<_> = problems.iter().map(|(_, field)| field.as_str()).collect();
    assert_eq!(fields, ["spec.rules[0].retry.attempts", "spec.rules[0].retry.codes[0]"]);
    let retry = rule_.retry.unwrap();
    assert_eq!((retry.attempts, retry.statuses.len(), is_500_free(&rule_.backends)), (100, 0, true));
    let (_, problems) = rule("GRPCRoute", &format!("retry: {{}}, {TO_WEB}"));
    assert_eq!(problems, [(Reason::UnsupportedValue, "spec.rules[0].retry".to_owned())]);
}

fn is_500_free(backends: &[mesh_policy::Backend]) -> bool {
    backends.iter().all(|backend| matches!(backend.target, BackendTarget::Service(_)))
}

const POLICY: &str =
    "filters: [{type: ExtensionRef, extensionRef: {group: policy.meshctl.dev, kind: RetryPolicy, name: p}}]";

#[test]
fn a_retry_policy_is_for_its_rule() {
    let (http, problems) = rule("HTTPRoute", &format!("{POLICY}, {TO_WEB}"));
    assert_eq!(problems, []);
    let seconds = |rule: &Rule| {
        let limits = [rule.timeouts.request, rule.timeouts.backend_request];
        limits.map(|limit| limit.map(|limit| limit.as_secs()))
    };
    assert_eq!((http.filters.len(), seconds(&http)), (0, [Some(9), Some(3)]));
    let retry = http.retry.unwrap();
    assert_eq!((retry.attempts, retry.methods.include(&Method::POST)), (4, false));
    let (grpc, _) = rule("GRPCRoute", &format!("{POLICY}, {TO_WEB}"));
    assert!(grpc.retry.unwrap().methods.include(&Method::POST));
    // What the route says itself goes first, also that there is no limit.
    let (own, _) = rule("HTTPRoute", &format!("{POLICY}, timeouts: {{request: 2s}}, {TO_WEB}"));
    assert_eq!(seconds(&own), [Some(2), Some(2)], "no attempt outlasts its request");
    let (none, _) = rule("HTTPRoute", &format!("{POLICY}, timeouts: {{request: 0s}}, {TO_WEB}"));
    assert_eq!(seconds(&none), [None, Some(3)]);
    let (both, problems) = rule("HTTPRoute", &format!("{POLICY}, retry: {{attempts: 9}}, {TO_WEB}"));
    assert_eq!(both.retry.unwrap().attempts, 4);
    assert_eq!(problems, [(Reason::UnsupportedValue, "spec.rules[0].retry".to_owned())]);
}

#[test]
fn a_change_of_a_retry_policy_touches_policies() {
    let (mut snapshot, ..) = compiled("HTTPRoute", &format!("rules: [{{{POLICY}, {TO_WEB}}}]"));
    snapshot.take_touched();
    let policy = |attempts: u32| {
        let text = format!(
            "apiVersion: policy.meshctl.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{attempts: {attempts}}}\n"
        );
        parse_manifests(&text, "p").unwrap().remove(0)
    };
    snapshot.apply(&policy(5));
    assert!(!snapshot.take_touched().policies.is_empty());
    snapshot.apply(&policy(5));
    assert!(snapshot.take_touched().is_empty());
    assert_eq!(snapshot.keys_of("RetryPolicy").len(), 1);
    snapshot.delete("RetryPolicy", "shop", "p");
    assert!(!snapshot.take_touched().policies.is_empty());
    assert_eq!(snapshot.problems()[0].reason, Reason::BackendNotFound);
}

#[test]
fn sessions() {
    let session = |kind: &str, body: &str| {
        let (rule, problems) = rule(kind, &format!("sessionPersistence: {{{body}}}, {TO_WEB}"));
        assert!(is_500_free(&rule.backends));
        (
            rule.session,
            problems
                .into_iter()
                .map(|(_, field)| field.replace("spec.rules[0].sessionPersistence.", ""))
                .collect::<Vec<_>>(),
        )
    };
    let (plain, problems) = session("HTTPRoute", "");
    let plain = plain.unwrap();
    assert_eq!((problems.len(), plain.carrier, plain.absolute_timeout), (0, SessionCarrier::SessionCookie, None));
    assert!(plain.name.starts_with("session-") && plain.name.len() == 16, "{}", plain.name);
    assert_eq!(session("HTTPRoute", "").0.unwrap().name, plain.name, "the same each time");
    assert_ne!(session("GRPCRoute", "").0.unwrap().name, plain.name, "another for another rule");
    let (full, _) =
        session("GRPCRoute", "sessionName: S_1, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}");
    let full = full.unwrap();
    assert_eq!((&*full.name, full.carrier), ("S_1", SessionCarrier::PermanentCookie));
    assert_eq!(full.absolute_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(session("HTTPRoute", "type: Header").0.unwrap().carrier, SessionCarrier::Header);
    for (body, field) in [
        ("cookieConfig: {lifetimeType: Permanent}", "absoluteTimeout"),
        ("type: Header, cookieConfig: {lifetimeType: Session}", "cookieConfig"),
        ("type: Ticket", "type"),
        ("sessionName: 'a b'", "sessionName"),
        ("type: Header, sessionName: Mesh-x", "sessionName"),
        ("absoluteTimeout: soon", "absoluteTimeout"),
        ("cookieConfig: {lifetimeType: Ever}", "cookieConfig.lifetimeType"),
    ] {
        assert_eq!(session("HTTPRoute", body), (None, vec![field.to_owned()]), "{body}");
    }
    // As v1.7 of the Gateway API has it.
    let found = |body: &str| {
        let (session, problems) = session("HTTPRoute", body);
        assert!(problems.is_empty(), "{body}: {problems:?}");
        let session = session.unwrap();
        assert_eq!(session.keeps_backend, !body.contains("cookie:") && !body.contains("header:"), "{body}");
        (session.name.to_string(), session.carrier, session.path.map(String::from))
    };
    let (cookie, permanent) = (SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie);
    let everywhere = || Some("/".to_owned());
    for (body, expected) in [
        ("cookie: {name: sid}", ("sid", cookie, everywhere())),
        ("cookie: {name: sid, path: /a}", ("sid", cookie, Some("/a".to_owned()))),
        ("absoluteTimeout: 1h, cookie: {name: sid, lifetimeType: Permanent}", ("sid", permanent, everywhere())),
        ("type: Header, header: {name: x-sid}", ("x-sid", SessionCarrier::Header, None)),
        ("sessionName: sid", ("sid", cookie, None)),
    ] {
        let (name, carrier, path) = expected;
        assert_eq!(found(body), (name.to_owned(), carrier, path), "{body}");
    }
    assert_eq!(plain.path.as_deref(), Some("/"));
    for (body, field) in [
        ("type: Header, header: {}", "header.name"),
        ("header: {name: x-sid}", "header"),
        ("type: Header, cookie: {name: a}", "cookie"),
        ("cookie: {name: 'a;b'}", "cookie.name"),
        ("cookie: {name: a, path: 'a'}", "cookie.path"),
        ("cookie: {name: a, path: '/;x'}", "cookie.path"),
        ("cookie: {lifetimeType: Permanent}", "absoluteTimeout"),
    ] {
        assert_eq!(session("HTTPRoute", body), (None, vec![field.to_owned()]), "{body}");
    }
    let (old, problems) = session("HTTPRoute", "idleTimeout: 5m");
    assert_eq!((old.is_some(), problems), (true, vec!["idleTimeout".to_owned()]));
}

#[test]
fn routes_for_connections() {
    let decide = |snapshot: &Snapshot, sni: Option<&str>| {
        let service = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
        let (policy, _) = snapshot.compile_outbound(&Target::Service(service), "shop");
        let decision = decide_connection(&policy, sni, &mut ());
        match decision.verdict {
            OutboundVerdict::Forward(rule) => rule
                .backends
                .iter()
                .map(|b| {
                    format!("{}x{}", b.weight, if matches!(b.target, BackendTarget::Service(_)) { "ok" } else { "bad" })
                })
                .collect::<Vec<_>>()
                .join(" "),
            other => other.as_str().to_owned(),
        }
    };
    let rules = "rules: [{backendRefs: [{name: web, port: 80, weight: 3}, {name: gone, port: 80}]}]";
    let (tls, routes, problems) = compiled("TLSRoute", &format!("hostnames: [a.com, '*.b.com'], {rules}"));
    assert_eq!(routes[0].meta.kind, RouteKind::Tls);
    assert_eq!(
        problems.iter().map(|p| p.effect.as_str()).collect::<Vec<_>>(),
        ["its share of the connections is closed"]
    );
    assert_eq!(
        [Some("a.com"), Some("x.b.com"), Some("c.com"), None].map(|sni| decide(&tls, sni)),
        ["3xok 1xbad", "3xok 1xbad", "not-found", "not-found"]
    );
    let (tcp, ..) = compiled("TCPRoute", rules);
    assert_eq!(decide(&tcp, None), "3xok 1xbad");
    let names: Vec<_> = (0..1024).map(|i| format!("h{i}.example.com")).collect();
    let (_, routes, problems) =
        compiled("TLSRoute", &format!("hostnames: [{}], rules: [{{{TO_WEB}}}]", names.join(", ")));
    assert_eq!((routes[0].hostnames.len(), problems.len()), (1024, 0));
    for (kind, spec, field, verdict) in [
        ("TCPRoute", format!("hostnames: [a.com], rules: [{{{TO_WEB}}}]"), "spec.hostnames", "1xok"),
        ("TCPRoute", "rules: [{}]".to_owned(), "spec.rules[0].backendRefs", "no-backends"),
        ("TLSRoute", "hostnames: [a.com], rules: []".to_owned(), "spec.rules", "not-found"),
        ("TLSRoute", "hostnames: [a.com]".to_owned(), "spec.rules", "not-found"),
        ("TCPRoute", format!("rules: [{{matches: [{{}}], {TO_WEB}}}]"), "spec.rules[0].matches", "1xok"),
        ("TLSRoute", format!("hostnames: ['a:1'], rules: [{{{TO_WEB}}}]"), "spec.hostnames[0]", "not-found"),
        (
            "TLSRoute",
            format!("hostnames: [{}, one.more], rules: [{{{TO_WEB}}}]", names.join(", ")),
            "spec.hostnames",
            "not-found",
        ),
    ] {
        let (snapshot, _, problems) = compiled(kind, &spec);
        assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), [field], "{spec}");
        assert_eq!(decide(&snapshot, Some("a.com")), verdict, "{spec}");
    }
}

#[test]
fn a_session_affinity_that_sidecars_do_not_keep_is_told() {
    let told = |affinity: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: sticky, namespace: shop}}\nspec:\n  {affinity}\n  ports: [{{port: 80}}]\n"
        );
        let (snapshot, problems) = Snapshot::from_objects(&parse_manifests(&text, "f").unwrap(), Options::default());
        assert_eq!(snapshot.services.len(), 1, "the Service is in force all the same");
        problems
    };
    let [problem] = &told("sessionAffinity: ClientIP")[..] else { panic!() };
    assert_eq!((problem.severity, problem.field.as_str()), (Severity::Warning, "spec.sessionAffinity"));
    assert_eq!(problem.source.as_ref().map(|source| source.line), Some(5));
    assert!(problem.what.contains("ClientIP is not kept") && problem.fix.contains("sessionPersistence"), "{problem}");
    for nothing in ["sessionAffinity: None", "sessionAffinity: null", "type: ClusterIP"] {
        assert_eq!(told(nothing), [], "{nothing}");
    }
}
