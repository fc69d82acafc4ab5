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
    let mut sent: Option<Arc<Bundle>> = None;
    follow(bundle.clone(), cancel, &metrics.trust, move || {
        let now = bundle.borrow().clone();
        if sent.as_ref() == Some(&now) {
            return Step::Same;
        }
        sent = Some(now.clone());
        Step::Send(v1::TrustBundle { roots_der: now.iter().map(|root| root.to_vec()).collect() })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[tokio::test]
    async fn it_stays_open_and_tells_of_each_change_once() {
        let root = |byte: u8| CertificateDer::from(vec![byte]);
        let (sender, receiver) = watch::channel(Arc::new(vec![root(1)]));
        let metrics = Metrics::new();
        let mut stream = std::pin::pin!(stream(receiver, CancellationToken::new(), &metrics));
        assert_eq!(stream.next().await.unwrap().unwrap().roots_der, [[1]]);
        assert!(stream.next().now_or_never().is_none(), "it waits");
        sender.send_replace(Arc::new(vec![root(1)]));
        assert!(stream.next().now_or_never().is_none(), "the same again is no change");
        sender.send_replace(Arc::new(vec![root(1), root(2)]));
        assert_eq!(stream.next().await.unwrap().unwrap().roots_der, [[1], [2]]);
        assert!(stream.next().now_or_never().is_none(), "it waits again");
    }
}
