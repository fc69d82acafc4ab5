//! Metrics of the sidecars, and what they prove about mutual TLS.
//!
//! The report's words about encryption and identity come from here only: from what both ends of each connection
//! verified and counted, never from what the demo meant to set up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use super::topology::Topology;
use crate::metrics::{Sample, parse};

/// Time limit of a page of a process on this machine.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a page that are read.
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Gets a page of a process. Errors unless the answer is 200; the body is then part of the error.
pub(super) async fn page(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let get = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(|e| anyhow!(e))?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body).trim());
        Ok(body)
    };
    let answer = timeout(PAGE_TIMEOUT, get).await.map_err(|_| anyhow!("no answer within {PAGE_TIMEOUT:?}"))?;
    answer.with_context(|| format!("http://{address}{path}"))
}

/// Gets and parses the metrics of a process.
pub(super) async fn samples(address: SocketAddr) -> anyhow::Result<Vec<Sample>> {
    Ok(parse(&String::from_utf8_lossy(&page(address, "/metrics").await?)))
}

/// The metrics of all sidecars at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrape {
    client: Vec<Sample>,
    /// By pod.
    servers: BTreeMap<String, Vec<Sample>>,
}

impl Scrape {
    /// Asks every sidecar. Errors when one does not answer.
    pub(super) async fn of(topology: &Topology) -> anyhow::Result<Self> {
        let client = samples(topology.client.metrics).await.context("metrics of the client's sidecar")?;
        let mut servers = BTreeMap::new();
        for replica in &topology.replicas {
            let samples = samples(replica.sidecar.metrics).await;
            servers
                .insert(replica.pod.clone(), samples.with_context(|| format!("metrics of {}'s sidecar", replica.pod))?);
        }
        Ok(Self { client, servers })
    }

    /// What was counted since `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        let servers = self.servers.iter().map(|(pod, samples)| {
            let before = earlier.servers.get(pod).map_or(&[][..], Vec::as_slice);
            (pod.clone(), difference(samples, before))
        });
        Self { client: difference(&self.client, &earlier.client), servers: servers.collect() }
    }
}

/// `now` without what `before` counted; samples that did not grow are left out.
fn difference(now: &[Sample], before: &[Sample]) -> Vec<Sample> {
    let before: BTreeMap<_, _> = before.iter().map(|s| (s.key(), s.value)).collect();
    let grown =
        now.iter().map(|s| Sample { value: s.value - before.get(&s.key()).copied().unwrap_or(0.0), ..s.clone() });
    grown.filter(|s| s.value > 0.0).collect()
}

/// Mutual TLS between the client's sidecar and those of the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Mtls {
    /// Requests that went over mutual TLS: what both ends counted, the smaller number where they differ.
    pub requests: u64,
    /// Protocol version of the handshakes, such as `TLSv1.3`.
    pub version: String,
    /// Key exchange group of the handshakes, such as `X25519MLKEM768`.
    pub group: String,
    /// The identity that the servers verified.
    pub client_identity: String,
    /// The identities that the client verified, sorted.
    pub server_identities: Vec<String>,
    /// The identities that the client verified, by version.
    #[serde(skip)]
    pub by_version: BTreeMap<String, BTreeSet<String>>,
}

/// Reads mutual TLS from the metrics: requests since `earlier`, handshakes since the start (connections last longer
/// than a run).
pub(super) fn mtls(topology: &Topology, earlier: &Scrape, now: &Scrape) -> Mtls {
    let since = now.since(earlier);
    let mutual = |samples: &[Sample], direction: &str| -> Vec<Sample> {
        let wanted = |s: &&Sample| {
            s.name == "mesh_requests_total" && s.label("direction") == direction && s.label("tls") == "mutual"
        };
        samples.iter().filter(wanted).cloned().collect()
    };
    let sent = mutual(&since.client, "outbound");
    let taken: Vec<Sample> = since.servers.values().flat_map(|s| mutual(s, "inbound")).collect();
    let sum = |samples: &[Sample]| samples.iter().map(|s| s.value).sum::<f64>() as u64;
    let servers = names(sent.iter().map(|s| s.label("dst_identity")));
    let clients = names(taken.iter().map(|s| s.label("src_identity")));
    let mut by_version: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for replica in &topology.replicas {
        // Nothing controls the pods of the demo, so they go by their own names.
        let verified = sent.iter().filter(|s| s.label("dst_workload") == replica.pod).map(|s| s.label("dst_identity"));
        by_version.entry(replica.version.to_owned()).or_default().extend(names(verified));
    }
    let handshakes: Vec<&Sample> = [(&now.client, "outbound", &servers)]
        .into_iter()
        .chain(now.servers.values().map(|s| (s, "inbound", &clients)))
        .flat_map(|(samples, direction, peers)| {
            samples.iter().filter(move |s| {
                s.name == "mesh_tls_connections_total"
                    && s.label("direction") == direction
                    && s.value > 0.0
                    && peers.contains(s.label("peer_identity"))
            })
        })
        .collect();
    Mtls {
        requests: sum(&sent).min(sum(&taken)),
        version: joined(names(handshakes.iter().map(|s| s.label("version")))),
        group: joined(names(handshakes.iter().map(|s| s.label("group")))),
        client_identity: joined(clients),
        server_identities: servers.into_iter().collect(),
        by_version,
    }
}

