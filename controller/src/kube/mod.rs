//! What everything shares that talks to an API server of Kubernetes: an object followed by its name, leader election, and a fake
//! one for tests. Watches of whole kinds are `source`'s.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod lease;
pub(crate) mod named;

use tokio::sync::watch;

/// Does something for as long as this replica leads, and again whenever it leads anew; dropped in between. Ends when the
/// election does.
pub(crate) async fn lead<F: Future>(leading: &mut watch::Receiver<bool>, mut work: impl FnMut() -> F) {
    while leading.wait_for(|leading| *leading).await.is_ok() {
        let mut lost = leading.clone();
        tokio::select! {
            _ = work() => {}
            _ = lost.wait_for(|leading| !*leading) => {}
        }
    }
}

/// What tells this replica from others: in a pod its name, which is the host's; elsewhere the process has a part in it.
pub(crate) fn replica_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if is_in_pod { host } else { format!("{host}-{}", std::process::id()) }
}
