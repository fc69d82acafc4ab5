//! `mesh-controller folder`: identity, policy and destination in one process, from a folder of manifests.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use mesh_credentials::{roots::Roots, tls::Held};
use mesh_policy::Identity;
use mesh_proto::v1::{
    destination_server::DestinationServer, identity_server::IdentityServer, policy_server::PolicyServer,
};
use mesh_resources::Options;
use serde::Serialize;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    admin::{self, Admin},
    app::{Servers, Signals, listen},
    args::FolderArgs,
    destination::DestinationService,
    files,
    folder::Folder,
    identity::IdentityService,
    index::Index,
    listener::Limits,
    local_ca,
    metrics::Metrics,
    policy::PolicyService,
    server,
    serving::ServingCertificate,
    token::TokenAuthority,
    token_files::TokenFiles,
    trust::Bundle,
    verifier::LocalVerifier,
    watch as watch_folder,
};

/// Namespace of the control plane's identities.
const NAMESPACE: &str = "mesh-system";
/// File of the state folder that says where we listen; there once all listeners stand.
const ADDRESSES: &str = "addresses.json";

/// Where the controller listens, as in `addresses.json` of the state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Service Identity.
    pub identity: SocketAddr,
    /// Services Policy and Destination.
    pub destination: SocketAddr,
    /// The admin pages.
    pub metrics: SocketAddr,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: FolderArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let controller = Controller::start(args).await?;
    signals.wait().await;
    controller.stop().await;
    Ok(())
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    addresses: Addresses,
    servers: Servers,
    /// Streams of bundles last as long as this does.
    _bundle: watch::Sender<Arc<Bundle>>,
}

impl Controller {
    /// Starts everything; when this returns, all listeners stand and the folder was read once.
    pub async fn start(args: FolderArgs) -> Result<Self> {
        let domain: Arc<str> = args.trust_domain.as_str().into();
        let own = |account: &str| {
            Identity::new(&domain, NAMESPACE, account).with_context(|| format!("--trust-domain {domain:?}"))
        };
        let (identity_name, destination_name) = (own("mesh-identity")?, own("mesh-destination")?);
        let metrics = Metrics::new();
        let servers = Servers::default();
        let cancel = servers.cancel();

        // 1. The state: keys first, for everything else needs them.
        files::private_dir(&args.state).with_context(|| format!("--state {}", args.state.display()))?;
        // Whoever waits for the addresses must not find those of an earlier run.
        if let Err(error) = std::fs::remove_file(args.state.join(ADDRESSES))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("{}/{ADDRESSES}", args.state.display()));
        }
        let authority = Arc::new(local_ca::load_or_create(&args.state, &domain, args.leaf_lifetime)?);
        let tokens = Arc::new(TokenAuthority::load_or_create(&args.state)?);
        let (bundle_sender, bundle) = watch::channel(authority.signer().anchors().clone());

        // 2. The world, read once before anyone can ask: no proxy is told NOT_FOUND only because we just started.
        let options = Options {
            meshed_by_label: true,
            trust_domain: domain.to_string(),
            cluster_networks: args.cluster_networks.clone(),
            ..Options::default()
        };
        let (index, world) = Index::new(options, metrics.clone());
        let topics = index.topics();
        let mut folder = Folder::new(args.manifests.clone(), index, metrics.clone());
        let folder = tokio::task::spawn_blocking(move || {
            folder.read();
            folder
        });
        let folder = folder.await?;
        let mut token_files = TokenFiles::new(&args.state, tokens.clone(), args.token_lifetime)
            .with_context(|| format!("{}/tokens", args.state.display()))?;
        token_files.write(&world.borrow());

        // 3. The listeners.
        let identity_listener = listen(args.identity_listen, "--identity-listen")?;
        let destination_listener = listen(args.destination_listen, "--destination-listen")?;
        let metrics_listener = listen(args.metrics_listen, "--metrics-listen")?;
        let addresses = Addresses {
            identity: identity_listener.local_addr()?,
            destination: destination_listener.local_addr()?,
            metrics: metrics_listener.local_addr()?,
        };
        let identity_certificate = ServingCertificate::new(authority.clone(), identity_name)?;
        let destination_certificate = ServingCertificate::new(authority.clone(), destination_name)?;
        let identity_tls = server::tls_config(identity_certificate.clone())?;
        let roots = Roots::new(&domain, &authority.signer().anchors().own).map_err(anyhow::Error::msg)?;
        let held = Arc::new(Held::new(roots));
        let destination_tls = server::mesh_tls(held, destination_certificate.clone())?;

        // 4. What keeps things current.
        servers.spawn("the watch of the folder", watch_folder::follow(folder, cancel.clone()));
        servers.spawn("the writer of tokens", token_files.run(world.clone(), cancel.clone()));
        servers.spawn("the renewal of identity's certificate", identity_certificate.keep_fresh(cancel.clone()));
        servers.spawn("the renewal of destination's certificate", destination_certificate.keep_fresh(cancel.clone()));

        // 5. The services.
        let identity = IdentityService {
            authority,
            verifier: Arc::new(LocalVerifier { tokens, index: world.clone(), trust_domain: domain }),
            bundle,
            cancel: cancel.clone(),
            metrics: metrics.clone(),
        };
        let limit = server::MAX_CERTIFY_BYTES;
        let identity = Routes::new(IdentityServer::new(identity).max_decoding_message_size(limit));
        servers.grpc("the identity service", identity, Limits::IDENTITY, identity_listener, identity_tls, &metrics);
        let policy = PolicyService::new(world.clone(), topics.clone(), cancel.clone(), metrics.clone());
        let destination = DestinationService::new(world.clone(), topics, cancel.clone(), metrics.clone());
        let limit = server::MAX_QUESTION_BYTES;
        let destination = Routes::new(PolicyServer::new(policy).max_decoding_message_size(limit))
            .add_service(DestinationServer::new(destination).max_decoding_message_size(limit));
        servers.grpc(
            "the policy and destination service",
            destination,
            Limits::DESTINATION,
            destination_listener,
            destination_tls,
            &metrics,
        );
        let pages = Admin { index: world, metrics, ready: servers.ready(), parts: servers.parts() };
        servers.spawn("the pages", admin::serve(metrics_listener, pages, cancel));

        // 6. Only now is it said that we are here.
        write_addresses(&args.state, &addresses)?;
        servers.set_ready();
        tracing::info!(
            "mesh-controller {}: identity on {}, policy and destination on {}, pages on {}, manifests from {}",
            env!("CARGO_PKG_VERSION"),
            addresses.identity,
            addresses.destination,
            addresses.metrics,
            args.manifests.display()
        );
        Ok(Self { addresses, servers, _bundle: bundle_sender })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Ends streams without error, takes no more connections and waits a little for open calls.
    pub async fn stop(self) {
        self.servers.stop().await;
    }
}

fn write_addresses(state: &Path, addresses: &Addresses) -> Result<()> {
    let path = state.join(ADDRESSES);
    let json = serde_json::to_vec(addresses)?;
    files::write_atomically(&path, &json, files::PUBLIC).with_context(|| path.display().to_string())
}
