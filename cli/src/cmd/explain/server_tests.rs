//! The servers' part of answers, over manifests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mesh_resources::{Options, Snapshot, parse_manifests};

use super::*;
use crate::{authorization::named, cmd::explain::by_objects, output::Style};

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec: {selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test}}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}]
  action: ALLOW
  enforcementLevel: Application
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: front, namespace: clients}}]
    to: [{path: {type: PathPrefix, value: /new}}]
";

fn asked(words: &[&str], from: &str) -> (Explained, Question) {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let question = Question::from_words(&words, HeaderMap::new()).unwrap();
    let all = parse_manifests(MANIFESTS, "f").unwrap();
    let options = Options { meshed_by_label: true, ..Options::default() };
    let mut explained = by_objects(&Snapshot::from_objects(&all, options).0, &question, "clients");
    let client = Client { named: Some(named(from)), namespace: "clients" };
    decide(&mut explained, &Objects::of_manifests(all), &question, client);
    (explained, question)
}

#[test]
fn what_the_server_decides_is_part_of_the_answer() {
    for (words, from, verdict, line) in [
        (
            &["GET", "http://web.shop/old/a"][..],
            "sa/front",
            Some(Verdict::Allowed),
            "let in: AuthorizationPolicy shop/web rule 0",
        ),
        (
            &["GET", "http://web.shop/new"],
            "sa/other",
            Some(Verdict::Closed),
            "closed: AuthorizationPolicy shop/web closes",
        ),
        (
            &["GET", "http://web.shop/b"],
            "sa/front",
            Some(Verdict::Closed),
            "nearest: AuthorizationPolicy shop/web rule 0, the path",
        ),
        (&["tcp://web.shop:80"], "sa/front", Some(Verdict::Closed), "it is about requests, and bytes show none"),
        (&["GET", "http://web.shop/new"], "clients", Some(Verdict::Unknown), "in general: closed but for 1 rule"),
        (&["GET", "http://web.shop/moved"], "sa/front", None, "answered 302"),
        (&["tcp://db.shop:5432"], "sa/front", Some(Verdict::Allowed), "  server    lets everyone in: no policy"),
        (&["GET", "http://empty.shop/"], "sa/front", Some(Verdict::NoPods), "  server    none: there is no pod"),
    ] {
        let (explained, question) = asked(words, from);
        let server = explained.server.as_ref();
        assert_eq!(server.map(|server| server.decided[0].decided.verdict), verdict, "{words:?} {from}");
        let is_refused = verdict == Some(Verdict::Closed);
        assert_eq!(server.is_some_and(Server::is_refused), is_refused, "{words:?} {from}");
        let text = super::super::text::write(&explained, &question, Style::PLAIN);
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
        let is_unnamed = explained.notes.iter().any(|note| note == UNNAMED);
        assert_eq!(is_unnamed, verdict == Some(Verdict::Unknown), "{:?}", explained.notes);
    }
}

#[test]
fn what_was_taken_for_granted_is_noted() {
    let (explained, _) = asked(&["GET", "http://web.shop/new"], "deploy/absent");
    assert!(explained.notes.contains(&"there is no Deployment clients/absent".to_owned()), "{:?}", explained.notes);
    let (explained, _) = asked(&["GET", "http://web.shop/new"], "shop/web");
    assert!(explained.notes.iter().any(|note| note.contains("those of templates")), "{:?}", explained.notes);
}
