//! Secrets that come, change, break and are missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::{
    issuer::tests::{Pair, config_map, probe, secret},
    kube::{fake::Fake, trust_pem::base64},
};

const PATH: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";

fn object(data: &BTreeMap<String, Vec<u8>>) -> Value {
    let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (key, base64(value))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data})
}

fn good(issuer: &Pair, anchors: &[&Pair]) -> BTreeMap<String, Vec<u8>> {
    secret(&[issuer], &issuer.key.serialize_pem(), anchors)
}

struct World {
    fake: Fake,
    metrics: Arc<Metrics>,
    problems: watch::Receiver<Arc<Published>>,
}

fn world() -> (World, IssuerSecret) {
    world_with(None)
}

/// The same, with a ConfigMap of more anchors.
fn world_with(more_anchors: Option<&str>) -> (World, IssuerSecret) {
    let (fake, metrics) = (Fake::new(), Metrics::new());
    let (sender, problems) = watch::channel(Arc::default());
    let options = Options {
        namespace: "mesh-system".to_owned(),
        secret: "mesh-issuer".to_owned(),
        more_anchors: more_anchors.map(str::to_owned),
        is_external: true,
        leaf_lifetime: DAY,
        probe: probe(),
    };
    let secret = IssuerSecret::new(fake.client(), options, metrics.clone(), sender);
    (World { fake, metrics, problems }, secret)
}

impl World {
    /// Waits for one problem that says so; returns it.
    async fn problem(&mut self, part: &str) -> Entry {
        let says = |world: &Arc<Published>| world.problems.iter().any(|entry| entry.to_string().contains(part));
        let waiting = tokio::time::timeout(DAY, self.problems.wait_for(says)).await;
        let found = waiting.unwrap_or_else(|_| panic!("no problem {part:?}")).unwrap();
        assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
        found.problems[0].clone()
    }

    async fn no_problem(&mut self) {
        tokio::time::timeout(DAY, self.problems.wait_for(|world| world.problems.is_empty())).await.unwrap().unwrap();
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
    let (mut world, mut source) = world();
    let root = Pair::root("root");
    let (one, two) = (root.issue("one"), root.issue("two"));
    let first = tokio::spawn(async move { (source.first().await, source) });
    let entry = world.problem("there is no such Secret").await;
    assert!(entry.fix.contains("cert-manager"), "{entry}");
    world.fake.put(PATH, object(&BTreeMap::new()));
    world.problem("tls.crt: absent; no certificate can be issued").await;
    world.fake.put(PATH, object(&good(&one, &[&root])));
    let (authority, source) = first.await.unwrap();
    let authority = Arc::new(authority);
    world.no_problem().await;
    assert_eq!(issuer(&authority), one.certificate.der().to_vec());

    let (bundle_sender, bundle) = watch::channel(authority.signer().anchors().clone());
    let (is_good, mut goodness) = watch::channel(false);
    tokio::spawn(source.follow(authority.clone(), bundle_sender, is_good));
    goodness.wait_for(|good| *good).await.unwrap();
    let mut signers = authority.subscribe();

    // Garbage, another's key, an expired one: told by key and reason, and the last good one signs on.
    let mut broken = good(&one, &[&root]);
    broken.insert(issuer::CERTIFICATE.to_owned(), b"garbage".to_vec());
    world.fake.put(PATH, object(&broken));
    let entry = world.problem("no certificate (PEM)").await;
    assert_eq!(
        (entry.object.as_deref(), entry.field.as_deref()),
        (Some("Secret mesh-system/mesh-issuer"), Some("tls.crt"))
    );
    assert!(entry.what.ends_with("the last good issuer stays in force"), "{entry}");
    world.metric("mesh_controller_issuer_refused 1");
    world.fake.put(PATH, object(&secret(&[&two], &one.key.serialize_pem(), &[&root])));
    assert_eq!(world.problem("does not belong").await.field.as_deref(), Some("tls.key"));
    world.fake.remove(PATH).unwrap();
    world.problem("there is no such Secret; the last good issuer stays in force").await;
    assert_eq!(issuer(&authority), one.certificate.der().to_vec());
    assert!(!signers.has_changed().unwrap());

    // A new issuer under the same anchor.
    world.fake.put(PATH, object(&good(&two, &[&root])));
    signers.changed().await.unwrap();
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
    world.no_problem().await;
    world.metric("mesh_controller_issuer_refused 0");

    // Anchors overlap, then the issuer is of the new one, then the old anchor goes: what docs/identity.md says.
    let next = Pair::root("next");
    let three = next.issue("three");
    let steps = [(&two, vec![&root, &next]), (&three, vec![&root, &next]), (&three, vec![&next])];
    for (by, anchors) in steps {
        world.fake.put(PATH, object(&good(by, &anchors)));
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
        let text = String::from_utf8(config_map(anchors).remove(issuer::BUNDLE).unwrap()).unwrap();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {issuer::BUNDLE: text}})
    };
    let (mut world, mut source) = world_with(Some("roots"));
    let (old, new) = (Pair::root("old"), Pair::root("new"));
    let (one, two) = (old.issue("one"), new.issue("two"));
    let ders = |pairs: &[&Pair]| pairs.iter().map(|pair| pair.certificate.der().clone()).collect::<Vec<_>>();

    // It is waited for, as the Secret is: to begin with fewer anchors would part those who run.
    world.fake.put(PATH, object(&good(&one, &[&old])));
    let first = tokio::spawn(async move { (source.first().await, source) });
    let entry = world.problem("there is no such ConfigMap; no certificate can be issued").await;
    assert_eq!(entry.object.as_deref(), Some("ConfigMap mesh-system/roots"));
    world.fake.put(ROOTS, map(&[&old]));
    let (authority, source) = first.await.unwrap();
    world.no_problem().await;
    let authority = Arc::new(authority);
    assert_eq!(authority.signer().anchors().own, ders(&[&old]));
    let (bundle_sender, mut bundle) = watch::channel(authority.signer().anchors().clone());
    tokio::spawn(source.follow(authority.clone(), bundle_sender, watch::Sender::new(true)));

    // Both are trusted, then cert-manager signs with the new one and forgets the old, then it goes everywhere.
    world.fake.put(ROOTS, map(&[&old, &new]));
    bundle.wait_for(|now| now.own == ders(&[&old, &new])).await.unwrap();
    world.fake.put(PATH, object(&good(&two, &[&new])));
    bundle.wait_for(|now| now.own == ders(&[&new, &old])).await.unwrap();
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
    world.fake.put(ROOTS, map(&[&new]));
    bundle.wait_for(|now| now.own == ders(&[&new])).await.unwrap();

    // Garbage and a ConfigMap that is gone change nothing.
    world.fake.put(ROOTS, json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {issuer::BUNDLE: "garbage"}}));
    let entry = world.problem("no certificate (PEM)").await;
    assert_eq!(entry.object.as_deref(), Some("ConfigMap mesh-system/roots"));
    assert_eq!(entry.field.as_deref(), Some("ca-bundle.pem"));
    world.fake.remove(ROOTS).unwrap();
    world.problem("there is no such ConfigMap; the last good issuer stays in force").await;
    assert_eq!(bundle.borrow().own, ders(&[&new]));
    // Nor do they keep a renewed issuer away.
    let three = new.issue("three");
    let mut signers = authority.subscribe();
    world.fake.put(PATH, object(&good(&three, &[&new])));
    signers.changed().await.unwrap();
    assert_eq!(issuer(&authority), three.certificate.der().to_vec());
    world.problem("there is no such ConfigMap").await;
}

