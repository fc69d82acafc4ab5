//! What sidecars count while a window lasts.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use mesh_policy::{
    Class,
    well_known::{METRICS_PORT, PROXY_CONTAINER},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    kube::{Cluster, ClusterError, pods::is_alive, value},
    metrics::{self, Sample},
};

/// Sidecars that are asked: each is two port-forwards.
const MAX_PODS: usize = 100;

/// How requests fared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Traffic {
    /// Percent that did not fail.
    pub success: f64,
    /// Requests a second.
    pub rps: f64,
    /// Half of the responses began within this many milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 did.
    pub p99_ms: Option<f64>,
}

/// Counts of one route and one backend.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    requests: f64,
    failures: f64,
    /// By upper bound in microseconds: how many responses were faster; Prometheus's `+Inf` is the largest number.
    buckets: BTreeMap<u64, f64>,
}

/// Counts by route and backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counted {
    by_labels: BTreeMap<(String, String), Counts>,
    window: Duration,
}

impl Counted {
    /// The traffic of a route to some backends; `None`: there was none.
    pub(super) fn get(&self, (route, backends): &(String, Vec<String>)) -> Option<Traffic> {
        let mut all = Counts::default();
        for backend in backends {
            if let Some(counts) = self.by_labels.get(&(route.clone(), backend.clone())) {
                all.add(counts, 1.0);
            }
        }
        (all.requests > 0.0 && !self.window.is_zero()).then(|| all.summary(self.window))
    }
}

impl Counts {
    fn add(&mut self, other: &Self, factor: f64) {
        self.requests += other.requests * factor;
        self.failures += other.failures * factor;
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count * factor;
        }
    }

    fn summary(&self, window: Duration) -> Traffic {
        let success = (self.requests - self.failures) * 100.0 / self.requests;
        Traffic {
            success,
            rps: self.requests / window.as_secs_f64(),
            p50_ms: self.quantile(0.5),
            p99_ms: self.quantile(0.99),
        }
    }

    /// Within the bucket that has it, as if its responses were spread evenly; above the last bound, that bound.
    fn quantile(&self, part: f64) -> Option<f64> {
        let total = self.buckets.values().next_back().copied().filter(|total| *total > 0.0)?;
        let wanted = total * part;
        let (mut below, mut low) = (0.0, 0);
        for (&bound, &count) in &self.buckets {
            if count >= wanted {
                if bound == u64::MAX {
                    return Some(low as f64 / 1000.0);
                }
                let inside = if count > below { (wanted - below) / (count - below) } else { 1.0 };
                return Some((low as f64 + (bound - low) as f64 * inside) / 1000.0);
            }
            (below, low) = (count, bound);
        }
        None
    }
}

/// Watches the sidecars for a while.
pub(super) async fn watch(cluster: &Cluster, window: Duration, notes: &mut Vec<String>) -> anyhow::Result<Counted> {
    let mut pods = cluster.list("/api/v1/pods", "").await?;
    pods.retain(|pod| value::container(pod, PROXY_CONTAINER).is_some() && is_alive(pod));
    ensure!(!pods.is_empty(), "no running pod has a sidecar; see: meshctl check --proxy");
    if pods.len() > MAX_PODS {
        notes.push(format!("traffic is that of {MAX_PODS} of {} sidecars", pods.len()));
        pods.truncate(MAX_PODS);
    }
    let (before, _) = scrape(cluster, &pods).await;
    tokio::time::sleep(window).await;
    let (after, failed) = scrape(cluster, &pods).await;
    if failed > 0 {
        notes.push(format!("{failed} sidecars could not be asked for their metrics"));
    }
    Ok(difference(&before, &after, window))
}

/// The counts of each sidecar that answers, and how many did not.
async fn scrape(cluster: &Cluster, pods: &[Value]) -> (BTreeMap<String, Counted>, usize) {
    let one = |pod: &Value| {
        let (namespace, name) = (value::namespace(pod).to_owned(), value::name(pod).to_owned());
        async move {
            let page = cluster.page(&namespace, &name, METRICS_PORT, "/metrics").await;
            let counted = page.map(|page| counted(&metrics::parse(&page.text())));
            Ok::<_, ClusterError>((format!("{namespace}/{name}"), counted?))
        }
    };
    let answers = futures_util::future::join_all(pods.iter().map(one)).await;
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    (answers.into_iter().flatten().collect(), failed)
}

/// Whether a request counts as failed. A sidecar from before classes says it by its codes.
fn is_failure(sample: &Sample) -> bool {
    let class = sample.label("class");
    if !class.is_empty() {
        return class == Class::Failure.as_str();
    }
    let status = sample.label("response_code").parse().unwrap_or_default();
    Class::of_response(status, sample.label("grpc_status").parse().ok()).is_failure()
}

