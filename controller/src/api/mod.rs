//! What proxies ask: the gRPC services, and what bounds and orders their answers.
//!
//! [`server`] and [`listener`] are TLS and gRPC, and `account` what one caller may hold. One file a service: [`identity`],
//! [`policy`], [`destination`] (the roots are streamed by `identity::trust`). `follow` is a stream, [`interest`] wakes it, `compiler`
//! finds out what it is told and `cache` keeps that; `streams` ends the older of two that ask the same, and [`stalled`] all of a
//! replica that has not heard of its API server.

mod account;
mod cache;
mod caller;
mod compiler;
pub(crate) mod destination;
pub(crate) mod follow;
pub(crate) mod identity;
pub(crate) mod interest;
pub(crate) mod listener;
pub(crate) mod policy;
pub(crate) mod revisions;
pub(crate) mod server;
pub(crate) mod stalled;
mod streams;

use std::sync::Arc;

use mesh_proto::v1::{destination_server::DestinationServer, policy_server::PolicyServer};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{metrics::Metrics, source::index::Published};

/// The services that answer what is in force: of policies and of endpoints.
pub(crate) fn routes(
    index: &watch::Receiver<Arc<Published>>,
    interests: &interest::Interests,
    endings: impl Into<stalled::Endings>,
    metrics: &Arc<Metrics>,
) -> Routes {
    let endings = endings.into();
    let policy = policy::PolicyService::new(index.clone(), interests.clone(), endings.clone(), metrics.clone());
    let destination = destination::DestinationService::new(index.clone(), interests.clone(), endings, metrics.clone());
    let limit = server::MAX_QUESTION_BYTES;
    Routes::new(PolicyServer::new(policy).max_decoding_message_size(limit))
        .add_service(DestinationServer::new(destination).max_decoding_message_size(limit))
}
