//! `mesh-controller folder`: identity, policy and destination in one process, from a folder of manifests.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use mesh_credentials::{roots::Roots, tls::Held};
use mesh_listen::Signals;
use mesh_policy::{
    Identity,
    well_known::{CONTROL_NAMESPACE, MESH_DESTINATION, MESH_IDENTITY},
};
use mesh_proto::v1::identity_server::IdentityServer;
use mesh_resources::Options;
use serde::Serialize;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    admin::{self, Admin},
    api::{self, identity::IdentityService, listener::Limits, server},
    app::{Servers, listen, signalled},
    args::FolderArgs,
    files,
    identity::{
        local_ca, serving::ServingCertificate, token::TokenAuthority, token_files::TokenFiles, trust::Bundle,
        verifier::LocalVerifier,
    },
    metrics::Metrics,
    source::{folder::Folder, folder_watch, index::Index},
};

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

impl Addresses {
    /// Who we are and where we listen.
    fn greeting(&self) -> String {
        let Self { identity, destination, metrics } = self;
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "mesh-controller {version}: identity on {identity}, policy and destination on {destination}, pages on {metrics}"
        )
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: FolderArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let controller = Controller::start(args).await?;
    signalled(&mut signals).await;
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
        let (identity_name, destination_name) = (own(&domain, MESH_IDENTITY)?, own(&domain, MESH_DESTINATION)?);
        let (metrics, servers) = (Metrics::new(), Servers::default());
        let cancel = servers.cancel();

        // 1. The state: keys first, for everything else needs them.
        open_state(&args.state)?;
        let authority = Arc::new(local_ca::load_or_create(&args.state, &domain, args.leaf_lifetime)?);
        let tokens = Arc::new(TokenAuthority::load_or_create(&args.state)?);
        let (bundle_sender, bundle) = watch::channel(authority.signer().anchors().clone());

        // 2. All objects, read once before anyone can ask: no proxy is told NOT_FOUND only because we just started.
        let (index, published) = Index::new(options_of(&args), metrics.clone());
        let interests = index.interests();
        let folder = read(Folder::new(args.manifests.clone(), index, metrics.clone())).await?;
        let mut token_files = TokenFiles::new(&args.state, tokens.clone(), args.token_lifetime)
            .with_context(|| format!("{}/tokens", args.state.display()))?;
        token_files.write(&published.borrow());

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
        servers.spawn("the watch of the folder", folder_watch::follow(folder, cancel.clone()));
        servers.spawn("the writer of tokens", token_files.run(published.clone(), cancel.clone()));
        servers.spawn("the renewal of identity's certificate", identity_certificate.keep_fresh(cancel.clone()));
        servers.spawn("the renewal of destination's certificate", destination_certificate.keep_fresh(cancel.clone()));

        // 5. The services.
        let identity = IdentityService {
            authority,
            verifier: Arc::new(LocalVerifier { tokens, index: published.clone(), trust_domain: domain }),
            bundle,
            cancel: cancel.clone(),
            metrics: metrics.clone(),
        };
        let limit = server::MAX_CERTIFY_BYTES;
        let identity = Routes::new(IdentityServer::new(identity).max_decoding_message_size(limit));
        servers.grpc("the identity service", identity, Limits::IDENTITY, identity_listener, identity_tls, &metrics);
        let destination = api::routes(&published, &interests, cancel.clone(), &metrics);
        let name = "the policy and destination service";
        servers.grpc(name, destination, Limits::DESTINATION, destination_listener, destination_tls, &metrics);
        let pages = Admin { index: published, metrics, ready: servers.ready(), parts: servers.parts() };
        servers.spawn("the pages", admin::serve(metrics_listener, pages, cancel));

        // 6. Only now is it said that we are here.
        write_addresses(&args.state, &addresses)?;
        servers.set_ready();
        tracing::info!("{}, manifests from {}", addresses.greeting(), args.manifests.display());
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

/// An account of the control plane.
fn own(domain: &str, account: &str) -> Result<Identity> {
    Identity::new(domain, CONTROL_NAMESPACE, account).with_context(|| format!("--trust-domain {domain:?}"))
}

/// The folder of the state; whoever waits for the addresses must not find those of an earlier run.
fn open_state(state: &Path) -> Result<()> {
    files::private_dir(state).with_context(|| format!("--state {}", state.display()))?;
    match std::fs::remove_file(state.join(ADDRESSES)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}/{ADDRESSES}", state.display()))
        }
        _ => Ok(()),
    }
}

fn options_of(args: &FolderArgs) -> Options {
    Options {
        meshed_by_label: true,
        trust_domain: args.trust_domain.clone(),
        cluster_networks: args.cluster_networks.clone(),
        ..Options::default()
    }
}

/// Reads the folder once.
async fn read(mut folder: Folder) -> Result<Folder> {
    let reading = tokio::task::spawn_blocking(move || {
        folder.read();
        folder
    });
    Ok(reading.await?)
}
