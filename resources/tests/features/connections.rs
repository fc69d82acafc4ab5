//! What routes for connections (TCPRoute, TLSRoute) become.

use mesh_policy::{BackendTarget, OutboundVerdict, RouteKind, ServiceRef, Target, decide_connection};
use mesh_resources::Snapshot;

use crate::{TO_WEB, compiled};

#[test]
fn routes_for_connections() {
    let decide = |snapshot: &Snapshot, sni: Option<&str>| {
        let service = ServiceRef::new("shop", "web", 80);
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
