//! Identity: the trust bundle, the issuer, who has the bundle, and what identity serves.

use std::{sync::Arc, time::Duration};

use mesh_policy::well_known::{CONTROL_NAMESPACE, IDENTITY_PORT, INJECT_LABEL, ISSUER_SECRET, MESH_IDENTITY};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;

use super::{Check, Context, Finding, Outcome, Status, When, context::full_name, count, names, page};
use crate::{
    certificate::{self, Certificate},
    clock,
    kube::{ClusterError, core, core_object, trust_bundle, value},
    manifests::cluster::options,
};

const AREA: &str = "Identity";
const INSTALLED: &[When] = &[When::Installed];
/// An issuer or an anchor with less than this left is to be replaced now: leaves of a day must not outlive it.
const SOON: i64 = 30 * 24 * 3600;
/// Of a life shorter than [`SOON`], the share that must be left.
const SHARE: f64 = 0.2;
/// How long mesh-identity may take to remove a finalizer from a bundle.
const HELD: Duration = Duration::from_secs(5);

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "identity-anchors",
        area: AREA,
        what: "the trust anchors are valid",
        why: "every proxy trusts what leads to these anchors, and nothing else",
        fix: "kubectl -n mesh-system get configmap mesh-trust-bundle -o yaml",
        page: page!("identity-anchors"),
        when: &[When::Installed, When::Proxy],
        after: &["control-plane-namespace"],
        run: |context| Box::pin(anchors_valid(context)),
    },
    Check {
        id: "identity-issuer",
        area: AREA,
        what: "the issuer is valid, has its key and leads to the trust anchors",
        why: "an issuer that has ended, or that no proxy trusts, means pods without certificates within a day",
        fix: "kubectl -n mesh-system describe secret mesh-issuer",
        page: page!("identity-issuer"),
        when: INSTALLED,
        after: &["identity-anchors"],
        run: |context| Box::pin(issuer(context)),
    },
    Check {
        id: "identity-bundles",
        area: AREA,
        what: "every labelled namespace has the trust bundle",
        why: "a pod whose namespace has none does not start: its sidecar's volume cannot be mounted",
        fix: "kubectl -n mesh-system logs deployment/mesh-identity",
        page: page!("identity-bundles"),
        when: &[When::Installed, When::Proxy],
        after: &["identity-anchors"],
        run: |context| Box::pin(bundles(context)),
    },
    Check {
        id: "identity-serves",
        area: AREA,
        what: "identity proves itself with a certificate of the mesh",
        why: "a sidecar gives its token to nobody else",
        fix: "kubectl -n mesh-system rollout restart deployment mesh-identity",
        page: page!("identity-serves"),
        when: INSTALLED,
        after: &["control-plane-pods", "identity-anchors"],
        run: |context| Box::pin(serves(context)),
    },
];

/// Why a certificate ends too soon, if so.
fn ends_soon(certificate: &Certificate, now: i64) -> Option<String> {
    let left = certificate.left(now);
    let is_soon = left < SOON && certificate.share_left(now) < SHARE;
    is_soon.then(|| format!("{} ends in {}, at {}", certificate.subject, clock::span(left), certificate.not_after))
}

async fn anchors_valid(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let anchors = match trust_bundle::anchors(&context.cluster).await? {
        Ok(anchors) => anchors,
        Err(why) => return Ok(Outcome::Fail(Finding::with_fix(why, "meshctl upgrade | kubectl apply -f -"))),
    };
    let now = clock::now();
    let wrong: Vec<_> = anchors
        .iter()
        .filter_map(|anchor| match anchor.invalid(now) {
            Some(why) => Some(format!("the anchor {} {why}", anchor.subject)),
            None => (!anchor.is_ca).then(|| format!("{} is no authority", anchor.subject)),
        })
        .collect();
    let soon: Vec<_> = anchors.iter().filter_map(|anchor| ends_soon(anchor, now)).collect();
    Ok(match (wrong.len() == anchors.len(), wrong.as_slice(), soon.as_slice()) {
        (true, wrong, _) => Outcome::fail(names(wrong)),
        (false, [], []) => {
            let last = anchors.iter().map(|anchor| anchor.left(now)).min().unwrap_or_default();
            Outcome::pass(format!("{}, valid for {}", count(anchors.len(), "trust anchor"), clock::span(last)))
        }
        (false, wrong, soon) => Outcome::warn(names(&[wrong, soon].concat())),
    })
}

