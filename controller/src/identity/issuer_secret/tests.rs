//! Secrets that come, change, break and are missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::well_known::TRUST_BUNDLE_KEY;
use serde_json::{Value, json};

use super::*;
use crate::{
    identity::{
        issuer::tests::{Pair, config_map, probe, secret},
        trust_pem::base64,
    },
    kube::fake::Fake,
};

const PATH: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";

fn object(data: &BTreeMap<String, Vec<u8>>) -> Value {
    let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (key, base64(value))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data})
}

fn good(issuer: &Pair, anchors: &[&Pair]) -> BTreeMap<String, Vec<u8>> {
    secret(&[issuer], &issuer.key.serialize_pem(), anchors)
}

struct Fixture {
    fake: Fake,
    metrics: Arc<Metrics>,
    problems: watch::Receiver<Arc<Published>>,
}

fn fixture() -> (Fixture, IssuerSecret) {
    world_with(None)
}

/// The same, with a ConfigMap of more anchors.
fn world_with(more_anchors: Option<&str>) -> (Fixture, IssuerSecret) {
    let (fake, metrics) = (Fake::new(), Metrics::new());
    let (sender, problems) = watch::channel(Arc::default());
    let options = IssuerOptions {
        namespace: "mesh-system".to_owned(),
        secret: "mesh-issuer".to_owned(),
        more_anchors: more_anchors.map(str::to_owned),
        is_external: true,
        leaf_lifetime: DAY,
        probe: probe(),
    };
    let secret = IssuerSecret::new(fake.client(), options, metrics.clone(), sender);
    (Fixture { fake, metrics, problems }, secret)
}

impl Fixture {
    /// Waits for one problem that says so; returns it.
    async fn problem(&mut self, part: &str) -> ProblemEntry {
        let says = |fixture: &Arc<Published>| fixture.problems.iter().any(|entry| entry.to_string().contains(part));
        let waiting = tokio::time::timeout(DAY, self.problems.wait_for(says)).await;
        let found = waiting.unwrap_or_else(|_| panic!("no problem {part:?}")).unwrap();
        assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
        found.problems[0].clone()
    }

    async fn no_problem(&mut self) {
        tokio::time::timeout(DAY, self.problems.wait_for(|fixture| fixture.problems.is_empty()))
            .await
            .unwrap()
            .unwrap();
    }

    fn metric(&self, line: &str) {
        assert!(self.metrics.render().contains(line), "{line} is not in\n{}", self.metrics.render());
    }
}

/// The issuer's certificate that follows a leaf now.
fn issuer(authority: &Authority) -> Vec<u8> {
    authority.sign(&rcgen::KeyPair::generate().unwrap(), &probe(), None).unwrap().chain[1].to_vec()
}

