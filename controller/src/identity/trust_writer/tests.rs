//! The writer against an API server that others change too, and two writers of which one leads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::kube::{fake::Fake, lease::Election};

fn anchors(byte: u8) -> Arc<Bundle> {
    Arc::new(vec![CertificateDer::from(vec![byte; 300])].into())
}

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{TRUST_BUNDLE}")
}

fn label(fake: &Fake, namespace: &str, value: &str) {
    fake.put(
        &format!("/api/v1/namespaces/{namespace}"),
        json!({"metadata": {"labels": {"meshctl.dev/inject": value, "kubernetes.io/metadata.name": namespace}}}),
    );
}

fn data(fake: &Fake, namespace: &str) -> Value {
    fake.get(&path(namespace)).map_or(Value::Null, |map| map["data"][TRUST_BUNDLE_KEY].clone())
}

async fn until(fake: &Fake, what: &str, wanted: impl Fn(&Fake) -> bool) {
    let waiting = async {
        while !wanted(fake) {
            fake.event().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn writer(fake: &Fake) -> (TrustWriter, watch::Sender<Arc<Bundle>>) {
    let (sender, bundle) = watch::channel(anchors(1));
    let metrics = Metrics::new();
    let (namespace, problems) = ("mesh-system".to_owned(), watch::Sender::new(Arc::default()));
    (TrustWriter { client: fake.client(), namespace, bundle, metrics, problems }, sender)
}

#[tokio::test(start_paused = true)]
async fn written_repaired_exchanged_and_removed() {
    let fake = Fake::new();
    label(&fake, "shop", "enabled");
    label(&fake, "plain", "disabled");
    let (writer, sender) = writer(&fake);
    let task = tokio::spawn(writer.run());
    let first = json!(pem(&anchors(1).own));
    until(&fake, "shop and our own", |f| data(f, "shop") == first && data(f, "mesh-system") == first).await;
    assert_eq!(fake.get(&path("plain")), None);
    let labels = |namespace| fake.get(&path(namespace)).unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels("shop")[MANAGED_BY], MANAGER);
    assert_eq!(labels("mesh-system"), Value::Null, "install's labels are not touched");
    // A namespace that is labelled later, and one that holds an injected pod.
    label(&fake, "plain", "enabled");
    until(&fake, "labelled later", |f| data(f, "plain") == first).await;
    let pod = "/api/v1/namespaces/jobs/pods/j-1";
    fake.put(pod, json!({"metadata": {"labels": {"meshctl.dev/proxy-version": "0.1.0"}}}));
    until(&fake, "a pod that opted in", |f| data(f, "jobs") == first).await;
    // Edited, deleted.
    let mut edited = fake.get(&path("shop")).unwrap();
    edited["data"][TRUST_BUNDLE_KEY] = json!("garbage");
    fake.put(&path("shop"), edited);
    until(&fake, "an edit is repaired", |f| data(f, "shop") == first).await;
    fake.remove(&path("plain")).unwrap();
    until(&fake, "a deletion is repaired", |f| data(f, "plain") == first).await;
    // Other anchors.
    sender.send_replace(anchors(2));
    let second = json!(pem(&anchors(2).own));
    let all = ["shop", "plain", "jobs", "mesh-system"];
    until(&fake, "exchanged", |f| all.iter().all(|namespace| data(f, namespace) == second)).await;
    // Nothing needs it there any more.
    fake.remove(pod).unwrap();
    until(&fake, "removed", |f| f.get(&path("jobs")).is_none()).await;
    assert_eq!(data(&fake, "shop"), second);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_tried_again_and_holds_up_no_other() {
    let fake = Fake::new();
    label(&fake, "full", "enabled");
    label(&fake, "shop", "enabled");
    fake.forbid(&format!("PATCH {}", path("full")));
    let (writer, _sender) = writer(&fake);
    let (metrics, problems) = (writer.metrics.clone(), writer.problems.subscribe());
    let task = tokio::spawn(writer.run());
    let tries = |f: &Fake| f.asked().iter().filter(|asked| **asked == format!("PATCH {}", path("full"))).count();
    until(&fake, "the other, and three tries", |f| data(f, "shop") != Value::Null && tries(f) >= 3).await;
    assert!(metrics.render().contains("mesh_controller_trust_bundle_writes_total{outcome=\"failed\"}"));
    // It is said of that namespace, and of no other, for as long as it is so and somebody here writes.
    let told = || problems.borrow().problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let said = told();
    assert!(said.len() == 1 && said[0].contains("ConfigMap full/mesh-trust-bundle"), "{said:?}");
    assert!(said[0].contains("forbidden"), "{said:?}");
    fake.allow();
    until(&fake, "allowed now", |f| data(f, "full") != Value::Null && told().is_empty()).await;
    fake.forbid(&format!("PATCH {}", path("full")));
    fake.remove(&path("full")).unwrap();
    until(&fake, "told again", |_| !told().is_empty()).await;
    task.abort();
    until(&fake, "not by one that leads no more", |_| told().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_holds_with_other_anchors_in_it_is_replaced_all_the_same() {
    let fake = Fake::new();
    label(&fake, "tenant", "enabled");
    let held = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}, "immutable": true, "data": {TRUST_BUNDLE_KEY: "forged"}});
    fake.put(&path("tenant"), held(json!(["evil.example/hold", "evil.example/too"])));
    let (writer, _sender) = writer(&fake);
    let problems = writer.problems.subscribe();
    let task = tokio::spawn(writer.run());
    let right = json!(pem(&anchors(1).own));
    until(&fake, "replaced", |f| data(f, "tenant") == right).await;
    let now = fake.get(&path("tenant")).unwrap();
    assert_eq!((&now["metadata"]["finalizers"], &now["immutable"]), (&Value::Null, &Value::Null));
    // One who may no longer take it off says what holds it, and the others have theirs.
    fake.forbid(&format!("GET {}", path("tenant")));
    fake.put(&path("tenant"), held(json!(["evil.example/hold"])));
    label(&fake, "shop", "enabled");
    let told = || problems.borrow().problems.iter().map(ToString::to_string).collect::<String>();
    until(&fake, "told", |f| told().contains("tenant/mesh-trust-bundle") && data(f, "shop") == right).await;
    fake.allow();
    until(&fake, "replaced again", |f| data(f, "tenant") == right && told().is_empty()).await;
    // A finalizer alone harms nothing: the object is written where it is.
    fake.put(
        &path("tenant"),
        json!({"metadata": {"finalizers": ["backup.example/keep"]}, "data": {TRUST_BUNDLE_KEY: "edited"}}),
    );
    until(&fake, "repaired", |f| data(f, "tenant") == right).await;
    assert_eq!(fake.get(&path("tenant")).unwrap()["metadata"]["finalizers"], json!(["backup.example/keep"]));
    task.abort();
}

#[tokio::test]
async fn why_it_cannot_be_written_is_what_the_last_try_says() {
    let (writer, _sender) = writer(&Fake::new());
    let (mut plan, problems) = (TrustPlan::new("mesh-system"), writer.problems.clone());
    let mut failures = Failures { problems, metrics: writer.metrics.clone(), why: BTreeMap::new() };
    let mut told = |why: &str| {
        writer.note(&mut plan, &mut failures, "full".into(), Err(why.to_owned()), Duration::ZERO);
        failures.say();
        writer.problems.borrow().problems.iter().map(ToString::to_string).collect::<String>()
    };
    assert!(told("forbidden").contains("wait for it: forbidden"));
    assert!(told("exceeded quota").contains("wait for it: exceeded quota"));
    assert_eq!(told("the namespace is being terminated"), "");
}

/// Runs a writer while it leads, as the role does.
fn candidate(fake: &Fake, name: &str) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let (election, mut leading) = Election::new(fake.client(), "mesh-system", "mesh-identity", name);
    let (cancel, (writer, sender)) = (CancellationToken::new(), writer(fake));
    let electing = election.run(cancel.clone());
    let task = tokio::spawn(async move {
        let _anchors = sender;
        tokio::join!(electing, crate::kube::lead(&mut leading, || writer.clone().run()));
    });
    (cancel, task)
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_writes_and_the_other_takes_over_within_seconds() {
    let fake = Fake::new();
    label(&fake, "shop", "enabled");
    let (stop_a, a) = candidate(&fake, "a");
    until(&fake, "a writes", |f| data(f, "shop") != Value::Null).await;
    let (stop_b, b) = candidate(&fake, "b");
    fake.remove(&path("shop")).unwrap();
    until(&fake, "a repairs", |f| data(f, "shop") != Value::Null).await;
    let lists = |f: &Fake| f.asked().iter().filter(|asked| **asked == "GET /api/v1/configmaps").count();
    let before = lists(&fake);
    // A graceful end gives the Lease back.
    stop_a.cancel();
    a.await.unwrap();
    fake.remove(&path("shop")).unwrap();
    let begun = Instant::now();
    until(&fake, "b writes", |f| data(f, "shop") != Value::Null).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(lists(&fake) > before, "b listed everything itself");
    stop_b.cancel();
    b.await.unwrap();
}