async fn issuer(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let path = core_object(CONTROL_NAMESPACE, "secrets", ISSUER_SECRET);
    let secret = match context.cluster.find(&path).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Ok(Outcome::Fail(Finding::with_fix(
                format!("there is no Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET}"),
                "meshctl upgrade | kubectl apply -f -",
            )));
        }
        Err(error) if error.is_forbidden() => {
            return Ok(Outcome::skip(format!(
                "this user may not read the Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET}, which is as it should be"
            )));
        }
        Err(error) => return Err(error),
    };
    let anchors = match trust_bundle::anchors(&context.cluster).await? {
        Ok(anchors) => anchors,
        Err(why) => return Ok(Outcome::fail(why)),
    };
    let chain = match issuer_of(&secret, &anchors) {
        Ok(chain) => chain,
        Err(why) => return Ok(Outcome::fail(format!("the Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET}: {why}"))),
    };
    let now = clock::now();
    if let Some(why) = chain.iter().find_map(|link| ends_soon(link, now)) {
        return Ok(Outcome::warn(why));
    }
    let left = chain.iter().map(|link| link.left(now)).min().unwrap_or_default();
    Ok(Outcome::pass(format!("the issuer leads to the trust anchors, and is valid for {}", clock::span(left))))
}

/// Reads an issuer and tries it: a leaf that it signs must lead to the anchors. That shows at once that it is valid,
/// may sign, fits its key and is trusted. The leaf is thrown away.
fn issuer_of(secret: &Value, anchors: &[Certificate]) -> Result<Vec<Certificate>, String> {
    let field = |key: &str| -> Result<Vec<u8>, String> {
        let text = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
        let text = text.ok_or_else(|| format!("it has no {key}"))?;
        serde_json::from_value::<k8s_openapi::ByteString>(Value::from(text))
            .map(|bytes| bytes.0)
            .map_err(|error| format!("{key} is not base64: {error}"))
    };
    let chain = Certificate::decode_pem(&field("tls.crt")?).map_err(|why| format!("tls.crt: {why}"))?;
    let key = PrivateKeyDer::from_pem_slice(&field("tls.key")?).map_err(|error| format!("tls.key: {error}"))?;
    let key = KeyPair::try_from(&key).map_err(|error| format!("tls.key: {error}"))?;
    let Some(first) = chain.first() else { return Err("tls.crt is empty".to_owned()) };
    if let Some(why) = chain.iter().find_map(|link| Some(format!("{} {}", link.subject, link.invalid(clock::now())?))) {
        return Err(why);
    }
    let trial = || -> Result<CertificateDer<'static>, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&first.der, key)?;
        let mut leaf = CertificateParams::new(vec!["trial.invalid".to_owned()])?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(leaf.signed_by(&KeyPair::generate()?, &issuer)?.into())
    };
    let leaf = trial().map_err(|error| format!("it cannot sign: {error}"))?;
    let mut links = vec![leaf];
    links.extend(chain.iter().map(|link| link.der.clone()));
    certificate::verify(&links, anchors, None).map_err(|why| format!("what it signs is not trusted: {why}"))?;
    Ok(chain)
}

