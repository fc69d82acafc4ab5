//! A control-plane process's own certificate, and what it trusts: what `destination` and `injector` have in common.
//!
//! The key is made here and never leaves the process. Identity is asked for a certificate with the projected token; it
//! is renewed between half and 70 % of its life, with jitter, under running listeners. The mounted trust bundle is
//! trusted first and read again when it changes; the stream of bundles says what is newer. A bundle of the stream's under
//! which our own certificate is not believed makes it renewed within seconds.
//!
//! Reading order: this file (the loops), [`tls`] (configurations that read what is in force), `channel` (how identity is
//! called). It decides nothing about callers: who they are is in their certificate, what they may is the server's.

mod channel;
pub mod tls;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_policy::Identity;
use mesh_proto::v1::{CertifyRequest, TrustRequest, identity_client::IdentityClient};
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
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use tls::{State, Trust};

/// Waits after failures: doubled from the first to the last, with jitter. Identity may start at the same time as we do.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// See [`BACKOFF_FIRST`].
const BACKOFF_LAST: Duration = Duration::from_secs(5);
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
    /// `host:port` of identity.
    pub identity_addr: String,
    /// Who must answer there.
    pub identity: Identity,
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

/// The certificate in force and the roots that are trusted.
#[derive(Clone, Debug)]
pub struct Credentials {
    state: Arc<State>,
    not_after: watch::Sender<Option<SystemTime>>,
}