/// What clients' sidecars count.
fn counted(samples: &[Sample]) -> Counted {
    let mut counted = Counted::default();
    for sample in samples.iter().filter(|sample| sample.label("direction") == "outbound") {
        let key = (sample.label("route").to_owned(), sample.label("backend").to_owned());
        match sample.name.as_str() {
            "mesh_requests_total" => {
                let counts = counted.by_labels.entry(key).or_default();
                counts.requests += sample.value;
                if is_failure(sample) {
                    counts.failures += sample.value;
                }
            }
            "mesh_response_latency_seconds_bucket" => {
                let bound = match sample.label("le") {
                    "+Inf" => u64::MAX,
                    seconds => seconds.parse::<f64>().map_or(u64::MAX, |seconds| (seconds * 1e6).round() as u64),
                };
                *counted.by_labels.entry(key).or_default().buckets.entry(bound).or_default() += sample.value;
            }
            _ => {}
        }
    }
    counted
}

/// What was counted in between. A sidecar that was restarted counts from zero.
fn difference(before: &BTreeMap<String, Counted>, after: &BTreeMap<String, Counted>, window: Duration) -> Counted {
    let mut all = Counted { window, ..Counted::default() };
    for (pod, now) in after {
        let Some(then) = before.get(pod) else { continue };
        for (key, counts) in &now.by_labels {
            let sum = all.by_labels.entry(key.clone()).or_default();
            let earlier = then.by_labels.get(key).filter(|earlier| earlier.requests <= counts.requests);
            sum.add(counts, 1.0);
            if let Some(earlier) = earlier {
                sum.add(earlier, -1.0);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::kube::mock::Mock;

    fn of(requests: u32, failed: u32, fast: u32) -> BTreeMap<String, Counted> {
        let labels = "direction=\"outbound\",route=\"shop/web\",backend=\"shop/web:80\"";
        let page = format!(
            "mesh_requests_total{{{labels},response_code=\"200\"}} {}\nmesh_requests_total{{{labels},response_code=\"503\"}} {failed}\n\
             mesh_response_latency_seconds_bucket{{{labels},le=\"0.001\"}} {fast}\n\
             mesh_response_latency_seconds_bucket{{{labels},le=\"0.002\"}} {requests}\n\
             mesh_response_latency_seconds_bucket{{{labels},le=\"+Inf\"}} {requests}\n\
             mesh_requests_total{{direction=\"inbound\",backend=\"8080\"}} 99\n",
            requests - failed
        );
        BTreeMap::from([("shop/front".to_owned(), counted(&metrics::parse(&page)))])
    }

    #[test]
    fn what_came_between_is_counted() {
        let key = |backend: &str| ("shop/web".to_owned(), vec![backend.to_owned()]);
        let counted = difference(&of(100, 10, 50), &of(300, 20, 150), Duration::from_secs(2));
        let traffic = counted.get(&key("shop/web:80")).unwrap();
        assert_eq!(traffic, Traffic { success: 95.0, rps: 100.0, p50_ms: Some(1.0), p99_ms: Some(1.98) });
        assert_eq!(counted.get(&key("shop/other:80")), None);
        // Restarted in between.
        let counted = difference(&of(100, 10, 50), &of(20, 0, 20), Duration::from_secs(1));
        assert_eq!(counted.get(&key("shop/web:80")).unwrap().rps, 20.0);
    }

    #[test]
    fn a_failure_is_what_the_sidecar_calls_so() {
        for (labels, expected) in [
            ("class=\"failure\",response_code=\"200\",grpc_status=\"14\"", true),
            ("class=\"failure\",response_code=\"200\",error=\"upstream-reset\"", true),
            ("class=\"limited\",response_code=\"503\",error=\"overloaded\"", false),
            ("class=\"cancelled\",response_code=\"\",error=\"client-closed\"", false),
            ("response_code=\"503\",error=\"no-endpoints\"", true),
            ("response_code=\"200\",grpc_status=\"14\"", true),
            ("response_code=\"404\"", false),
            ("response_code=\"\",error=\"client-closed\"", false),
        ] {
            let line = format!("mesh_requests_total{{{labels}}} 1\n");
            assert_eq!(is_failure(&metrics::parse(&line)[0]), expected, "{line}");
        }
    }

    #[tokio::test]
    async fn sidecars_that_do_not_answer_are_counted() {
        let pod = |name: &str| {
            serde_json::json!({ "metadata": { "name": name, "namespace": "shop" },
                "spec": { "containers": [{ "name": PROXY_CONTAINER }] } })
        };
        let cluster = Mock::default()
            .list("/api/v1/pods", vec![pod("front"), pod("mute")])
            .page("shop/front", METRICS_PORT, "/metrics", "mesh_requests_total{direction=\"outbound\"} 7\n")
            .cluster();
        let mut notes = Vec::new();
        let counted = watch(&cluster, Duration::from_millis(1), &mut notes).await.unwrap();
        assert_eq!(notes, ["1 sidecars could not be asked for their metrics"]);
        assert_eq!(counted.get(&(String::new(), vec![String::new()])), None, "nothing came between");
        let bare = Mock::default().list("/api/v1/pods", Vec::new()).cluster();
        let error = watch(&bare, Duration::ZERO, &mut notes).await.unwrap_err().to_string();
        assert!(error.contains("no running pod has a sidecar"), "{error}");
    }
}
