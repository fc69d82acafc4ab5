//! Leader election over a `Lease`, for what only one replica may do.
//!
//! Whoever holds the Lease renews it every `RETRY`; others take it over when they have seen it unchanged for as long as
//! it says it lasts. Times are measured here, never compared between machines. A holder that could not renew for
//! `RENEW_LIMIT` says that it leads no longer, well before anyone else may take over. A writer must still tolerate a
//! moment of two leaders (a process may be stopped between asking and writing): what it writes is idempotent.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long others wait for a silent holder.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that renewed nothing for so long steps down: two thirds of [`DURATION`].
const RENEW_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to renew or to take over.
const RETRY: Duration = Duration::from_secs(2);
/// Longest single request; two fit into `RENEW_LIMIT`.
const REQUEST_LIMIT: Duration = Duration::from_secs(4);

/// One candidate for one Lease.
#[derive(Debug)]
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    holder: String,
    leading: watch::Sender<bool>,
    /// When we renewed last, while we hold it.
    renewed: Option<Instant>,
    /// The version that we saw of someone else's Lease, and since when.
    seen: Option<(String, Instant)>,
}

impl Election {
    /// A candidate, and where it tells whether it leads. `holder` tells replicas apart: the pod's name.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, holder: &str) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        let (name, holder) = (name.to_owned(), holder.to_owned());
        (Self { api: Api::namespaced(client, namespace), name, holder, leading, renewed: None, seen: None }, receiver)
    }

    /// Takes part until cancelled; then gives the Lease back, so that another need not wait.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let begun = Instant::now();
            // While leading, a request may take no longer than the time left to lead.
            let left = self.renewed.map_or(REQUEST_LIMIT, |at| RENEW_LIMIT.saturating_sub(at.elapsed()));
            let limit = left.min(REQUEST_LIMIT);
            let Some(outcome) = cancel.run_until_cancelled(tokio::time::timeout(limit, self.attempt())).await else {
                break;
            };
            match outcome {
                Ok(Ok(true)) => {
                    self.renewed = Some(begun);
                    self.tell(true);
                }
                Ok(Ok(false)) => self.step_down("another replica holds it"),
                Ok(Err(error)) => self.failed(&error.to_string()),
                Err(_) => self.failed("the API server did not answer in time"),
            }
            if cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                break;
            }
        }
        let held = self.renewed.is_some();
        self.step_down("going down");
        if held && !matches!(tokio::time::timeout(REQUEST_LIMIT, self.release()).await, Ok(Ok(()))) {
            tracing::debug!("the Lease {} could not be given back; it ends by itself", self.name);
        }
    }

    /// Renews or takes the Lease if that is possible now; says whether we hold it.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.held(None)) };
            return won(self.api.create(&PostParams::default(), &lease)).await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder != self.holder && !holder.is_empty() {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let lasts = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
            match &self.seen {
                Some((seen, since)) if *seen == version && since.elapsed() > lasts.unwrap_or(DURATION) => {}
                Some((seen, _)) if *seen == version => return Ok(false),
                _ => {
                    self.seen = Some((version, Instant::now()));
                    return Ok(false);
                }
            }
        }
        let spec = Some(self.held(Some(spec)));
        won(self.api.replace(&self.name, &PostParams::default(), &Lease { metadata: lease.metadata, spec })).await
    }

    /// The Lease as we write it, over what was there.
    fn held(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let now = Some(MicroTime(Timestamp::now()));
        let is_renewal = before.holder_identity.as_ref() == Some(&self.holder);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: before.acquire_time.filter(|_| is_renewal).or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(if is_renewal { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder)) else {
            return Ok(());
        };
        spec.holder_identity = None;
        self.api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }

    fn failed(&mut self, why: &str) {
        tracing::warn!(
            "the Lease {} could not be renewed: {why}; is the API server there, and may this ServiceAccount get, create \
             and update leases?",
            self.name
        );
        if self.renewed.is_some_and(|at| at.elapsed() + RETRY >= RENEW_LIMIT) {
            self.step_down("it could not be renewed in time");
        }
    }

    fn step_down(&mut self, why: &str) {
        self.renewed = None;
        if *self.leading.borrow() {
            tracing::info!("no longer the holder of the Lease {}: {why}", self.name);
        }
        self.tell(false);
    }

    fn tell(&self, leading: bool) {
        let is_news = self.leading.send_if_modified(|now| std::mem::replace(now, leading) != leading);
        if is_news && leading {
            tracing::info!("{} holds the Lease {} now", self.holder, self.name);
        }
    }
}