fn names<'s>(labels: impl Iterator<Item = &'s str>) -> BTreeSet<String> {
    labels.filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// One name as it is; several, which nothing should cause, are all shown.
fn joined(names: BTreeSet<String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::cmd::demo::ports::Ports;

    fn scrape(client: &str, servers: &[(&str, &str)]) -> Scrape {
        Scrape { client: parse(client), servers: servers.iter().map(|(p, t)| ((*p).to_owned(), parse(t))).collect() }
    }

    fn sent(pod: &str, account: &str, tls: &str, n: u64) -> String {
        format!(
            "mesh_requests_total{{direction=\"outbound\",dst_identity=\"{account}\",dst_workload=\"{pod}\",tls=\"{tls}\"}} {n}\n"
        )
    }

    fn taken(tls: &str, n: u64) -> String {
        format!("mesh_requests_total{{direction=\"inbound\",src_identity=\"client\",tls=\"{tls}\"}} {n}\n")
    }

    fn handshakes(direction: &str, peer: &str, group: &str) -> String {
        format!(
            "mesh_tls_connections_total{{direction=\"{direction}\",peer_identity=\"{peer}\",version=\"TLSv1.3\",group=\"{group}\"}} 2\n"
        )
    }

    #[test]
    fn what_both_ends_verified_is_reported() {
        let topology = Topology::plan(&mut Ports::new()).unwrap();
        let before = scrape(&sent("web-v1-0", "v1", "mutual", 1), &[("web-v1-0", &taken("mutual", 1))]);
        let client = sent("web-v1-0", "v1", "mutual", 91)
            + &sent("web-v2-0", "v2", "mutual", 10)
            + &handshakes("outbound", "v1", "X25519MLKEM768")
            + &handshakes("outbound", "v2", "X25519MLKEM768")
            + &handshakes("outbound", "controller", "other");
        let server = |n| taken("mutual", n) + &handshakes("inbound", "client", "X25519MLKEM768");
        let now = scrape(&client, &[("web-v1-0", &server(91)), ("web-v2-0", &server(10))]);
        let mtls = mtls(&topology, &before, &now);
        assert_eq!(mtls.requests, 100);
        assert_eq!((mtls.version.as_str(), mtls.group.as_str()), ("TLSv1.3", "X25519MLKEM768"));
        assert_eq!(mtls.client_identity, "client");
        assert_eq!(mtls.server_identities, ["v1", "v2"]);
        assert_eq!(mtls.by_version["v1"], BTreeSet::from(["v1".to_owned()]));
    }

    #[test]
    fn plain_text_is_not_counted() {
        let topology = Topology::plan(&mut Ports::new()).unwrap();
        let now = scrape(&sent("web-v1-0", "", "none", 50), &[("web-v1-0", &taken("none", 50))]);
        let mtls = mtls(&topology, &Scrape::default(), &now);
        assert_eq!(mtls.requests, 0);
        assert_eq!((mtls.version.as_str(), mtls.client_identity.as_str()), ("", ""));
        assert!(mtls.server_identities.is_empty());
    }

    #[test]
    fn a_request_that_one_end_did_not_see_as_mutual_is_not_counted() {
        let topology = Topology::plan(&mut Ports::new()).unwrap();
        let now = scrape(&sent("web-v1-0", "v1", "mutual", 50), &[("web-v1-0", &taken("mutual", 49))]);
        assert_eq!(mtls(&topology, &Scrape::default(), &now).requests, 49);
    }
}
