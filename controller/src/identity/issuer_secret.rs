//! The issuer's Secret, followed: a good one is put in force, a bad one is told of and changes nothing.
//!
//! It is watched by name and read again every minute, so that a missed event cannot end in expiry. Nothing is ever
//! written into it: install makes it, or someone else keeps it. Where a ConfigMap has more anchors, it is followed alike.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
    jiff::Timestamp,
};
use kube::{Api, Client, Resource, ResourceExt};
use mesh_policy::Identity;
use mesh_resources::Severity;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    identity::{
        ca::{Authority, Signer, unix_seconds},
        issuer::{self, Accepted, IssuerError, Stored, StoredObject},
        trust::Bundle,
    },
    kube::named::Named,
    metrics::Metrics,
    source::index::Published,
    status::problems::{BUNDLE_NOT_WRITTEN, ISSUER, ProblemEntry, tell},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before its end an issuer is told of, first the most urgent. One that lives less than three times as long is
/// renewed more often by whoever made it so, and is not told of that early.
const WARNINGS: [(Duration, &str); 3] =
    [(DAY, "1 day"), (DAY.saturating_mul(7), "7 days"), (DAY.saturating_mul(30), "30 days")];

/// What an operator decides about the Secret.
#[derive(Clone, Debug)]
pub(crate) struct IssuerOptions {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of a ConfigMap with more anchors than the Secret has, if there is one.
    pub more_anchors: Option<String>,
    /// Someone else, such as cert-manager, keeps it.
    pub is_external: bool,
    /// How long leaves last.
    pub leaf_lifetime: Duration,
    /// An identity of the trust domain, for which a leaf is signed to see whether it would be believed.
    pub probe: Identity,
}

/// Follows the Secret.
pub(crate) struct IssuerSecret {
    options: IssuerOptions,
    secret: Source<Secret>,
    more_anchors: Option<Source<ConfigMap>>,
    metrics: Arc<Metrics>,
    problems: watch::Sender<Arc<Published>>,
    /// What was stored when it was last accepted.
    in_force: Option<Stored>,
}

/// An object by name, and the version of it that was read last.
struct Source<K> {
    /// Kind, namespace and name, for people.
    name: String,
    named: Named<K>,
    version: Option<String>,
}

impl<K> Source<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
{
    fn new(client: Client, namespace: &str, name: &str) -> Self {
        let named = Named::new(Api::namespaced(client, namespace), name);
        Self { name: format!("{} {namespace}/{name}", K::kind(&())), named, version: None }
    }

    /// The object with what `data` says it holds. `fix` is what to do when there is none.
    async fn read(
        &mut self,
        data: impl FnOnce(K) -> BTreeMap<String, Vec<u8>>,
        fix: &'static str,
    ) -> Result<StoredObject, IssuerError> {
        let wrong = |reason, fix| IssuerError { object: self.name.clone(), key: None, reason, fix };
        match self.named.get().await {
            Ok(Some(object)) => {
                self.version = object.resource_version();
                Ok(StoredObject { name: self.name.clone(), data: data(object) })
            }
            Ok(None) => {
                let error = wrong(format!("there is no such {}", K::kind(&())), fix);
                self.version = None;
                Err(error)
            }
            Err(error) => {
                let fix = "see whether the API server is there, and whether the ServiceAccount mesh-identity may get and \
                           watch it";
                Err(wrong(format!("it cannot be read: {error}"), fix))
            }
        }
    }

    async fn changed(&self) {
        self.named.changed(self.version.as_deref()).await;
    }
}

impl fmt::Debug for IssuerSecret {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerSecret").field("options", &self.options).finish_non_exhaustive()
    }
}

impl IssuerSecret {
    /// What is wrong goes to `problems`.
    pub(crate) fn new(
        client: Client,
        options: IssuerOptions,
        metrics: Arc<Metrics>,
        problems: watch::Sender<Arc<Published>>,
    ) -> Self {
        let secret = Source::new(client.clone(), &options.namespace, &options.secret);
        let more_anchors = options.more_anchors.as_ref().map(|name| Source::new(client, &options.namespace, name));
        Self { options, secret, more_anchors, metrics, problems, in_force: None }
    }

