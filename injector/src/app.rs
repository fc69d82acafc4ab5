//! Start and end of the webhook, in order, top to bottom.
//!
//! The certificate comes from mesh-identity, lives in memory and is renewed under the running listener. At the end the
//! replica first says that it is not ready and goes on serving: no moment of a rollout is without a webhook.

use std::{net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_credentials::{Credentials, channel::Peer, parts::Parts};
use mesh_listen::{Signals, serve_pages};
use mesh_policy::{Identity, well_known::MESH_IDENTITY};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    VERSION,
    config_file::ConfigFile,
    events::Events,
    metrics::Metrics,
    server::Server,
    webhook::{Pages, Webhook},
};

/// How long it serves on after SIGTERM, until no API server's node still routes here: kube-proxy takes about a second.
const LEAVE_FOR: Duration = Duration::from_secs(5);
/// Longest wait for open answers after that; an answer has 2.5 s.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// What `mesh-controller injector` is told.
#[derive(Clone, Debug)]
pub struct RunArgs {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Where the webhook is served (HTTPS).
    pub listen: SocketAddr,
    /// Where /live, /ready and /metrics are served (HTTP).
    pub metrics_listen: SocketAddr,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// File of the configuration (YAML).
    pub config: PathBuf,
    /// `host:port` of mesh-identity.
    pub identity_addr: String,
    /// File of the ServiceAccount token for identity.
    pub token_file: PathBuf,
    /// File of the roots (PEM) that are trusted first.
    pub trust_bundle_file: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let metrics = Arc::new(Metrics::default());
    let ends = CancellationToken::new();
    let events = match kube::Client::try_default().await {
        Ok(client) => Events::start(client, metrics.clone(), ends.clone()),
        Err(error) => {
            tracing::warn!("no Events will be written about pods that are left alone: {error}");
            Events::none(metrics.clone())
        }
    };
    let injector = Injector::start(args, events, metrics, ends).await?;
    tracing::info!("{}: serving on for {LEAVE_FOR:?}, then going down", signals.wait().await);
    injector.stop().await;
    Ok(())
}

/// A part of the injector, at its start.
type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running injector.
#[derive(Debug)]
pub struct Injector {
    /// Where the webhook is.
    pub address: SocketAddr,
    /// Where the pages are.
    pub pages: SocketAddr,
    ready: watch::Sender<bool>,
    leaving: CancellationToken,
    ends: CancellationToken,
    servers: TaskTracker,
}

impl Injector {
    /// Starts everything; when this returns, both listeners stand. It is ready once there is a certificate.
    pub async fn start(args: RunArgs, events: Events, metrics: Arc<Metrics>, ends: CancellationToken) -> Result<Self> {
        // 1. What is asked for.
        let config = ConfigFile::open(args.config, args.trust_domain.clone())?;
        let in_force = config.current();
        let (leaving, servers) = (CancellationToken::new(), TaskTracker::new());
        let parts = Parts::default();
        let run = |part, task: BoxFuture| {
            let leaving = leaving.clone();
            servers.spawn(parts.clone().run(part, move || leaving.is_cancelled(), task));
        };
        run("the watch of the configuration", Box::pin(config.follow(metrics.clone(), ends.clone())));

        // 2. Who we are.
        let identity = Identity::new(&args.trust_domain, &args.namespace, MESH_IDENTITY)
            .with_context(|| format!("--trust-domain {:?}, --namespace {:?}", args.trust_domain, args.namespace))?;
        let credentials = Credentials::new(mesh_credentials::Config {
            identity: Peer { address: args.identity_addr.parse().context("--identity-addr")?, identity },
            token_file: args.token_file,
            trust_bundle_file: args.trust_bundle_file,
        })?;
        let tls = tls(&credentials)?;
        let (keep, going_down) = (credentials.clone().run(Arc::default(), drop), ends.clone());
        let keep = async move {
            going_down.run_until_cancelled(keep).await;
        };
        run("the renewal of the certificate", Box::pin(keep));

        // 3. The listeners.
        let listener = listen(args.listen, "--listen")?;
        let pages_listener = listen(args.metrics_listen, "--metrics-listen")?;
        let (address, pages) = (listener.local_addr()?, pages_listener.local_addr()?);

        // 4. What is served.
        let (ready, is_ready) = watch::channel(false);
        let server = Server { listener, tls, metrics: metrics.clone(), leaving: leaving.clone(), cancel: ends.clone() };
        let webhook = Arc::new(Webhook::new(in_force, events, metrics.clone()));
        let answer = move |request| {
            let webhook = webhook.clone();
            async move { webhook.answer(request).await }
        };
        run("the webhook", Box::pin(server.run(answer)));
        let shown = Pages { ready: is_ready, parts: parts.clone(), metrics: metrics.clone() };
        let answer = move |request| {
            let answer = shown.answer(&request);
            async move { answer }
        };
        run("the pages", Box::pin(serve_pages(pages_listener, ends.clone(), answer)));

        // 5. Only with a certificate is it said that we are here.
        let says = ready.clone();
        tokio::spawn(leaving.clone().run_until_cancelled_owned(async move {
            credentials.ready().await;
            says.send_replace(true);
            tracing::info!("mesh-injector {VERSION}: webhook on {address}, pages on {pages}");
        }));
        Ok(Self { address, pages, ready, leaving, ends, servers })
    }

    /// Waits until pods may be sent here.
    pub async fn ready(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Says that it is not ready, serves on for a while, closes.
    pub async fn stop(self) {
        self.ready.send_replace(false);
        self.leaving.cancel();
        tokio::time::sleep(LEAVE_FOR).await;
        self.ends.cancel();
        self.servers.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.servers.wait()).await.is_err() {
            tracing::warn!("some connections were still open after {CLOSE_LIMIT:?}");
        }
    }
}

/// TLS for API servers: 1.2 too, which some of them are limited to by policy. The certificate follows renewals.
fn tls(credentials: &Credentials) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(credentials.held().clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    mesh_listen::listen(address).with_context(|| format!("{flag} {address}: cannot listen there"))
}
