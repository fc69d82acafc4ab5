//! `meshctl identity`: the certificate that a pod's sidecar proves, decoded, and whether it leads to a trust anchor.
//!
//! It is read from the sidecar's page `/certificate`, which shows what the next handshake will prove: the inbound port
//! itself serves redirected connections only.

use std::process::ExitCode;

use clap::Parser;
use crossterm::style::Color;
use mesh_policy::well_known::{ADMIN_PORT, PROXY_CONTAINER};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    certificate::{self, Certificate},
    clock,
    globals::Globals,
    kube::{Cluster, pods::Which, trust_bundle, value},
    output::{self, Format, JSON, Style, YAML, formats},
};

/// Arguments of `meshctl identity`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl identity web-5d4f-x7k -n shop
  meshctl identity -l app=web -n shop -o json
  meshctl identity shop/web-5d4f-x7k -o pem | openssl x509 -noout -text

Exit codes: 0 ok, 1 a certificate is missing or not valid, 2 wrong usage.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// How to print it
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 4] =
    [(Format::Table, "Text for people"), JSON, YAML, (Format::Pem, "The certificates, leaf first")];

/// What one pod proves.
#[derive(Debug, Serialize)]
struct Proof {
    /// `namespace/name`.
    pod: String,
    /// Why there is nothing to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The chain, leaf first.
    chain: Vec<Certificate>,
    /// The subject of the anchor that it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    anchor: Option<String>,
    /// Why it leads to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    untrusted: Option<String>,
    /// Seconds since it began, and until it ends.
    age_seconds: i64,
    left_seconds: i64,
}

