//! What one sidecar has in force, asked of it through a port-forward.
//!
//! A sidecar keeps policies by what was called: behind a redirection that is the address of a Service, else the name as
//! the application writes it. Whoever asks need not know which.

use std::net::IpAddr;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use mesh_policy::{OutboundPolicy, well_known::ADMIN_PORT};
use mesh_proto::v1;
use prost::Message;
use serde_json::Value;

use super::{answer::by_policy, explained::Explained, question::Question};
use crate::kube::{Cluster, core_object, encode, value};

/// Decides on it.
pub(super) async fn explain(cluster: &Cluster, pod: &str, question: &Question) -> anyhow::Result<Explained> {
    let (namespace, name) = cluster.pod_name(pod);
    let body = match page(cluster, namespace, name, Some(&question.authority)).await? {
        Ok(body) => body,
        Err(why) => {
            let Some(target) = other_name(cluster, namespace, name, question).await? else {
                bail!("pod {namespace}/{name}, asked for {}: {why}", question.authority);
            };
            page(cluster, namespace, name, Some(&target))
                .await?
                .map_err(|why| anyhow!("pod {namespace}/{name}: {why}"))?
        }
    };
    let wire = v1::OutboundPolicy::decode(body).context("the sidecar's /policy is not a policy of this version")?;
    let policy = OutboundPolicy::try_from(wire).context("the sidecar's /policy cannot be understood here")?;
    Ok(by_policy(&policy, question, namespace))
}

/// The page about a target, or the list of targets; or what the sidecar answers instead.
async fn page(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    target: Option<&str>,
) -> anyhow::Result<Result<Bytes, String>> {
    let path = target.map_or("/policy".to_owned(), |target| format!("/policy?target={}", encode(target)));
    let next = format!("see whether it has a sidecar: meshctl check --proxy -n {namespace}");
    let page = cluster.page(namespace, pod, ADMIN_PORT, &path).await;
    let page = page.map_err(|error| anyhow!("{error}; {next}"))?;
    Ok(page.ok().map(|page| page.body))
}

/// The name by which the sidecar holds what is asked for, if it is another.
async fn other_name(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    question: &Question,
) -> anyhow::Result<Option<String>> {
    let Ok(list) = page(cluster, namespace, pod, None).await? else { return Ok(None) };
    let list: Value = serde_json::from_slice(&list).unwrap_or_default();
    let Some(asked) = Asked::of(question, namespace) else { return Ok(None) };
    // Without the right to see the Service, names are compared without its addresses.
    let service = cluster.find(&core_object(asked.namespace, "services", asked.name)).await.ok().flatten();
    let ips = service.as_ref().map_or(Vec::new(), addresses);
    let mut held = value::items(&list, "/targets").iter().filter_map(Value::as_str);
    Ok(held.find(|held| asked.is(held, namespace, &ips)).map(str::to_owned))
}

/// The addresses of a Service.
fn addresses(service: &Value) -> Vec<IpAddr> {
    let all = value::items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str);
    all.chain([value::text(service, "/spec/clusterIP")]).filter_map(|ip| ip.parse().ok()).collect()
}

/// A port of a Service, as it is called.
#[derive(Debug)]
struct Asked<'q> {
    name: &'q str,
    namespace: &'q str,
    port: &'q str,
}

impl<'q> Asked<'q> {
    fn of(question: &'q Question, client: &'q str) -> Option<Self> {
        let (host, port) = question.authority.rsplit_once(':')?;
        let mut labels = host.split('.');
        Some(Self { name: labels.next()?, namespace: labels.next().unwrap_or(client), port })
    }

    /// Whether a target that the sidecar holds is the same.
    fn is(&self, held: &str, client: &str, ips: &[IpAddr]) -> bool {
        let Some((host, port)) = held.rsplit_once(':') else { return false };
        let full = format!("{}.{}", self.name, self.namespace);
        let is_name =
            host.strip_prefix(&full).is_some_and(|rest| rest.is_empty() || rest == ".svc" || rest.starts_with(".svc."))
                || (host == self.name && client == self.namespace);
        let is_address = host.trim_matches(['[', ']']).parse().is_ok_and(|ip| ips.contains(&ip));
        port == self.port && (is_name || is_address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_known_by_its_names_and_addresses() {
        let question = Question::new("GET", "http://web.shop/", http::HeaderMap::new()).unwrap();
        let asked = Asked::of(&question, "clients").unwrap();
        let ips = addresses(&json!({ "spec": { "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"] } }));
        for (held, client, expected) in [
            ("10.96.0.7:80", "clients", true),
            ("[fd00::7]:80", "clients", true),
            ("10.96.0.8:80", "clients", false),
            ("10.96.0.7:81", "clients", false),
            ("web.shop:80", "clients", true),
            ("web.shop.svc:80", "clients", true),
            ("web.shop.svc.cluster.local:80", "clients", true),
            ("web.shopping:80", "clients", false),
            ("web:80", "clients", false),
            ("web:80", "shop", true),
        ] {
            assert_eq!(asked.is(held, client, &ips), expected, "{held} {client}");
        }
        let short = Question::new("GET", "http://web/", http::HeaderMap::new()).unwrap();
        assert!(Asked::of(&short, "shop").unwrap().is("web.shop.svc.cluster.local:80", "shop", &[]));
    }
}
