//! Sources that come, change, break and go; objects that are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use mesh_resources::parse_manifests;

fn service(name: &str, port: u16, file: &str) -> Vec<Object> {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}"
    );
    parse_manifests(&text, file).unwrap()
}

fn index() -> (Index, watch::Receiver<Arc<Published>>) {
    Index::new(Options { meshed_by_label: true, ..Options::default() }, Metrics::new())
}

fn knows(rx: &watch::Receiver<Arc<Published>>, target: &str) -> bool {
    rx.borrow().snapshot.resolve(target, "shop").is_some()
}

#[test]
fn sources_come_change_break_and_go() {
    let (mut index, rx) = index();
    let (a, b): (Arc<str>, Arc<str>) = ("a.yaml".into(), "b.yaml".into());
    index.apply(&a, service("web", 80, "a.yaml"));
    index.apply(&b, service("db", 5432, "b.yaml"));
    assert!(index.publish());
    assert!(knows(&rx, "web:80") && knows(&rx, "db:5432"));
    index.apply(&a, service("web", 80, "a.yaml"));
    assert!(!index.publish(), "the same again is no change");
    index.refuse(&a, ProblemEntry::folder("broken".to_owned(), "mend it"));
    assert!(index.publish());
    assert!(knows(&rx, "web:80"), "the last good objects stay");
    assert_eq!(rx.borrow().problems.len(), 1);
    index.apply(&a, service("web", 81, "a.yaml"));
    assert!(index.publish());
    assert!(knows(&rx, "web:81") && !knows(&rx, "web:80"));
    assert!(rx.borrow().problems.is_empty());
    index.delete("b.yaml");
    assert!(index.publish());
    assert!(!knows(&rx, "db:5432"));
    assert_eq!(rx.borrow().version, 4);
    assert!(!index.publish());
}

#[test]
fn of_two_with_one_name_the_first_file_wins() {
    let (mut index, rx) = index();
    index.apply(&"b.yaml".into(), service("web", 81, "b.yaml"));
    index.apply(&"a.yaml".into(), service("web", 80, "a.yaml"));
    index.publish();
    assert!(knows(&rx, "web:80") && !knows(&rx, "web:81"));
    let problem = rx.borrow().problems[0].to_string();
    assert!(problem.starts_with("b.yaml:1: Service shop/web: defined in a.yaml:1 as well"), "{problem}");
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web}]
  rules:
  - backendRefs:
    - name: web
      port: 80
      weight: WEIGHT
";

fn route(weight: &str) -> Vec<Object> {
    parse_manifests(&ROUTE.replace("WEIGHT", weight), "r.yaml").unwrap()
}

/// The weight of the route's backend, or why it is invalid.
fn weight(rx: &watch::Receiver<Arc<Published>>) -> Result<u32, String> {
    let published = rx.borrow();
    let backend = &published.snapshot.http_routes.values().next().expect("a route").rules[0].backends[0];
    backend.service.clone().map(|_| backend.weight)
}

fn told(rx: &watch::Receiver<Arc<Published>>) -> Vec<(String, Option<u64>, String)> {
    rx.borrow().problems.iter().map(|p| (p.reason.clone(), p.line, p.what.clone())).collect()
}

#[test]
fn an_object_that_no_api_server_takes_leaves_the_earlier_one_in_force() {
    let (mut index, rx) = index();
    let file: Arc<str> = "r.yaml".into();
    index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
    index.apply(&file, route("3"));
    index.publish();
    assert_eq!((weight(&rx), told(&rx)), (Ok(3), vec![]));

    index.apply(&file, route("-5"));
    assert!(index.publish());
    let what = "weight is -5; it must be 0 to 1000000; the object is refused, its earlier version stays in force";
    let refused = vec![("Refused".to_owned(), Some(10), what.to_owned())];
    assert_eq!((weight(&rx), told(&rx)), (Ok(3), refused.clone()));
    // Neither another bad version nor another change elsewhere loses it.
    index.apply(&file, route("many"));
    index.apply(&"db.yaml".into(), service("db", 1, "db.yaml"));
    index.publish();
    assert_eq!(weight(&rx), Ok(3));
    // In another file by now.
    index.delete("r.yaml");
    index.apply(&"a.yaml".into(), route("-5"));
    index.publish();
    assert_eq!((weight(&rx), told(&rx)), (Ok(3), refused));

    index.apply(&"a.yaml".into(), route("4"));
    index.publish();
    assert_eq!((weight(&rx), told(&rx)), (Ok(4), vec![]));
    // What is deleted is no earlier version of what comes later.
    index.delete("a.yaml");
    index.publish();
    assert!(rx.borrow().snapshot.http_routes.is_empty());
    index.apply(&file, route("-5"));
    index.publish();
    assert!(weight(&rx).is_err());
}