/// Prints the identities.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let proofs = super::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        let pods = cluster.pods(&args.which).await?;
        let anchors = trust_bundle::anchors(&cluster).await?;
        let mut proofs = Vec::new();
        for pod in &pods {
            proofs.push(proof(&cluster, pod, &anchors).await);
        }
        Ok(proofs)
    })?;
    match args.output {
        Format::Json | Format::Yaml => output::line(&output::pretty(args.output, &json!({ "pods": proofs }))?)?,
        Format::Pem => {
            for certificate in proofs.iter().flat_map(|proof| &proof.chain) {
                output::line(&certificate.pem())?;
            }
            proofs.iter().filter_map(|proof| proof.error.as_ref()).for_each(|error| output::note(error));
        }
        _ => {
            for proof in &proofs {
                output::line(&proof.table(Style::stdout()))?;
            }
        }
    }
    let is_bad = |proof: &Proof| proof.error.is_some() || proof.untrusted.is_some();
    Ok(if proofs.iter().any(is_bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn proof(cluster: &Cluster, pod: &Value, anchors: &Result<Vec<Certificate>, String>) -> Proof {
    let (namespace, name) = (value::namespace(pod), value::name(pod));
    let mut proof = Proof {
        pod: format!("{namespace}/{name}"),
        error: None,
        chain: Vec::new(),
        anchor: None,
        untrusted: None,
        age_seconds: 0,
        left_seconds: 0,
    };
    if value::container(pod, PROXY_CONTAINER).is_none() {
        proof.error = Some(format!("pod {namespace}/{name} has no sidecar; see: meshctl check --proxy -n {namespace}"));
        return proof;
    }
    let chain = match cluster.page(namespace, name, ADMIN_PORT, "/certificate").await {
        Ok(page) => page.ok().and_then(|page| Certificate::decode_all(&page.body)),
        Err(error) => Err(error.to_string()),
    };
    proof.chain = match chain {
        Ok(chain) => chain,
        Err(why) => {
            proof.error = Some(format!("pod {namespace}/{name}: {why}"));
            return proof;
        }
    };
    let now = clock::now();
    if let Some(leaf) = proof.chain.first() {
        (proof.age_seconds, proof.left_seconds) = (now - leaf.begins, leaf.left(now));
    }
    let links: Vec<CertificateDer<'static>> = proof.chain.iter().map(|link| link.der.clone()).collect();
    let leads_to = |anchor: &&Certificate| certificate::verify(&links, std::slice::from_ref(*anchor), None).is_ok();
    match anchors {
        Err(why) => proof.untrusted = Some(why.clone()),
        Ok(anchors) => match anchors.iter().find(leads_to) {
            Some(anchor) => proof.anchor = Some(anchor.subject.clone()),
            None => proof.untrusted = certificate::verify(&links, anchors, None).err(),
        },
    }
    proof
}

impl Proof {
    fn table(&self, style: Style) -> String {
        let title = style.bold(&self.pod);
        let Some(leaf) = self.chain.first() else {
            let error = self.error.as_deref().unwrap_or("nothing was served");
            return format!("{title}\n  {}", style.paint(error, Color::Red));
        };
        let chain = match (&self.anchor, &self.untrusted) {
            (Some(anchor), _) => format!("leads to the trust anchor {anchor}"),
            (None, Some(why)) => style.paint(why, Color::Red),
            (None, None) => "was not verified".to_owned(),
        };
        let left = match self.left_seconds {
            left if left > 0 => format!("{} left", clock::span(left)),
            over => style.paint(&format!("ended {} ago", clock::span(over)), Color::Red),
        };
        let lines = [
            ("identity", leaf.spiffe_id.clone().unwrap_or_else(|| "none".to_owned())),
            ("issuer", leaf.issuer.clone()),
            ("serial", leaf.serial.clone()),
            ("valid", format!("from {} to {}", leaf.not_before, leaf.not_after)),
            ("age", format!("{}, {left}", clock::span(self.age_seconds))),
            ("key", leaf.key.clone()),
            ("chain", format!("{} certificates, {chain}", self.chain.len())),
        ];
        let lines: Vec<String> = lines.iter().map(|(name, text)| format!("  {name:<9} {text}")).collect();
        format!("{title}\n{}", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};

    use super::*;
    use crate::kube::mock::Mock;

    /// A root, a leaf of it for an account, both as DER, and the root as PEM.
    fn issued() -> (Vec<u8>, String) {
        let mut root = CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        root.distinguished_name.push(rcgen::DnType::CommonName, "root");
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap())];
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
        ([leaf.der().as_ref(), root.der().as_ref()].concat(), root.pem())
    }

    fn pod() -> Value {
        json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": { "containers": [{ "name": PROXY_CONTAINER }] } })
    }

    #[tokio::test]
    async fn a_chain_is_decoded_and_verified() {
        let (der, root) = issued();
        let cluster = Mock::default().bytes("shop/web", ADMIN_PORT, "/certificate", der).cluster();
        let anchors = Certificate::decode_pem(root.as_bytes());
        let found = proof(&cluster, &pod(), &anchors).await;
        assert_eq!(found.chain[0].spiffe_id.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!(
            (found.chain.len(), found.anchor.as_deref(), found.chain[0].key.as_str()),
            (2, Some("CN=root"), "ECDSA, 256 bits")
        );
        let text = found.table(Style::PLAIN);
        assert!(text.starts_with("shop/web\n  identity  spiffe://cluster.local/ns/shop/sa/web\n"), "{text}");
        assert!(text.ends_with("chain     2 certificates, leads to the trust anchor CN=root"), "{text}");
        let again = Certificate::decode_pem(found.chain[0].pem().as_bytes()).unwrap();
        assert_eq!(again[0].der, found.chain[0].der);

        let stranger = Certificate::decode_pem(issued().1.as_bytes());
        let found = proof(&cluster, &pod(), &stranger).await;
        assert!(found.untrusted.unwrap().contains("does not lead to a trust anchor"));
    }

    #[tokio::test]
    async fn what_cannot_be_shown_says_why() {
        let cluster = Mock::default().cluster();
        let message = proof(&cluster, &pod(), &Ok(Vec::new())).await.error.unwrap();
        assert!(message.contains("port 4691 of pod shop/web cannot be reached"), "{message}");
        let bare = json!({ "metadata": { "name": "web", "namespace": "shop" } });
        let message = proof(&cluster, &bare, &Ok(Vec::new())).await.error.unwrap();
        assert!(message.contains("has no sidecar"), "{message}");
    }
}
