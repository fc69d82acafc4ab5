//! `mesh-controller destination`: policies and endpoints, from the watches of an API server.
//!
//! Any number of replicas serve alike: each watches everything, and a proxy that loses one asks another for all it needs.
//! The one that holds the Lease also writes the status of routes.

use std::sync::Arc;

use anyhow::{Context, Result};
use kube::Client;
use mesh_credentials::{Config, Credentials, Event, channel::Peer};
use mesh_listen::Signals;
use mesh_policy::{
    Identity,
    well_known::{MESH_DESTINATION, MESH_IDENTITY},
};
use mesh_resources::Options;

use crate::{
    admin::{self, Admin},
    api::{
        self,
        listener::Limits,
        server,
        stalled::{Endings, Replica},
    },
    app::{Servers, listen, signalled},
    args::DestinationArgs,
    identity::ca::unix_seconds,
    kube::{lead, lease::Election, replica_name},
    metrics::{GaugeGuard, Metrics},
    source::{cluster_watch::ClusterWatch, index::Index},
    status::writer::StatusWriter,
};

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: DestinationArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let servers = Servers::default();
    let ended = tokio::select! {
        () = signalled(&mut signals) => Ok(()),
        failed = start(&args, &servers) => match failed {
            Ok(()) => {
                signalled(&mut signals).await;
                Ok(())
            }
            failed => failed,
        },
    };
    servers.stop().await;
    ended
}

/// Starts everything; when this returns, proxies are served.
async fn start(args: &DestinationArgs, servers: &Servers) -> Result<()> {
    let cancel = servers.cancel();
    let metrics = Metrics::new();

    // 1. What we need from outside: an API server, a token and the trust bundle.
    let client = Client::try_default().await.context(
        "no API server is known; run in a pod with a ServiceAccount, or set KUBECONFIG to a file that names one",
    )?;
    let credentials = credentials_of(args)?;

    // 2. The pages, so that it can be seen what is waited for.
    let (index, state) = Index::new(options_of(args), metrics.clone());
    let (interests, statuses, wanted) = (index.interests(), index.observed_status(), index.wanted());
    let (ready, parts) = (servers.ready(), servers.parts());
    let pages = Admin { index: state.clone(), metrics: metrics.clone(), ready, parts };
    let metrics_listener = listen(args.common.metrics_listen, "--metrics-listen")?;
    servers.spawn("the pages", admin::serve(metrics_listener, pages, cancel.clone()));

    // 3. All objects and the certificate, at the same time. No proxy is told NOT_FOUND only because we just started, and
    //    none is told that a server is not meshed before its pod was seen.
    let (cluster, mut synced) = ClusterWatch::new(index, &metrics);
    let heard = cluster.heard();
    //    What objects say is found out on a thread of its own, where no stream, Lease or probe waits for it.
    servers.thread("the watch of the cluster", async move |cancel| match Client::try_default().await {
        Ok(client) => cluster.run(client, cancel).await,
        Err(error) => tracing::error!("no API server is known any more: {error}"),
    })?;
    let ends = metrics.certificate_ends.clone();
    servers.until_the_end(
        "the renewal of the certificate",
        credentials.clone().run(Arc::default(), move |event| {
            if let Event::Certified { not_after } = event {
                ends.set(unix_seconds(not_after) as f64);
            }
        }),
    );
    tracing::info!("reading the cluster's objects, and asking {} for a certificate", args.identity.identity_addr);
    tokio::try_join!(
        async { synced.wait_for(|synced| *synced).await.map(drop).context("the watches ended") },
        async {
            credentials.ready().await;
            Ok(())
        },
    )?;

    // 4. The services.
    let endings = Endings::from(cancel);
    let routes = api::routes(&state, &interests, endings.clone(), &metrics);
    let held = credentials.held();
    let tls = server::mesh_tls(held.clone(), held.clone())?;
    let listener = listen(args.listen, "--listen")?;
    let address = listener.local_addr()?;
    servers.grpc("the policy and destination service", routes, Limits::DESTINATION, listener, tls, &metrics);

    let (index, namespace, pod) = (state.clone(), args.common.namespace.clone(), replica_name());
    let replica = Replica { heard, index, namespace, service: MESH_DESTINATION, pod, endings };
    servers.until_the_end("the look for stalled watches", replica.run());

    // 5. Only now is it said that we are here.
    servers.set_ready();
    let objects = state.borrow().snapshot.len();
    tracing::info!(
        "mesh-controller {} destination: policy and destination on {address}, {objects} objects known",
        env!("CARGO_PKG_VERSION")
    );

    // 6. Whoever leads says in each route what became of it.
    let writer = StatusWriter { client: client.clone(), state, wanted, statuses, metrics };
    elect(client, &args.common.namespace, writer, servers)
}

/// Where a certificate is asked for, and with what.
fn credentials_of(args: &DestinationArgs) -> Result<Credentials> {
    let (domain, namespace) = (&args.common.trust_domain, &args.common.namespace);
    let config = Config {
        identity: Peer {
            address: args.identity.identity_addr.parse().context("--identity-addr")?,
            identity: Identity::new(domain, namespace, MESH_IDENTITY).context("--trust-domain and --namespace")?,
        },
        token_file: args.identity.token_file.clone(),
        trust_bundle_file: args.identity.trust_bundle_file.clone(),
    };
    Ok(Credentials::new(config)?)
}

fn options_of(args: &DestinationArgs) -> Options {
    Options {
        meshed_by_label: false,
        trust_domain: args.common.trust_domain.clone(),
        cluster_domain: args.cluster_domain.trim_end_matches('.').to_ascii_lowercase(),
        cluster_networks: args.cluster_networks.clone(),
    }
}

/// Takes part in the election, and writes while it is won.
fn elect(client: Client, namespace: &str, writer: StatusWriter, servers: &Servers) -> Result<()> {
    let (election, mut leading) = Election::new(client, namespace, MESH_DESTINATION, &replica_name());
    // It gives the Lease back at the end.
    servers.spawn("the election", election.run(servers.cancel()));
    // There may be many routes to compare.
    servers.thread("the writer of status", async move |cancel| {
        let writer = match Client::try_default().await {
            Ok(client) => StatusWriter { client, ..writer },
            Err(error) => return tracing::error!("no API server is known any more: {error}"),
        };
        let writing = lead(&mut leading, || async {
            let _leading = GaugeGuard::new(&writer.metrics.leading);
            writer.clone().run().await;
        });
        cancel.run_until_cancelled(writing).await;
    })
}