impl Credentials {
    /// Trusts the mounted bundle; nothing can be proved yet.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let state = State::new(read_bundle(&config.trust_bundle_file)?)?;
        Ok(Self { state: Arc::new(state), not_after: watch::Sender::new(None) })
    }

    /// When the certificate in force ends; `None` before the first one.
    pub fn not_after(&self) -> watch::Receiver<Option<SystemTime>> {
        self.not_after.subscribe()
    }

    /// Waits for the first certificate.
    pub async fn ready(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.not_after.subscribe().wait_for(Option::is_some).await;
    }

    /// TLS of a server for peers of the mesh, which must prove an identity. The configuration follows renewals.
    pub fn server_for_mesh(&self, alpn: &[&[u8]]) -> Result<Arc<rustls::ServerConfig>, Error> {
        Ok(Arc::new(tls::server(self.state.clone(), true, alpn)?))
    }

    /// TLS of a server for anyone, such as the API server's webhook calls. The configuration follows renewals.
    pub fn server_for_all(&self, alpn: &[&[u8]]) -> Result<Arc<rustls::ServerConfig>, Error> {
        Ok(Arc::new(tls::server(self.state.clone(), false, alpn)?))
    }

    /// Keeps the certificate and the roots current until cancelled.
    pub async fn run(self, config: Config, cancel: CancellationToken) {
        let channel = match channel::lazy(&config, &self.state) {
            Ok(channel) => channel,
            Err(error) => return tracing::error!("no certificate can be asked for: {error}"),
        };
        let unbelieved = Notify::new();
        let both = async {
            tokio::join!(
                self.certify(&config, channel.clone(), &unbelieved),
                self.trust(&config, channel.clone(), &unbelieved)
            )
        };
        cancel.run_until_cancelled(both).await;
    }

    async fn certify(&self, config: &Config, channel: Channel, unbelieved: &Notify) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let wait = match self.certificate(config, channel.clone()).await {
                Ok(life) => {
                    backoff = BACKOFF_FIRST;
                    // 50 % to 70 % of the life: jitter is 0.5 to 1.5 of 20 %, after 40 %.
                    (life.mul_f64(0.4) + jitter(life.mul_f64(0.2))).max(RENEW_AT_LEAST)
                }
                Err(error) => {
                    let wait = jitter(backoff);
                    tracing::warn!("no certificate from {}: {error}; trying again in {wait:?}", config.identity_addr);
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = unbelieved.notified() => {
                    let wait = jitter(RENEW_UNBELIEVED);
                    tracing::warn!("our certificate is under no anchor of the new bundle; asking for another in {wait:?}");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Gets one certificate, puts it in force and says how long it lasts.
    async fn certificate(&self, config: &Config, channel: Channel) -> Result<Duration, Error> {
        let token = String::from_utf8_lossy(&read(&config.token_file)?).trim().to_owned();
        let answer = |what: &dyn std::fmt::Display| Error::Answer(what.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| answer(&e))?;
        let csr = CertificateParams::default().serialize_request(&key).map_err(|e| answer(&e))?;
        let request = CertifyRequest { csr_der: csr.der().to_vec(), token };
        let certified = IdentityClient::new(channel).certify(request).await;
        let chain = certified.map_err(|status| Error::Refused(describe(&status)))?.into_inner().chain_der;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(Error::Answer(format!("with a chain of {} certificates", chain.len())));
        }
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let identity = tls::identity_of(&chain).map_err(|e| answer(&e))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| answer(&e))?;
        let ends = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(chain, aws_lc_rs::sign::any_ecdsa_type(&private)?);
        certified.keys_match()?;
        self.state.set_key(certified);
        self.not_after.send_replace(Some(ends));
        let life = ends.duration_since(SystemTime::now()).unwrap_or_default();
        tracing::info!("certificate for {identity}, {} s", life.as_secs());
        Ok(life)
    }

    async fn trust(&self, config: &Config, channel: Channel, unbelieved: &Notify) {
        let mut mounted = read(&config.trust_bundle_file).unwrap_or_default();
        let mut backoff = BACKOFF_FIRST;
        loop {
            let asked = Instant::now();
            if let Err(status) = self.follow(config, channel.clone(), &mut mounted, unbelieved).await {
                tracing::debug!("the stream of trust bundles: {}", describe(&status));
            }
            if asked.elapsed() > STEADY {
                backoff = BACKOFF_FIRST;
            }
            sleep(jitter(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
            // It may have moved on while identity could not be reached or be believed.
            self.read_again(&config.trust_bundle_file, &mut mounted);
        }
    }

    /// Follows one stream to its end, and the mounted bundle beside it.
    async fn follow(
        &self,
        config: &Config,
        channel: Channel,
        mounted: &mut Vec<u8>,
        unbelieved: &Notify,
    ) -> Result<(), tonic::Status> {
        let mut stream = IdentityClient::new(channel).trust(TrustRequest {}).await?.into_inner();
        loop {
            tokio::select! {
                message = stream.message() => {
                    let Some(bundle) = message? else { return Ok(()) };
                    self.set_trust(bundle.roots_der.into_iter().map(CertificateDer::from).collect(), "identity");
                    if !self.state.is_believed() {
                        unbelieved.notify_one();
                    }
                }
                () = sleep(READ_BUNDLE) => self.read_again(&config.trust_bundle_file, mounted),
            }
        }
    }

    /// Trusts the mounted bundle if it changed: an old file must not take back what the stream said since.
    fn read_again(&self, file: &Path, mounted: &mut Vec<u8>) {
        match (read(file), read_bundle(file)) {
            (Ok(now), Ok(_)) if now == *mounted => {}
            (Ok(now), Ok(roots)) => {
                *mounted = now;
                self.set_trust(roots, "the mounted bundle");
            }
            (Err(error), _) | (_, Err(error)) => tracing::warn!("{error}; what was trusted before stays trusted"),
        }
    }

    fn set_trust(&self, roots: Vec<CertificateDer<'static>>, from: &str) {
        let count = roots.len();
        match Trust::new(roots) {
            Ok(trust) => {
                self.state.set_trust(trust);
                tracing::debug!("{count} roots from {from}");
            }
            Err(error) => tracing::warn!("refused the roots from {from}: {error}; those before stay trusted"),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_FILE_BYTES).read_to_end(&mut content))
        .map_err(|error| Error::File { file: file.to_owned(), what: error.to_string() })?;
    Ok(content)
}

fn read_bundle(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let error = |what| Error::File { file: file.to_owned(), what };
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        Ok(_) => Err(error("there is no certificate in it".to_owned())),
        Err(why) => Err(error(why.to_string())),
    }
}

/// Half to one and a half of a time, so that replicas do not ask in step.
fn jitter(time: Duration) -> Duration {
    // Each RandomState has keys of its own.
    let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    time.mul_f64(0.5 + chance)
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