async fn bundles(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let labelled = context.labelled().await?;
    if labelled.is_empty() {
        return Ok(Outcome::skip(format!("no namespace is labelled {INJECT_LABEL}=enabled yet")));
    }
    let wanted = context.cluster.get(&trust_bundle::path(CONTROL_NAMESPACE)).await?;
    let (mut held, mut wrong) = (Vec::new(), Vec::new());
    for namespace in &labelled {
        match context.cluster.find(&trust_bundle::path(namespace)).await? {
            None => wrong.push(format!("the namespace {namespace} has none")),
            Some(found) if trust_bundle::text(&found) != trust_bundle::text(&wanted) => {
                match trust_bundle::held(&found) {
                    Some(by) => held.push(by),
                    None => wrong.push(format!("the namespace {namespace} has another one")),
                }
            }
            Some(_) => {}
        }
    }
    let told: Vec<_> = held.iter().map(|held| held.message.clone()).chain(wrong.iter().cloned()).collect();
    let fix = held.first().map(|held| held.fix.clone());
    let finding = Finding { message: names(&told), fix };
    Ok(match (held.is_empty(), wrong.is_empty()) {
        (true, true) => {
            Outcome::pass(format!("the trust bundle is in {}", count(labelled.len(), "labelled namespace")))
        }
        // mesh-identity removes the finalizer at once. Whoever sets it again harms only their own namespace.
        (false, true) => {
            let then = if context.scope.is_some() { Status::Failed } else { Status::Warning };
            Outcome::Behind { finding, within: HELD, then }
        }
        (_, false) => Outcome::some_not_yet(&context, finding, told.len(), labelled.len()),
    })
}

async fn serves(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(pod) = ready_pod(&context, MESH_IDENTITY).await? else {
        return Ok(Outcome::not_yet(format!("no pod of {MESH_IDENTITY} is ready")));
    };
    let anchors = match trust_bundle::anchors(&context.cluster).await? {
        Ok(anchors) => anchors,
        Err(why) => return Ok(Outcome::fail(why)),
    };
    let name = format!("{MESH_IDENTITY}.{CONTROL_NAMESPACE}.svc");
    let handshake = |stream| certificate::served(stream, name, vec![b"h2".to_vec()]);
    let chain = context.cluster.forward(CONTROL_NAMESPACE, value::name(&pod), IDENTITY_PORT, handshake).await?;
    let wrong = |why: String| Ok(Outcome::NotYet(format!("{}: {why}", full_name(&pod)).into()));
    if let Err(why) = certificate::verify(&chain, &anchors, None) {
        return wrong(why);
    }
    let leaf = match chain.first().cloned().map(Certificate::decode) {
        Some(Ok(leaf)) => leaf,
        Some(Err(why)) => return wrong(why),
        None => return wrong("no certificate was served".to_owned()),
    };
    let id = leaf.spiffe_id.clone().unwrap_or_default();
    let domain = options(&context.cluster).await?.trust_domain;
    let expected = format!("spiffe://{domain}/ns/{CONTROL_NAMESPACE}/sa/{MESH_IDENTITY}");
    if id != expected {
        return wrong(format!("it proves {id:?}, not {expected}"));
    }
    Ok(Outcome::pass(format!("{MESH_IDENTITY} proves {id}, for {} more", clock::span(leaf.left(clock::now())))))
}

/// A ready pod of a part of the control plane.
pub(super) async fn ready_pod(context: &Context, part: &str) -> Result<Option<Value>, ClusterError> {
    let query = format!("labelSelector=app.kubernetes.io%2Fcomponent%3D{}", component(part));
    let pods = context.cluster.list(&core(CONTROL_NAMESPACE, "pods"), &query).await?;
    let is_ready = |pod: &Value| super::context::is_alive(pod) && value::condition(pod, "Ready") == "True";
    Ok(pods.into_iter().find(is_ready))
}

/// The value of `app.kubernetes.io/component`: the part's name without `mesh-`.
fn component(part: &str) -> &str {
    part.strip_prefix("mesh-").unwrap_or(part)
}
