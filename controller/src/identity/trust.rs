//! The trust bundle as proxies get it: now, and again whenever it changes.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::Stream;
use mesh_proto::v1;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::follow::{Changes, CompileTurn, Step, follow},
    metrics::Metrics,
};

/// The roots in force, by the trust domain that they vouch for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Of our own trust domain.
    pub own: Vec<CertificateDer<'static>>,
    /// Of others.
    pub others: BTreeMap<Box<str>, Vec<CertificateDer<'static>>>,
}

impl From<Vec<CertificateDer<'static>>> for Bundle {
    /// Of our own trust domain alone.
    fn from(own: Vec<CertificateDer<'static>>) -> Self {
        Self { own, others: BTreeMap::new() }
    }
}

impl From<&Bundle> for v1::TrustBundle {
    fn from(bundle: &Bundle) -> Self {
        let ders = |roots: &[CertificateDer<'_>]| roots.iter().map(|root| root.to_vec()).collect();
        let others = bundle.others.iter();
        let others =
            others.map(|(domain, roots)| v1::TrustDomain { trust_domain: domain.to_string(), roots_der: ders(roots) });
        Self { roots_der: ders(&bundle.own), others: others.collect() }
    }
}

/// Follows the bundle; sends it only when it really changed.
pub(crate) fn stream(
    bundle: watch::Receiver<Arc<Bundle>>,
    cancel: CancellationToken,
    metrics: &Metrics,
) -> impl Stream<Item = Result<v1::TrustBundle, Status>> + Send + use<> {
    let mut sent: Option<Arc<Bundle>> = None;
    follow(Changes(vec![bundle.clone()]), cancel, &metrics.trust, CompileTurn::none(), move || {
        let now = bundle.borrow().clone();
        if sent.as_ref() == Some(&now) {
            return Step::Same;
        }
        sent = Some(now.clone());
        Step::Send(v1::TrustBundle::from(&*now))
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
        let (sender, receiver) = watch::channel(Arc::new(Bundle::from(vec![root(1)])));
        let metrics = Metrics::new();
        let mut stream = std::pin::pin!(stream(receiver, CancellationToken::new(), &metrics));
        assert_eq!(stream.next().await.unwrap().unwrap().roots_der, [[1]]);
        assert!(stream.next().now_or_never().is_none(), "it waits");
        sender.send_replace(Arc::new(vec![root(1)].into()));
        assert!(stream.next().now_or_never().is_none(), "the same again is no change");
        sender.send_replace(Arc::new(vec![root(1), root(2)].into()));
        assert_eq!(stream.next().await.unwrap().unwrap().roots_der, [[1], [2]]);
        let mut both = Bundle::from(vec![root(1), root(2)]);
        both.others.insert("east.example".into(), vec![root(3)]);
        sender.send_replace(Arc::new(both));
        let sent = stream.next().await.unwrap().unwrap();
        assert_eq!(sent.roots_der, [[1], [2]], "ours are never mixed with another's");
        assert_eq!(
            (sent.others[0].trust_domain.as_str(), &sent.others[0].roots_der[..]),
            ("east.example", &[vec![3]][..])
        );
        assert!(stream.next().now_or_never().is_none(), "it waits again");
    }
}