    /// Waits for the first good issuer.
    pub(crate) async fn first(&mut self) -> Authority {
        loop {
            if let Some(accepted) = self.look(None).await {
                self.say_accepted(&accepted);
                return Authority::new(accepted.signer, self.options.leaf_lifetime);
            }
            self.changed().await;
        }
    }

    /// Keeps the authority and the bundle with what the Secret holds; says after each look whether the issuer in force
    /// is good. Ends never.
    pub(crate) async fn follow(
        mut self,
        authority: Arc<Authority>,
        bundle: watch::Sender<Arc<Bundle>>,
        good: watch::Sender<bool>,
    ) {
        loop {
            let before = authority.signer();
            if let Some(accepted) = self.look(Some(&before)).await {
                self.say_accepted(&accepted);
                self.warn_of_new_anchors(&before, &accepted.signer);
                // Whom to trust goes out before anything that the new issuer signs.
                let anchors = accepted.signer.anchors().clone();
                bundle.send_if_modified(|now| {
                    **now != *anchors && {
                        *now = anchors;
                        true
                    }
                });
                authority.replace(accepted.signer);
            }
            let signer = authority.signer();
            good.send_replace(!signer.has_ended());
            // Its end is no event of the API server's.
            let left = signer.not_after().duration_since(SystemTime::now()).ok();
            let ended = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed() => {}
                () = ended => {}
            }
        }
    }

    /// Reads the Secret; what is new and good is returned, and what is wrong told.
    async fn look(&mut self, in_force: Option<&Arc<Signer>>) -> Option<Accepted> {
        let (accepted, mut entries) = self.read().await;
        let signer = accepted.as_ref().map(|accepted| &accepted.signer).or(in_force.map(|signer| &**signer));
        self.metrics.issuer_refused.set(if entries.is_empty() { 0.0 } else { 1.0 });
        if let Some(signer) = signer {
            self.metrics.issuer_ends.set(unix_seconds(signer.not_after()) as f64);
            entries.extend(self.near_its_end(signer));
        }
        // Whatever is no bundle's is ours.
        let count = tell(&self.problems, |entry| entry.reason != BUNDLE_NOT_WRITTEN, entries);
        self.metrics.problems.set(count as f64);
        accepted
    }

    async fn read(&mut self) -> (Option<Accepted>, Vec<ProblemEntry>) {
        let secret = match self.read_secret().await {
            Ok(secret) => secret,
            Err(error) => return (None, vec![self.entry(error)]),
        };
        let mut told = Vec::new();
        let last_good = self.in_force.as_ref().map(|stored| stored.more_anchors.clone());
        let mut judged = match self.read_more_anchors().await {
            Ok(more_anchors) => self.judge(Stored { secret: secret.clone(), more_anchors }),
            Err(error) => Err(error),
        };
        // A ConfigMap that is at fault must not keep a renewed issuer away, which would end in expiry.
        if let (Err(error), Some(more_anchors)) = (&judged, last_good)
            && error.object != secret.name
        {
            told.push(self.entry(error.clone()));
            judged = self.judge(Stored { secret, more_anchors });
        }
        match judged {
            Ok(accepted) => (accepted, told),
            Err(error) => {
                told.push(self.entry(error));
                (None, told)
            }
        }
    }

    /// Judges what is not in force already, and remembers it when it is good.
    fn judge(&mut self, stored: Stored) -> Result<Option<Accepted>, IssuerError> {
        if self.in_force.as_ref() == Some(&stored) {
            return Ok(None);
        }
        let accepted = issuer::read(&stored, &self.options.probe)?;
        self.in_force = Some(stored);
        Ok(Some(accepted))
    }

    async fn read_secret(&mut self) -> Result<StoredObject, IssuerError> {
        let fix = if self.options.is_external {
            "see what keeps it, for cert-manager: kubectl get certificate,certificaterequest; it is waited for"
        } else {
            "run meshctl install, which makes it, or name another with --issuer-secret; it is waited for"
        };
        let plain = |data: BTreeMap<String, ByteString>| data.into_iter().map(|(key, value)| (key, value.0)).collect();
        self.secret.read(|secret| secret.data.map(plain).unwrap_or_default(), fix).await
    }

    async fn read_more_anchors(&mut self) -> Result<Option<StoredObject>, IssuerError> {
        let Some(source) = &mut self.more_anchors else { return Ok(None) };
        let fix = "see what keeps it, for trust-manager: kubectl get bundle; or name none (identity.trustAnchorsConfigMap); \
                   it is waited for";
        let bytes =
            |data: BTreeMap<String, String>| data.into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
        source.read(|map| map.data.map(bytes).unwrap_or_default(), fix).await.map(Some)
    }

    /// Waits until it is time to look again.
    async fn changed(&self) {
        let more_anchors = async {
            match &self.more_anchors {
                Some(source) => source.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.secret.changed() => {}
            () = more_anchors => {}
        }
    }

    fn entry(&self, IssuerError { object, key, reason, fix }: IssuerError) -> ProblemEntry {
        let follows = match &self.in_force {
            None => "no certificate can be issued",
            Some(_) => "the last good issuer stays in force",
        };
        ProblemEntry {
            severity: Severity::Error,
            file: None,
            line: None,
            column: None,
            object: Some(object),
            field: key.map(Into::into),
            reason: ISSUER.to_owned(),
            what: format!("{reason}; {follows}"),
            fix: fix.to_owned(),
        }
    }

    fn near_its_end(&self, signer: &Signer) -> Option<ProblemEntry> {
        let ends = Timestamp::try_from(signer.not_after()).map_or_else(|_| "unknown".to_owned(), |t| t.to_string());
        let left = signer.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        let urgency = WARNINGS.iter().find(|(limit, _)| left < *limit && signer.life() >= limit.saturating_mul(3));
        let what = match urgency {
            _ if left.is_zero() => format!("the issuer has ended, {ends}; no certificate can be issued"),
            Some((_, limit)) => {
                format!("the issuer ends in less than {limit}, {ends}; no certificate that it signs lasts longer")
            }
            None => return None,
        };
        let fix = "put a new one into the Secret, see docs/identity.md; nothing needs to be restarted";
        let is_urgent = left < DAY;
        let severity = if is_urgent { Severity::Error } else { Severity::Warning };
        let (object, key) = (self.secret.name.clone(), Some(issuer::CERTIFICATE.into()));
        let entry = self.entry(IssuerError { object, key, reason: String::new(), fix });
        Some(ProblemEntry { severity, what, ..entry })
    }

    fn say_accepted(&self, accepted: &Accepted) {
        self.metrics.issuers.increment(1);
        let (signer, name) = (&accepted.signer, &self.options.secret);
        let ends = Timestamp::try_from(signer.not_after()).map_or_else(|_| "unknown".to_owned(), |t| t.to_string());
        tracing::info!(
            "the issuer in the Secret {name} is in force; it ends {ends}, {} anchors, {} other trust domains",
            signer.anchors().own.len(),
            signer.anchors().others.len()
        );
        if accepted.ended_anchors > 0 {
            tracing::warn!("{} trust anchors have ended and are left out of the bundle", accepted.ended_anchors);
        }
    }

    fn warn_of_new_anchors(&self, before: &Signer, now: &Signer) {
        if !before.anchors().own.iter().any(|anchor| now.anchors().own.contains(anchor)) {
            tracing::warn!(
                "no anchor that was trusted before is trusted now ({}): a proxy whose certificate is under an old one is \
                 not believed until it renews, which those whose stream stands do within seconds; to lose no connection \
                 at all, have old and new anchors there for a while, see docs/identity.md",
                self.secret.name
            );
        }
    }
}

#[cfg(test)]
mod tests;
