//! `mesh-controller identity`: issues certificates and keeps the trust bundle current.
//!
//! Several replicas serve; the one that holds the Lease also writes the bundle into namespaces and into the webhook.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use kube::Client;
use mesh_listen::Signals;
use mesh_policy::{Identity, well_known::MESH_IDENTITY};
use mesh_proto::v1::identity_server::IdentityServer;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    admin::{self, Admin},
    api::{identity::IdentityService, listener::Limits, server},
    app::{Servers, listen, signalled},
    args::IdentityArgs,
    identity::{
        ca::Authority,
        issuer_secret::{IssuerOptions, IssuerSecret},
        serving::ServingCertificate,
        token_review::KubeVerifier,
        trust::Bundle,
        trust_writer::TrustWriter,
        webhook::WebhookCa,
    },
    kube::{lead, lease::Election, replica_name},
    metrics::Metrics,
    source::index::Published,
};

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: IdentityArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let no_server = "no API server is known; run in a pod with a ServiceAccount, or name one by KUBECONFIG";
    let client = Client::try_default().await.context(no_server)?;
    let role = Role::start(args, client)?;
    // 1. Pages, and an issuer. 2. Certificates.
    let serving = tokio::select! {
        () = signalled(&mut signals) => None,
        serving = role.serve() => Some(serving?),
    };
    if serving.is_some() {
        signalled(&mut signals).await;
    }
    role.stop().await;
    Ok(())
}

/// A running role.
struct Role {
    args: IdentityArgs,
    client: Client,
    identity: Identity,
    metrics: Arc<Metrics>,
    problems: watch::Sender<Arc<Published>>,
    /// Whether we serve, with an issuer that has not ended.
    ready: watch::Sender<bool>,
    servers: Servers,
    /// Where the pages are.
    pages: SocketAddr,
}

impl Role {
    /// Serves the pages, which say what is waited for.
    fn start(args: IdentityArgs, client: Client) -> Result<Self> {
        let common = &args.common;
        let identity = Identity::new(&common.trust_domain, &common.namespace, MESH_IDENTITY)
            .with_context(|| format!("--trust-domain {:?} --namespace {:?}", common.trust_domain, common.namespace))?;
        let (metrics, servers) = (Metrics::new(), Servers::default());
        let (problems, ready) = (watch::Sender::new(Arc::default()), watch::Sender::new(false));
        let listener = listen(common.metrics_listen, "--metrics-listen")?;
        let pages = listener.local_addr()?;
        let (index, ready_now, parts) = (problems.subscribe(), ready.subscribe(), servers.parts());
        let admin = Admin { index, metrics: metrics.clone(), ready: ready_now, parts };
        servers.spawn("the pages", admin::serve(listener, admin, servers.cancel()));
        Ok(Self { args, client, identity, metrics, problems, ready, servers, pages })
    }

    /// Waits for an issuer, then serves; says where.
    async fn serve(&self) -> Result<SocketAddr> {
        let (args, namespace) = (&self.args, &self.args.common.namespace);

        // 1. The issuer, for everything else needs it.
        let options = IssuerOptions {
            namespace: namespace.clone(),
            secret: args.issuer_secret.clone(),
            more_anchors: args.trust_anchors_config_map.clone(),
            is_external: args.external_issuer,
            leaf_lifetime: args.leaf_lifetime,
            probe: self.identity.clone(),
        };
        let mut issuer = IssuerSecret::new(self.client.clone(), options, self.metrics.clone(), self.problems.clone());
        let authority = Arc::new(issuer.first().await);
        let (bundle, _) = watch::channel(authority.signer().anchors().clone());

        // 2. Our own certificate is of the same issuer.
        let certificate = ServingCertificate::new(authority.clone(), self.identity.clone())?;
        let tls = server::tls_config(certificate.clone())?;
        self.servers.spawn("the renewal of the certificate", certificate.keep_fresh(self.servers.cancel()));

        // 3. Whoever leads writes.
        self.elect(&bundle);

        // 4. The service.
        let listener = listen(args.listen, "--listen")?;
        let address = listener.local_addr()?;
        let service = self.service(authority.clone(), &bundle);
        let service = IdentityServer::new(service).max_decoding_message_size(server::MAX_CERTIFY_BYTES);
        let (routes, limits) = (Routes::new(service), Limits::IDENTITY);
        self.servers.grpc("the identity service", routes, limits, listener, tls, &self.metrics);

        // 5. From now on we are ready, for as long as the issuer is good.
        self.servers.until_the_end("the watch of the issuer", issuer.follow(authority, bundle, self.ready.clone()));
        tracing::info!(
            "mesh-controller {}: {} issues certificates on {address}, pages on {}",
            env!("CARGO_PKG_VERSION"),
            self.identity,
            self.pages
        );
        Ok(address)
    }

    fn service(&self, authority: Arc<Authority>, bundle: &watch::Sender<Arc<Bundle>>) -> IdentityService {
        let (common, client) = (&self.args.common, self.client.clone());
        IdentityService {
            authority,
            verifier: Arc::new(KubeVerifier::new(client, &common.namespace, common.trust_domain.as_str().into())),
            bundle: bundle.subscribe(),
            cancel: self.servers.cancel(),
            metrics: self.metrics.clone(),
        }
    }

    fn elect(&self, bundle: &watch::Sender<Arc<Bundle>>) {
        let namespace = &self.args.common.namespace;
        let (election, mut leading) = Election::new(self.client.clone(), namespace, MESH_IDENTITY, &replica_name());
        let writer = TrustWriter {
            client: self.client.clone(),
            namespace: namespace.clone(),
            bundle: bundle.subscribe(),
            metrics: self.metrics.clone(),
            problems: self.problems.clone(),
        };
        let webhook =
            WebhookCa { client: self.client.clone(), name: self.args.webhook.clone(), bundle: bundle.subscribe() };
        // It gives the Lease back at the end.
        self.servers.spawn("the election", election.run(self.servers.cancel()));
        let metrics = self.metrics.clone();
        self.servers.until_the_end("the writer of trust bundles", async move {
            lead(&mut leading, || async {
                let _leading = crate::metrics::GaugeGuard::new(&metrics.leading);
                tokio::join!(writer.clone().run(), webhook.clone().run())
            })
            .await;
        });
    }

    /// Not ready any more; streams end without error, and the Lease is given back.
    async fn stop(self) {
        self.ready.send_replace(false);
        self.servers.stop().await;
    }
}

#[cfg(test)]
mod tests;