#[tokio::test(start_paused = true)]
async fn it_is_waited_for_kept_when_it_breaks_and_exchanged_when_it_is_good() {
    let (mut fixture, mut source) = fixture();
    let root = Pair::root("root");
    let (one, two) = (root.issue("one"), root.issue("two"));
    let first = tokio::spawn(async move { (source.first().await, source) });
    let entry = fixture.problem("there is no such Secret").await;
    assert!(entry.fix.contains("cert-manager"), "{entry}");
    fixture.fake.put(PATH, object(&BTreeMap::new()));
    fixture.problem("tls.crt: absent; no certificate can be issued").await;
    fixture.fake.put(PATH, object(&good(&one, &[&root])));
    let (authority, source) = first.await.unwrap();
    let authority = Arc::new(authority);
    fixture.no_problem().await;
    assert_eq!(issuer(&authority), one.certificate.der().to_vec());

    let (bundle_sender, bundle) = watch::channel(authority.signer().anchors().clone());
    let (is_good, mut goodness) = watch::channel(false);
    tokio::spawn(source.follow(authority.clone(), bundle_sender, is_good));
    goodness.wait_for(|good| *good).await.unwrap();
    let mut signers = authority.subscribe();

    // Garbage, another's key, an expired one: told by key and reason, and the last good one signs on.
    let mut broken = good(&one, &[&root]);
    broken.insert(issuer::CERTIFICATE.to_owned(), b"garbage".to_vec());
    fixture.fake.put(PATH, object(&broken));
    let entry = fixture.problem("no certificate (PEM)").await;
    assert_eq!(
        (entry.object.as_deref(), entry.field.as_deref()),
        (Some("Secret mesh-system/mesh-issuer"), Some("tls.crt"))
    );
    assert!(entry.what.ends_with("the last good issuer stays in force"), "{entry}");
    fixture.metric("mesh_controller_issuer_refused 1");
    fixture.fake.put(PATH, object(&secret(&[&two], &one.key.serialize_pem(), &[&root])));
    assert_eq!(fixture.problem("does not belong").await.field.as_deref(), Some("tls.key"));
    fixture.fake.remove(PATH).unwrap();
    fixture.problem("there is no such Secret; the last good issuer stays in force").await;
    assert_eq!(issuer(&authority), one.certificate.der().to_vec());
    assert!(!signers.has_changed().unwrap());

    // A new issuer under the same anchor.
    fixture.fake.put(PATH, object(&good(&two, &[&root])));
    signers.changed().await.unwrap();
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
    fixture.no_problem().await;
    fixture.metric("mesh_controller_issuer_refused 0");

    // Anchors overlap, then the issuer is of the new one, then the old anchor goes: what docs/identity.md says.
    let next = Pair::root("next");
    let three = next.issue("three");
    let steps = [(&two, vec![&root, &next]), (&three, vec![&root, &next]), (&three, vec![&next])];
    for (by, anchors) in steps {
        fixture.fake.put(PATH, object(&good(by, &anchors)));
        signers.changed().await.unwrap();
        assert_eq!(issuer(&authority), by.certificate.der().to_vec());
        let roots: Vec<_> = anchors.iter().map(|anchor| anchor.certificate.der().clone()).collect();
        assert_eq!(bundle.borrow().own, roots, "the bundle is all of ca.crt");
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_is_exchanged_by_a_config_map_though_the_secret_knows_only_the_newest() {
    const ROOTS: &str = "/api/v1/namespaces/mesh-system/configmaps/roots";
    let map = |anchors: &[&Pair]| {
        let text = String::from_utf8(config_map(anchors).remove(TRUST_BUNDLE_KEY).unwrap()).unwrap();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {TRUST_BUNDLE_KEY: text}})
    };
    let (mut fixture, mut source) = world_with(Some("roots"));
    let (old, new) = (Pair::root("old"), Pair::root("new"));
    let (one, two) = (old.issue("one"), new.issue("two"));
    let ders = |pairs: &[&Pair]| pairs.iter().map(|pair| pair.certificate.der().clone()).collect::<Vec<_>>();

    // It is waited for, as the Secret is: to begin with fewer anchors would part those who run.
    fixture.fake.put(PATH, object(&good(&one, &[&old])));
    let first = tokio::spawn(async move { (source.first().await, source) });
    let entry = fixture.problem("there is no such ConfigMap; no certificate can be issued").await;
    assert_eq!(entry.object.as_deref(), Some("ConfigMap mesh-system/roots"));
    fixture.fake.put(ROOTS, map(&[&old]));
    let (authority, source) = first.await.unwrap();
    fixture.no_problem().await;
    let authority = Arc::new(authority);
    assert_eq!(authority.signer().anchors().own, ders(&[&old]));
    let (bundle_sender, mut bundle) = watch::channel(authority.signer().anchors().clone());
    tokio::spawn(source.follow(authority.clone(), bundle_sender, watch::Sender::new(true)));

    // Both are trusted, then cert-manager signs with the new one and forgets the old, then it goes everywhere.
    fixture.fake.put(ROOTS, map(&[&old, &new]));
    bundle.wait_for(|now| now.own == ders(&[&old, &new])).await.unwrap();
    fixture.fake.put(PATH, object(&good(&two, &[&new])));
    bundle.wait_for(|now| now.own == ders(&[&new, &old])).await.unwrap();
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
    fixture.fake.put(ROOTS, map(&[&new]));
    bundle.wait_for(|now| now.own == ders(&[&new])).await.unwrap();

    // Garbage and a ConfigMap that is gone change nothing.
    fixture.fake.put(ROOTS, json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {TRUST_BUNDLE_KEY: "garbage"}}));
    let entry = fixture.problem("no certificate (PEM)").await;
    assert_eq!(entry.object.as_deref(), Some("ConfigMap mesh-system/roots"));
    assert_eq!(entry.field.as_deref(), Some("ca-bundle.pem"));
    fixture.fake.remove(ROOTS).unwrap();
    fixture.problem("there is no such ConfigMap; the last good issuer stays in force").await;
    assert_eq!(bundle.borrow().own, ders(&[&new]));
    // Nor do they keep a renewed issuer away.
    let three = new.issue("three");
    let mut signers = authority.subscribe();
    fixture.fake.put(PATH, object(&good(&three, &[&new])));
    signers.changed().await.unwrap();
    assert_eq!(issuer(&authority), three.certificate.der().to_vec());
    fixture.problem("there is no such ConfigMap").await;
}

