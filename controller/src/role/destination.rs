//! `mesh-controller destination`: policies and endpoints, from the watches of an API server.
//!
//! Any number of replicas serve alike: each watches everything, and a proxy that loses one asks another for all it needs.
//! The one that holds the Lease also writes the status of routes.

use std::sync::Arc;

use anyhow::{Context, Result};
use kube::Client;
use mesh_credentials::{Config, Credentials, Event, channel::Peer};
use mesh_policy::Identity;
use mesh_proto::v1::{destination_server::DestinationServer, policy_server::PolicyServer};
use mesh_resources::Options;
use tonic::service::Routes;

use crate::{
    admin::{self, Admin},
    app::{Servers, Signals, listen},
    args::DestinationArgs,
    ca::unix_seconds,
    destination::DestinationService,
    index::Index,
    kube::{lead, lease::Election, replica_name, status_writer::StatusWriter, world::World},
    listener::Limits,
    metrics::{Held, Metrics},
    policy::PolicyService,
    server,
    stalled::{Endings, Replica},
};

/// Name of our ServiceAccount, of our Service and of the Lease.
const NAME: &str = "mesh-destination";

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: DestinationArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let servers = Servers::default();
    let ended = tokio::select! {
        () = signals.wait() => Ok(()),
        failed = start(&args, &servers) => match failed {
            Ok(()) => {
                signals.wait().await;
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
    let domain = args.common.trust_domain.as_str();
    let cancel = servers.cancel();
    let metrics = Metrics::new();

    // 1. What we need from outside: an API server, a token and the trust bundle.
    let client = Client::try_default().await.context(
        "no API server is known; run in a pod with a ServiceAccount, or set KUBECONFIG to a file that names one",
    )?;
    let config = Config {
        identity: Peer {
            address: args.identity.identity_addr.parse().context("--identity-addr")?,
            identity: Identity::new(domain, &args.common.namespace, "mesh-identity")
                .context("--trust-domain and --namespace")?,
        },
        token_file: args.identity.token_file.clone(),
        trust_bundle_file: args.identity.trust_bundle_file.clone(),
    };
    let credentials = Credentials::new(config)?;

    // 2. The pages, so that it can be seen what is waited for.
    let options = Options {
        meshed_by_label: false,
        trust_domain: domain.to_owned(),
        cluster_domain: args.cluster_domain.trim_end_matches('.').to_ascii_lowercase(),
        cluster_networks: args.cluster_networks.clone(),
    };
    let (index, state) = Index::new(options, metrics.clone());
    let (topics, statuses, wanted) = (index.topics(), index.statuses(), index.wanted());
    let (ready, parts) = (servers.ready(), servers.parts());
    let pages = Admin { index: state.clone(), metrics: metrics.clone(), ready, parts };
    let metrics_listener = listen(args.common.metrics_listen, "--metrics-listen")?;
    servers.spawn("the pages", admin::serve(metrics_listener, pages, cancel.clone()));

    // 3. The world and the certificate, at the same time. No proxy is told NOT_FOUND only because we just started, and
    //    none is told that a server is not meshed before its pod was seen.
    let (world, mut synced) = World::new(index, &metrics);
    let heard = world.heard();
    //    What objects say is found out on a thread of its own, where no stream, Lease or probe waits for it.
    servers.thread("the watch of the cluster", async move |cancel| match Client::try_default().await {
        Ok(client) => world.run(client, cancel).await,
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
    let limit = server::MAX_QUESTION_BYTES;
    let endings = Endings::from(cancel);
    let policy = PolicyService::new(state.clone(), topics.clone(), endings.clone(), metrics.clone());
    let destination = DestinationService::new(state.clone(), topics, endings.clone(), metrics.clone());
    let routes = Routes::new(PolicyServer::new(policy).max_decoding_message_size(limit))
        .add_service(DestinationServer::new(destination).max_decoding_message_size(limit));
    let held = credentials.held();
    let tls = server::mesh_tls(held.clone(), held.clone())?;
    let listener = listen(args.listen, "--listen")?;
    let address = listener.local_addr()?;
    servers.grpc("the policy and destination service", routes, Limits::DESTINATION, listener, tls, &metrics);

    let (index, namespace, pod) = (state.clone(), args.common.namespace.clone(), replica_name());
    let replica = Replica { heard, index, namespace, service: NAME, pod, endings };
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

/// Takes part in the election, and writes while it is won.
fn elect(client: Client, namespace: &str, writer: StatusWriter, servers: &Servers) -> Result<()> {
    let (election, mut leading) = Election::new(client, namespace, NAME, &replica_name());
    // It gives the Lease back at the end.
    servers.spawn("the election", election.run(servers.cancel()));
    // There may be many routes to compare.
    servers.thread("the writer of status", async move |cancel| {
        let writer = match Client::try_default().await {
            Ok(client) => StatusWriter { client, ..writer },
            Err(error) => return tracing::error!("no API server is known any more: {error}"),
        };
        let writing = lead(&mut leading, || async {
            let _leading = Held::new(&writer.metrics.leading);
            writer.clone().run().await;
        });
        cancel.run_until_cancelled(writing).await;
    })
}
