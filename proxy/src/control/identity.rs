//! This proxy's certificate and what it trusts.
//!
//! The key is made here and never leaves the process. A certificate is renewed between half and 70 % of its life, with
//! jitter; open connections go on with the one they began with. The mounted bundle is trusted first and re-read when
//! it changes; once the stream of bundles stands, it decides. A bundle under which our own certificate is not believed
//! makes it renewed within seconds: peers have that bundle too.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mesh_proto::{
    names::Names,
    v1::{CertifyRequest, TrustRequest, identity_client::IdentityClient},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::sync::Notify;
use tonic::transport::Channel;

use super::channel;
use crate::{
    config::Config,
    metrics::ControlMetrics,
    random::Random,
    tls::{Roots, Tls, leaf_identity},
};

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// The shortest wait before a renewal, whatever the certificate says.
const RENEW_AT_LEAST: Duration = Duration::from_secs(1);
/// About how long after a bundle under which our certificate is not believed the next is asked for: not all at once.
const RENEW_UNBELIEVED: Duration = Duration::from_secs(2);
/// Certificates of one chain; an issuer and two intermediates at most.
const MAX_CHAIN: usize = 4;

/// Reads PEM roots from a file.
pub fn load_bundle(path: &Path) -> Result<Roots, String> {
    let certs = CertificateDer::pem_file_iter(path)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let roots = Roots::from_der(certs.iter().map(|c| &**c)).map_err(|error| format!("{}: {error}", path.display()))?;
    if roots.is_empty() { Err(format!("{}: there is no certificate in it", path.display())) } else { Ok(roots) }
}

/// Keeps the certificate and the roots current for as long as the process runs.
pub(super) async fn run(config: Arc<Config>, names: Arc<Names>, tls: Arc<Tls>, metrics: ControlMetrics) {
    let channel = channel::lazy(&names, &config.identity_addr, &config.identity_name, &tls);
    let unbelieved = Notify::new();
    tokio::join!(
        certify(&config, &tls, &metrics, channel.clone(), &unbelieved),
        trust(&config, &tls, &metrics, channel, &unbelieved)
    );
}

async fn certify(config: &Config, tls: &Tls, metrics: &ControlMetrics, channel: Channel, unbelieved: &Notify) {
    let random = Random::default();
    let mut backoff = BACKOFF_FIRST;
    loop {
        let wait = match certificate(config, tls, channel.clone()).await {
            Ok(life) => {
                backoff = BACKOFF_FIRST;
                metrics.certificates.increment(1);
                metrics.certificate_ends.set(unix_seconds() + life.as_secs_f64());
                // 50 % to 70 % of the life: jitter is 0.5..1.5 of 20 %, after 40 %.
                (life.mul_f64(0.4) + random.jitter(life.mul_f64(0.2))).max(RENEW_AT_LEAST)
            }
            Err(error) => {
                metrics.certificate_failures.increment(1);
                tracing::warn!(
                    "no certificate from {}: {error}; trying again in about {backoff:?}",
                    config.identity_addr
                );
                let wait = random.jitter(backoff);
                backoff = (backoff * 2).min(BACKOFF_LAST);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = unbelieved.notified() => {
                let wait = random.jitter(RENEW_UNBELIEVED);
                tracing::warn!("our certificate is under no anchor of the new bundle; asking for another in {wait:?}");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Gets one certificate, puts it in force and says how long it lasts.
async fn certificate(config: &Config, tls: &Tls, channel: Channel) -> Result<Duration, String> {
    let token = tokio::fs::read_to_string(&config.token_file)
        .await
        .map_err(|error| format!("token {}: {error}", config.token_file.display()))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
    let csr = CertificateParams::default().serialize_request(&key).map_err(|error| error.to_string())?;
    let request = CertifyRequest { csr_der: csr.der().to_vec(), token: token.trim().to_owned() };
    let answer = IdentityClient::new(channel).certify(request).await.map_err(|status| describe(&status))?.into_inner();
    if answer.chain_der.is_empty() || answer.chain_der.len() > MAX_CHAIN {
        return Err(format!("a chain of {} certificates", answer.chain_der.len()));
    }
    let chain: Vec<_> = answer.chain_der.into_iter().map(CertificateDer::from).collect();
    let identity = leaf_identity(&chain[0]).map_err(|error| error.to_string())?;
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| error.to_string())?;
    let ends = leaf.validity().not_after.timestamp();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = tls.certified_key(chain, private).map_err(|error| error.to_string())?;
    certified.keys_match().map_err(|error| format!("the certificate is for another key: {error}"))?;
    tls.set_key(certified);
    let life = Duration::from_secs_f64((ends as f64 - unix_seconds()).max(0.0));
    tracing::info!("certificate for {identity}, {} s", life.as_secs());
    Ok(life)
}

async fn trust(config: &Config, tls: &Tls, metrics: &ControlMetrics, channel: Channel, unbelieved: &Notify) {
    let random = Random::default();
    let mut backoff = BACKOFF_FIRST;
    loop {
        let asked = Instant::now();
        let ended = async {
            let mut stream = IdentityClient::new(channel.clone()).trust(TrustRequest {}).await?.into_inner();
            while let Some(bundle) = stream.message().await? {
                match Roots::from_der(bundle.roots_der.iter().map(Vec::as_slice)) {
                    Ok(roots) if !roots.is_empty() => {
                        tracing::debug!("trust bundle with {} roots", roots.len());
                        tls.set_roots(roots);
                        if !tls.is_believed() {
                            unbelieved.notify_one();
                        }
                    }
                    refused => {
                        metrics.rejected.increment(1);
                        tracing::warn!("refused a trust bundle, the last good one stays: {refused:?}");
                    }
                }
            }
            Ok::<_, tonic::Status>(())
        };
        if let Err(status) = ended.await {
            tracing::debug!("trust stream: {}", describe(&status));
        }
        if asked.elapsed() > BACKOFF_LAST {
            backoff = BACKOFF_FIRST;
        }
        tokio::time::sleep(random.jitter(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
        // The mounted bundle may have moved on while the controller could not be reached or be believed.
        match load_bundle(&config.trust_bundle_file) {
            Ok(roots) => tls.set_roots(roots),
            Err(error) => tracing::warn!("trust bundle: {error}; the last good one stays"),
        }
    }
}

/// The message and its innermost cause: "transport error" alone helps nobody.
fn describe(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let inner = cause.to_string();
    if inner.contains(status.message()) { inner } else { format!("{}: {inner}", status.message()) }
}

pub(super) fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