#[tokio::test(start_paused = true)]
async fn a_missed_event_is_made_up_for_within_a_minute() {
    let (fixture, mut source) = fixture();
    let root = Pair::root("root");
    let (one, two) = (root.issue("one"), root.issue("two"));
    fixture.fake.put(PATH, object(&good(&one, &[&root])));
    let authority = Arc::new(source.first().await);
    fixture.fake.set_deaf();
    let (bundle, _bundle) = watch::channel(Arc::default());
    let mut signers = authority.subscribe();
    tokio::spawn(source.follow(authority.clone(), bundle, watch::Sender::new(true)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.fake.put(PATH, object(&good(&two, &[&root])));
    let begun = tokio::time::Instant::now();
    signers.changed().await.unwrap();
    assert!(begun.elapsed() <= crate::kube::named::POLL + Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_goes_away_changes_nothing() {
    let (mut fixture, mut source) = fixture();
    let root = Pair::root("root");
    fixture.fake.put(PATH, object(&good(&root.issue("one"), &[&root])));
    let authority = Arc::new(source.first().await);
    let (bundle, _bundle) = watch::channel(Arc::default());
    let (is_good, goodness) = watch::channel(true);
    fixture.fake.set_away(true);
    tokio::spawn(source.follow(authority.clone(), bundle, is_good));
    fixture.problem("it cannot be read").await;
    assert!(*goodness.borrow());
    issuer(&authority);
    fixture.fake.set_away(false);
    fixture.no_problem().await;
}

#[tokio::test(start_paused = true)]
async fn a_near_end_is_told_in_time() {
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    for (left, says) in [(hours(12), "1 day"), (hours(3 * 24), "7 days"), (hours(20 * 24), "30 days")] {
        let (mut fixture, mut source) = fixture();
        let root = Pair::root("root");
        fixture.fake.put(PATH, object(&good(&root.issue_for("one", left), &[&root])));
        let authority = source.first().await;
        let entry = fixture.problem(&format!("ends in less than {says}")).await;
        assert_eq!(entry.severity == Severity::Error, left < DAY, "{entry}");
        let ends = unix_seconds(authority.signer().not_after());
        fixture.metric(&format!("mesh_controller_issuer_expiry_seconds {ends}"));
    }
    let (fixture, mut source) = fixture();
    let root = Pair::root("root");
    fixture.fake.put(PATH, object(&good(&root.issue_for("one", hours(40 * 24)), &[&root])));
    source.first().await;
    assert!(fixture.problems.borrow().problems.is_empty());
}
