//! A process's own certificate, and what it trusts: what proxies, destination and injector have in common.
//!
//! The key is made here and never leaves the process. Identity is asked for a certificate with the projected token; it
//! is renewed between half and 70 % of its life, with jitter, under open connections and listeners. The mounted trust
//! bundle is trusted first and read again when it changes; the stream of bundles says what is newer. A bundle of the
//! stream's under which our own certificate is not believed makes it renewed within seconds: peers have that bundle too.
//!
//! Reading order: this file (the loops), [`tls`] (what is in force, and configurations that read it), [`channel`] (how the
//! control plane is called). Two stand beside it: [`parts`], what a process runs until it goes down, and [`Backoff`], how long
//! it waits after failures. It decides nothing about callers: who they are is in their certificate, what they may is the
//! server's.

mod backoff;
pub mod channel;
pub mod parts;
mod proof;
pub mod roots;
pub mod tls;

pub use backoff::{Backoff, jitter};
pub use proof::{Proof, end};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_proto::{
    names::Names,
    v1::{CertifyRequest, TrustBundle, TrustRequest, identity_client::IdentityClient},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use channel::Peer;
use roots::Roots;
use tls::Held;

/// Waits after failures. Identity may start at the same time as we do.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// A stream that lasted this long was a good one: the waits begin anew.
const STEADY: Duration = Duration::from_secs(10);
/// The shortest wait before a renewal, whatever the certificate says.
const RENEW_AT_LEAST: Duration = Duration::from_secs(1);
/// About how long after a bundle under which our certificate is not believed the next is asked for: not all at once.
const RENEW_UNBELIEVED: Duration = Duration::from_secs(2);
/// How often the mounted bundle is read again; kubelet writes it anew within a minute or two of a change.
const READ_BUNDLE: Duration = Duration::from_secs(30);
/// Certificates of one chain: an issuer and two intermediates at most.
const MAX_CHAIN: usize = 4;
/// Largest token and bundle read; tokens take about 1.2 KiB, a root less than 1 KiB.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Where to get a certificate.
#[derive(Clone, Debug)]
pub struct Config {
    /// Identity.
    pub identity: Peer,
    /// File of the projected token; read anew for each request.
    pub token_file: PathBuf,
    /// File of the roots (PEM) that are trusted first.
    pub trust_bundle_file: PathBuf,
}

/// Why there is no certificate, or no trust. `what to do` is in the text: it ends up in a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mounted file is missing or unusable.
    #[error("{}: {what}; is the volume of the token and the trust bundle mounted there?", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Identity did not give a certificate.
    #[error("{0}")]
    Refused(String),
    /// What identity gave is no certificate for us.
    #[error("identity answered {0}; do both run the same version?")]
    Answer(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What happened, for metrics.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A certificate is in force that ends then.
    Certified {
        /// Its end.
        not_after: SystemTime,
    },
    /// No certificate was had; it is tried again.
    Failed,
    /// A bundle was refused; what was trusted before stays trusted.
    BundleRefused,
}

/// The certificate in force and the roots that are trusted.
#[derive(Clone, Debug)]
pub struct Credentials {
    config: Arc<Config>,
    held: Arc<Held>,
    /// The mounted bundle as it was read.
    mounted: Vec<u8>,
    /// Whether there is a certificate.
    ready: watch::Sender<bool>,
}

impl Credentials {
    /// Trusts the mounted bundle; nothing can be proved yet.
    pub fn new(config: Config) -> Result<Self, Error> {
        let mounted = read(&config.trust_bundle_file)?;
        let parsed = parse_bundle(&config.trust_bundle_file, &mounted)?;
        let roots = Roots::new(config.identity.identity.trust_domain(), &parsed);
        let held = Arc::new(Held::new(roots.map_err(|what| file_error(&config.trust_bundle_file, what))?));
        Ok(Self { config: Arc::new(config), held, mounted, ready: watch::Sender::new(false) })
    }

    /// What is in force, for configurations of the caller's own.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Waits for the first certificate.
    pub async fn ready(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Keeps the certificate and the roots current. Ends never.
    pub async fn run(self, names: Arc<Names>, observe: impl Fn(Event) + Send + Sync) {
        let tls = match tls::client(self.held.clone(), b"h2") {
            Ok(tls) => Arc::new(tls),
            Err(error) => return tracing::error!("no certificate can be asked for: {error}"),
        };
        let channel = channel::lazy(names, self.config.identity.clone(), tls, self.held.clone());
        let new_roots = Notify::new();
        tokio::join!(
            self.certify(channel.clone(), &new_roots, &observe),
            self.trust(channel.clone(), &new_roots, &observe)
        );
    }

    async fn certify(&self, channel: Channel, new_roots: &Notify, observe: &(impl Fn(Event) + Send + Sync)) {
        let mut backoff = BACKOFF;
        loop {
            let wait = match self.certificate(channel.clone()).await {
                Ok(not_after) => {
                    backoff.reset();
                    observe(Event::Certified { not_after });
                    let life = not_after.duration_since(SystemTime::now()).unwrap_or_default();
                    // 50 % to 70 % of the life: jitter is 0.5 to 1.5 of 20 %, after 40 %.
                    (life.mul_f64(0.4) + jitter(life.mul_f64(0.2))).max(RENEW_AT_LEAST)
                }
                Err(error) => {
                    observe(Event::Failed);
                    let (wait, whom) = (jitter(backoff.next_wait()), &self.config.identity.address);
                    tracing::warn!("no certificate from {whom}: {error}; trying again in {wait:?}");
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.unbelieved(new_roots) => {
                    let wait = jitter(RENEW_UNBELIEVED);
                    tracing::warn!("our certificate is under no anchor of the new bundle; asking for another in {wait:?}");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits for roots under which our certificate is not believed.
    async fn unbelieved(&self, new_roots: &Notify) {
        loop {
            new_roots.notified().await;
            if !self.held.is_believed() {
                return;
            }
        }
    }

    /// Gets one certificate, puts it in force and says when it ends.
    async fn certificate(&self, channel: Channel) -> Result<SystemTime, Error> {
        let token = String::from_utf8_lossy(&read(&self.config.token_file)?).trim().to_owned();
        let answer = |what: &dyn std::fmt::Display| Error::Answer(what.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| answer(&e))?;
        let csr = CertificateParams::default().serialize_request(&key).map_err(|e| answer(&e))?;
        let request = CertifyRequest { csr_der: csr.der().to_vec(), token };
        let certified = IdentityClient::new(channel).certify(request).await;
        let chain = certified.map_err(|status| Error::Refused(describe(&status)))?.into_inner().chain_der;
        let chain = chain_of(chain)?;
        let identity = tls::leaf_identity(&chain[0]).map_err(|e| answer(&e))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| answer(&e))?;
        let ends = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(chain, aws_lc_rs::sign::any_ecdsa_type(&private)?);
        certified.keys_match()?;
        self.held.set_key(certified);
        self.ready.send_replace(true);
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        let life = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        tracing::info!("certificate for {identity}, {} s", life.as_secs());
        Ok(not_after)
    }

    async fn trust(&self, channel: Channel, new_roots: &Notify, observe: &(impl Fn(Event) + Send + Sync)) {
        let mut mounted = self.mounted.clone();
        let mut backoff = BACKOFF;
        loop {
            let asked = Instant::now();
            if let Err(status) = self.follow(channel.clone(), &mut mounted, new_roots, observe).await {
                tracing::debug!("the stream of trust bundles: {}", describe(&status));
            }
            if asked.elapsed() > STEADY {
                backoff.reset();
            }
            sleep(jitter(backoff.next_wait())).await;
            // It may have moved on while identity could not be reached or be believed.
            self.read_again(&mut mounted);
        }
    }

    /// Follows one stream to its end, and the mounted bundle beside it.
    async fn follow(
        &self,
        channel: Channel,
        mounted: &mut Vec<u8>,
        new_roots: &Notify,
        observe: &(impl Fn(Event) + Send + Sync),
    ) -> Result<(), tonic::Status> {
        let mut stream = IdentityClient::new(channel).trust(TrustRequest {}).await?.into_inner();
        loop {
            tokio::select! {
                message = stream.message() => {
                    let Some(bundle) = message? else { return Ok(()) };
                    match self.read_roots(bundle) {
                        Ok(roots) => {
                            tracing::debug!("roots from identity");
                            self.held.set_roots(roots);
                            new_roots.notify_one();
                        }
                        Err(error) => {
                            observe(Event::BundleRefused);
                            tracing::warn!("refused the roots from identity: {error}; those before stay trusted");
                        }
                    }
                }
                () = sleep(READ_BUNDLE) => self.read_again(mounted),
            }
        }
    }

    /// What a message of the stream says to trust.
    fn read_roots(&self, bundle: TrustBundle) -> Result<Roots, String> {
        let ders = |roots: Vec<Vec<u8>>| roots.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let own = Roots::new(self.config.identity.identity.trust_domain(), &ders(bundle.roots_der))?;
        bundle.others.into_iter().try_fold(own, |roots, other| roots.with(&other.trust_domain, &ders(other.roots_der)))
    }

    /// Trusts the mounted bundle if it changed: an old file must not take back what the stream said since. It is about our own
    /// trust domain; of others the stream alone tells.
    fn read_again(&self, mounted: &mut Vec<u8>) {
        let file = &self.config.trust_bundle_file;
        let mut take_over = || -> Result<(), Error> {
            let now = read(file)?;
            if now != *mounted {
                let own = parse_bundle(file, &now)?;
                let roots = Roots::clone(&self.held.roots()).with_own(&own);
                self.held.set_roots(roots.map_err(|what| file_error(file, what))?);
                *mounted = now;
                tracing::debug!("the mounted bundle has changed");
            }
            Ok(())
        };
        if let Err(error) = take_over() {
            tracing::warn!("{error}; what was trusted before stays trusted");
        }
    }
}

/// The certificates of an answer.
fn chain_of(ders: Vec<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>, Error> {
    if ders.is_empty() || ders.len() > MAX_CHAIN {
        return Err(Error::Answer(format!("with a chain of {} certificates", ders.len())));
    }
    Ok(ders.into_iter().map(CertificateDer::from).collect())
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_FILE_BYTES).read_to_end(&mut content))
        .map_err(|error| Error::File { file: file.to_owned(), what: error.to_string() })?;
    Ok(content)
}

/// The certificates of a bundle, as it was read from `file`.
fn parse_bundle(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    certificates.map_err(|why| file_error(file, why.to_string()))
}

fn file_error(file: &Path, what: String) -> Error {
    Error::File { file: file.to_owned(), what }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_chain_is_neither_empty_nor_long() {
        let chain = |length| chain_of(vec![vec![0x30]; length]).map(|chain| chain.len()).ok();
        assert_eq!([0, 1, MAX_CHAIN, MAX_CHAIN + 1].map(chain), [None, Some(1), Some(MAX_CHAIN), None]);
    }

    #[test]
    fn of_a_mounted_file_no_more_is_read_than_it_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, vec![b'x'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert_eq!(read(&file).unwrap().len() as u64, MAX_FILE_BYTES);
    }
}
