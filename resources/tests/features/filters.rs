//! What filters become, of rules and of backends: redirects, rewrites, mirrors and CORS, and 500 where one cannot be
//! applied.

use Reason::{BackendNotFound, IncompatibleFilters, InvalidKind, UnsupportedValue};
use mesh_policy::{BackendTarget, Filter};
use mesh_resources::Reason;

use crate::{TO_WEB, is_500, is_500_free, rule};

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

/// A rule with these filters is answered 500, and told with a reason at a field.
fn is_answered_500(kind: &str, text: &str, reason: Reason, field: &str) {
    let (rule, problems) = rule(kind, &format!("{text}, {TO_WEB}"));
    let expected = (reason, format!("spec.rules[0].{field}"));
    if text.contains("requestRedirect: {") && problems.len() == 2 {
        assert!(problems.contains(&expected), "{text}: {problems:?}");
    } else {
        assert_eq!(problems, [expected], "{text}");
    }
    assert!(is_500(&rule), "{text}: {rule:?}");
}

#[test]
fn filters_that_cannot_be_combined_are_answered_500() {
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {}}";
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}";
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
        ("GRPCRoute", format!("filters: [{rewrite}]"), UnsupportedValue, "filters[0].type"),
        ("GRPCRoute", "filters: [{type: CORS, cors: {}}]".to_owned(), UnsupportedValue, "filters[0].type"),
    ] {
        is_answered_500(kind, &text, reason, field);
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
fn rewrites_and_redirects_that_cannot_be_applied_are_answered_500() {
    let path = |body: &str| format!("filters: [{{type: URLRewrite, urlRewrite: {{path: {{{body}}}}}}}]");
    let goto = |body: &str| format!("filters: [{{type: RequestRedirect, requestRedirect: {{{body}}}}}]");
    for (kind, text, reason, field) in [
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
    ] {
        is_answered_500(kind, &text, reason, field);
    }
}

#[test]
fn other_filters_that_cannot_be_applied_are_answered_500() {
    let cors = |body: &str| format!("filters: [{{type: CORS, cors: {{{body}}}}}]");
    let mirror = |body: &str| {
        format!("filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: web, port: 80}}, {body}}}}}]")
    };
    let extension = |body: &str| format!("filters: [{{type: ExtensionRef, extensionRef: {{{body}}}}}]");
    for (kind, text, reason, field) in [
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
    ] {
        is_answered_500(kind, &text, reason, field);
    }
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
