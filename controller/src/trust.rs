//! The trust bundle as proxies get it: now, and again whenever it changes.

use std::sync::Arc;

use futures_util::Stream;
use mesh_proto::v1;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    follow::{Step, follow},
    metrics::Metrics,
};

/// The roots in force.
pub type Bundle = Vec<CertificateDer<'static>>;

/// Follows the bundle; sends it only when it really changed.
pub(crate) fn stream(
    bundle: watch::Receiver<Arc<Bundle>>,
    cancel: CancellationToken,
    metrics: &Metrics,
) -> impl Stream<Item = Result<v1::TrustBundle, Status>> + Send + use<> {
    let mut sent: Option<Bundle> = None;
    follow(bundle, cancel, &metrics.trust, move |now: &Bundle| {
        if sent.as_ref() == Some(now) {
            return Step::Same;
        }
        sent = Some(now.clone());
        Step::Send(v1::TrustBundle { roots_der: now.iter().map(|root| root.to_vec()).collect() })
    })
}