#[test]
fn without_an_earlier_version_what_is_understood_is_in_force() {
    let (mut index, rx) = index();
    index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
    index.apply(&"r.yaml".into(), route("-5"));
    index.publish();
    assert!(weight(&rx).is_err());
    let what = "weight is -5; it must be 0 to 1000000; its share of the requests is answered 500";
    assert_eq!(told(&rx), [("UnsupportedValue".to_owned(), Some(10), what.to_owned())]);
    index.apply(&"r.yaml".into(), route("7"));
    index.publish();
    assert_eq!((weight(&rx), told(&rx)), (Ok(7), vec![]));
}

#[test]
fn what_is_not_understood_replaces_the_earlier_version() {
    let (mut index, rx) = index();
    index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
    index.apply(&"r.yaml".into(), route("3"));
    index.publish();
    index.apply(&"r.yaml".into(), route("4\n    brandNew: {a: 1}"));
    index.publish();
    assert_eq!(weight(&rx), Ok(4));
    assert_eq!(told(&rx).len(), 1);
    assert_eq!(told(&rx)[0].0, "UnsupportedValue");
}

#[test]
fn what_was_taken_in_is_a_change_and_claims_nothing_of_what_may_wait() {
    let (mut index, rx) = index();
    let pod = |revision: u64| {
        let metadata = serde_json::json!({"namespace": "shop", "name": "web", "resourceVersion": revision.to_string()});
        let value = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}});
        Object::from_value(value, None).unwrap()
    };
    index.reach("Pod", 7);
    index.put(&pod(12));
    index.publish();
    let now =
        || (rx.borrow().changed.of_endpoints().unwrap().pods, rx.borrow().seen.get().of_endpoints().unwrap().pods);
    assert_eq!(now(), (12, 7));
    index.remove("Pod", &Key::new("shop", "web"), 14);
    index.publish();
    assert_eq!(now(), (14, 7));
    index.reach("Pod", 14);
    assert!(!index.publish());
    assert_eq!(now(), (14, 14));
}

#[test]
fn what_a_folder_has_is_read_again_once_there_is_room() {
    let large = |n: usize| {
        let value = "v".repeat(4_000);
        let set: String = (0..16).map(|m| format!("{{name: x-{n}-{m}, value: {value}}}, ")).collect();
        let filter = format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{set}]}}}}");
        let rules = vec![format!("{{filters: [{filter}]}}"); 8].join(", ");
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{n}, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{rules}]}}"
        );
        parse_manifests(&text, "r.yaml").unwrap()
    };
    let (mut index, rx) = index();
    (0..60).for_each(|n| index.apply(&format!("{n:02}.yaml").into(), large(n)));
    index.publish();
    let left_out = |rx: &watch::Receiver<Arc<Published>>| {
        rx.borrow().snapshot.http_routes.values().filter(|route| route.rejected.is_some()).count()
    };
    let before = left_out(&rx);
    assert!((5..20).contains(&before), "{before}");
    (0..20).for_each(|n| index.delete(&format!("{n:02}.yaml")));
    index.publish();
    assert_eq!((left_out(&rx), index.take_to_read_again().len()), (0, 0));
}

#[test]
fn what_is_said_to_be_seen_is_in_the_state_that_is_sent() {
    let mut reached = Revisions::default();
    reached.reach("Pod", 7);
    let published = Published::default();
    published.seen.set(&reached);
    let (_publish, index) = watch::channel(Arc::new(published));
    let (published, seen) = look(&index);
    // A later state is in force before the endpoints of this one are found out.
    let mut later = Revisions::default();
    later.reach("Pod", 9);
    published.seen.set(&later);
    assert_eq!(seen, reached);
}