#[tokio::test(start_paused = true)]
async fn a_missed_event_is_made_up_for_within_a_minute() {
    let (world, mut source) = world();
    let root = Pair::root("root");
    let (one, two) = (root.issue("one"), root.issue("two"));
    world.fake.put(PATH, object(&good(&one, &[&root])));
    let authority = Arc::new(source.first().await);
    world.fake.set_deaf();
    let (bundle, _bundle) = watch::channel(Arc::default());
    let mut signers = authority.subscribe();
    tokio::spawn(source.follow(authority.clone(), bundle, watch::Sender::new(true)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.fake.put(PATH, object(&good(&two, &[&root])));
    let begun = tokio::time::Instant::now();
    signers.changed().await.unwrap();
    assert!(begun.elapsed() <= super::super::named::POLL + Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(issuer(&authority), two.certificate.der().to_vec());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_goes_away_changes_nothing() {
    let (mut world, mut source) = world();
    let root = Pair::root("root");
    world.fake.put(PATH, object(&good(&root.issue("one"), &[&root])));
    let authority = Arc::new(source.first().await);
    let (bundle, _bundle) = watch::channel(Arc::default());
    let (is_good, goodness) = watch::channel(true);
    world.fake.set_away(true);
    tokio::spawn(source.follow(authority.clone(), bundle, is_good));
    world.problem("it cannot be read").await;
    assert!(*goodness.borrow());
    issuer(&authority);
    world.fake.set_away(false);
    world.no_problem().await;
}

#[tokio::test(start_paused = true)]
async fn a_near_end_is_told_in_time() {
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    for (left, says) in [(hours(12), "1 day"), (hours(3 * 24), "7 days"), (hours(20 * 24), "30 days")] {
        let (mut world, mut source) = world();
        let root = Pair::root("root");
        world.fake.put(PATH, object(&good(&root.issue_for("one", left), &[&root])));
        let authority = source.first().await;
        let entry = world.problem(&format!("ends in less than {says}")).await;
        assert_eq!(entry.severity == Severity::Error, left < DAY, "{entry}");
        let ends = unix_seconds(authority.signer().not_after());
        world.metric(&format!("mesh_controller_issuer_expiry_seconds {ends}"));
    }
    let (world, mut source) = world();
    let root = Pair::root("root");
    world.fake.put(PATH, object(&good(&root.issue_for("one", hours(40 * 24)), &[&root])));
    source.first().await;
    assert!(world.problems.borrow().problems.is_empty());
}
