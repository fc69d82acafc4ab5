//! What session persistence of rules becomes, and what is told of a Service's session affinity.

use std::time::Duration;

use mesh_policy::SessionCarrier;
use mesh_resources::{Options, Severity, Snapshot, parse_manifests};

use crate::{TO_WEB, is_500_free, rule};

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
