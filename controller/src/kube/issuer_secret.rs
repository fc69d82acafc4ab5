//! The issuer's Secret, followed: a good one is put in force, a bad one is told of and changes nothing.
//!
//! It is watched by name and read again every minute, so that a missed event cannot end in expiry. Nothing is ever
//! written into it: install makes it, or someone else keeps it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use kube::{Api, Client};
use mesh_policy::Identity;
use mesh_resources::Severity;
use tokio::sync::watch;

use super::named::Named;
use crate::{
    ca::{Authority, Signer, unix_seconds},
    index::Published,
    issuer::{self, Accepted},
    metrics::Metrics,
    problems::{Entry, log_changes},
    trust::Bundle,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before its end an issuer is told of, first the most urgent. One that lives less than three times as long is
/// renewed more often by whoever made it so, and is not told of that early.
const WARNINGS: [(Duration, &str); 3] =
    [(DAY, "1 day"), (DAY.saturating_mul(7), "7 days"), (DAY.saturating_mul(30), "30 days")];

/// What an operator decides about the Secret.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Someone else, such as cert-manager, keeps it.
    pub is_external: bool,
    /// How long leaves last.
    pub leaf_lifetime: Duration,
    /// An identity of the trust domain, for which a leaf is signed to see whether it would be believed.
    pub probe: Identity,
}

/// Follows the Secret.
pub struct IssuerSecret {
    options: Options,
    secret: Named<Secret>,
    metrics: Arc<Metrics>,
    problems: watch::Sender<Arc<Published>>,
    /// What the Secret held when it was last accepted.
    in_force: Option<BTreeMap<String, Vec<u8>>>,
    /// The version read last.
    version: Option<String>,
}

impl fmt::Debug for IssuerSecret {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerSecret").field("options", &self.options).finish_non_exhaustive()
    }
}

impl IssuerSecret {
    /// What is wrong goes to `problems`.
    pub fn new(
        client: Client,
        options: Options,
        metrics: Arc<Metrics>,
        problems: watch::Sender<Arc<Published>>,
    ) -> Self {
        let secret = Named::new(Api::namespaced(client, &options.namespace), &options.secret);
        Self { options, secret, metrics, problems, in_force: None, version: None }
    }

    /// Waits for the first good issuer.
    pub async fn first(&mut self) -> Authority {
        loop {
            if let Some(accepted) = self.look(None).await {
                self.say_accepted(&accepted);
                return Authority::new(accepted.signer, self.options.leaf_lifetime);
            }
            self.secret.changed(self.version.as_deref()).await;
        }
    }

    /// Keeps the authority and the bundle with what the Secret holds; says after each look whether the issuer in force
    /// is good. Ends never.
    pub async fn follow(
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
                () = self.secret.changed(self.version.as_deref()) => {}
                () = ended => {}
            }
        }
    }

    /// Reads the Secret; what is new and good is returned, and what is wrong told.
    async fn look(&mut self, in_force: Option<&Arc<Signer>>) -> Option<Accepted> {
        let (accepted, entry) = self.read().await;
        let signer = accepted.as_ref().map(|accepted| &accepted.signer).or(in_force.map(|signer| &**signer));
        let mut entries: Vec<Entry> = entry.into_iter().collect();
        self.metrics.issuer_refused.set(if entries.is_empty() { 0.0 } else { 1.0 });
        if let Some(signer) = signer {
            self.metrics.issuer_ends.set(unix_seconds(signer.not_after()) as f64);
            entries.extend(self.near_its_end(signer));
        }
        self.metrics.problems.set(entries.len() as f64);
        let before = self.problems.borrow().clone();
        if before.problems != entries {
            log_changes(&before.problems, &entries);
            self.problems.send_replace(Arc::new(Published { problems: entries, ..Published::default() }));
        }
        accepted
    }

    async fn read(&mut self) -> (Option<Accepted>, Option<Entry>) {
        let name = format!("{}/{}", self.options.namespace, self.options.secret);
        let secret = match self.secret.get().await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                self.version = None;
                let fix = if self.options.is_external {
                    "see what keeps it, for cert-manager: kubectl get certificate,certificaterequest; it is waited for"
                } else {
                    "run meshctl install, which makes it, or name another with --issuer-secret; it is waited for"
                };
                return (None, Some(self.entry(None, "there is no such Secret".to_owned(), fix)));
            }
            Err(error) => {
                let fix = "see whether the API server is there, and whether the ServiceAccount mesh-identity may get and \
                           watch it";
                return (None, Some(self.entry(None, format!("it cannot be read: {error}"), fix)));
            }
        };
        self.version = secret.metadata.resource_version;
        let data: BTreeMap<_, _> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        if self.in_force.as_ref() == Some(&data) {
            return (None, None);
        }
        match issuer::read(&name, &data, &self.options.probe) {
            Ok(accepted) => {
                self.in_force = Some(data);
                (Some(accepted), None)
            }
            Err(error) => (None, Some(self.entry(Some(error.key), error.reason, error.fix))),
        }
    }

    fn entry(&self, key: Option<&'static str>, what: String, fix: &str) -> Entry {
        let follows = match (&self.in_force, key) {
            (None, _) => "no certificate can be issued",
            (Some(_), _) => "the last good issuer stays in force",
        };
        Entry {
            severity: Severity::Error,
            file: None,
            line: None,
            column: None,
            object: Some(format!("Secret {}/{}", self.options.namespace, self.options.secret)),
            field: key.map(str::to_owned),
            reason: "Issuer".to_owned(),
            what: format!("{what}; {follows}"),
            fix: fix.to_owned(),
        }
    }

    fn near_its_end(&self, signer: &Signer) -> Option<Entry> {
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
        Some(Entry { severity, what, ..self.entry(Some(issuer::CERTIFICATE), String::new(), fix) })
    }

    fn say_accepted(&self, accepted: &Accepted) {
        self.metrics.issuers.increment(1);
        let (signer, name) = (&accepted.signer, &self.options.secret);
        let ends = Timestamp::try_from(signer.not_after()).map_or_else(|_| "unknown".to_owned(), |t| t.to_string());
        tracing::info!(
            "the issuer in the Secret {name} is in force; it ends {ends}, {} anchors",
            signer.anchors().len()
        );
        if accepted.ended_anchors > 0 {
            tracing::warn!("{} anchors in {name} have ended and are left out of the bundle", accepted.ended_anchors);
        }
    }

    fn warn_of_new_anchors(&self, before: &Signer, now: &Signer) {
        if !before.anchors().iter().any(|anchor| now.anchors().contains(anchor)) {
            tracing::warn!(
                "no anchor that was trusted before is in ca.crt of the Secret {}: a proxy whose certificate is under an \
                 old one is not believed until it renews, which those whose stream stands do within seconds; to lose no \
                 connection at all, have old and new anchors there for a while, see docs/identity.md",
                self.options.secret
            );
        }
    }
}

#[cfg(test)]
mod tests;