/// Whether a write went through; a conflict says that another was faster.
async fn won(write: impl Future<Output = kube::Result<Lease>>) -> kube::Result<bool> {
    match write.await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    /// An API server that holds one Lease, and can go away.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        lease: Option<Lease>,
        version: u64,
        is_away: bool,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { server.answer(request).await }
            });
            Client::new(service, "mesh-system")
        }

        async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let mut state = self.0.lock().unwrap();
            if state.is_away {
                return Err(std::io::Error::other("connection refused"));
            }
            if parts.method != Method::GET {
                let mut lease: Lease = serde_json::from_slice(&body).unwrap();
                let before = state.lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
                if lease.metadata.resource_version != before {
                    return Ok(answer(StatusCode::CONFLICT, &status(409, "Conflict")));
                }
                state.version += 1;
                lease.metadata.resource_version = Some(state.version.to_string());
                state.lease = Some(lease);
            }
            Ok(match &state.lease {
                Some(lease) => answer(StatusCode::OK, lease),
                None => answer(StatusCode::NOT_FOUND, &status(404, "NotFound")),
            })
        }

        fn holder(&self) -> Option<String> {
            self.0.lock().unwrap().lease.as_ref()?.spec.as_ref()?.holder_identity.clone()
        }
    }

    fn status(code: u16, reason: &str) -> serde_json::Value {
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": reason})
    }

    fn answer(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
        Response::builder().status(status).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
    }

    fn candidate(server: &Server, holder: &str) -> (Election, watch::Receiver<bool>) {
        Election::new(server.client(), "mesh-system", "mesh-destination", holder)
    }

    #[tokio::test]
    async fn one_leads_the_other_waits_and_takes_over_what_is_given_back() {
        let server = Server::default();
        let (mut a, _) = candidate(&server, "a");
        let (mut b, _) = candidate(&server, "b");
        assert!(a.attempt().await.unwrap());
        assert!(!b.attempt().await.unwrap() && !b.attempt().await.unwrap());
        assert!(a.attempt().await.unwrap(), "a renews");
        assert!(!b.attempt().await.unwrap());
        a.release().await.unwrap();
        assert!(b.attempt().await.unwrap());
        assert!(!a.attempt().await.unwrap());
        assert_eq!(server.holder().as_deref(), Some("b"));
        assert_eq!(server.0.lock().unwrap().lease.as_ref().unwrap().spec.as_ref().unwrap().lease_transitions, Some(2));
    }

    #[tokio::test]
    async fn a_silent_holder_is_replaced_after_its_time_and_not_before() {
        let server = Server::default();
        let (mut a, _) = candidate(&server, "a");
        let (mut b, _) = candidate(&server, "b");
        assert!(a.attempt().await.unwrap());
        assert!(!b.attempt().await.unwrap());
        let (version, since) = b.seen.clone().unwrap();
        b.seen = Some((version.clone(), since.checked_sub(DURATION - Duration::from_secs(1)).unwrap()));
        assert!(!b.attempt().await.unwrap());
        b.seen = Some((version, since.checked_sub(DURATION + Duration::from_secs(1)).unwrap()));
        assert!(b.attempt().await.unwrap());
        assert!(!a.attempt().await.unwrap(), "the old holder sees that it lost");
    }

    #[tokio::test]
    async fn a_holder_that_cannot_renew_steps_down_in_time() {
        let server = Server::default();
        let (mut a, leading) = candidate(&server, "a");
        assert!(a.attempt().await.unwrap());
        (a.renewed, _) = (Some(Instant::now()), a.tell(true));
        server.0.lock().unwrap().is_away = true;
        a.attempt().await.unwrap_err();
        a.failed("away");
        assert!(*leading.borrow(), "one failure is none");
        a.renewed = a.renewed.and_then(|at| at.checked_sub(RENEW_LIMIT - RETRY));
        a.failed("away");
        assert!(!*leading.borrow());
    }

    #[tokio::test]
    async fn it_runs_leads_and_gives_the_lease_back() {
        let server = Server::default();
        let (a, mut leading) = candidate(&server, "a");
        let cancel = CancellationToken::new();
        let task = tokio::spawn(a.run(cancel.clone()));
        tokio::time::timeout(Duration::from_secs(20), leading.wait_for(|l| *l)).await.unwrap().unwrap();
        assert_eq!(server.holder().as_deref(), Some("a"));
        cancel.cancel();
        task.await.unwrap();
        assert_eq!(server.holder(), None);
    }
}
