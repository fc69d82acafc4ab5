//! The trust bundle as text: what ConfigMaps and webhooks hold.

use k8s_openapi::ByteString;
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Anchors as PEM.
pub(crate) fn pem(anchors: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for anchor in anchors {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = base64(anchor);
        for line in base64.as_bytes().chunks(PEM_LINE) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// Base64 as objects of Kubernetes have their bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    match serde_json::to_value(ByteString(bytes.to_vec())) {
        Ok(serde_json::Value::String(text)) => text,
        // Bytes are written as text and nothing else.
        _ => String::new(),
    }
}

/// Whether a PEM text holds just these anchors, in any order and with any text around them.
pub(crate) fn same_anchors(text: &[u8], anchors: &[CertificateDer<'_>]) -> bool {
    let Ok(read) = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() else { return false };
    read.len() == anchors.len() && anchors.iter().all(|anchor| read.contains(anchor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pem_and_back() {
        let anchor = |length: usize| CertificateDer::from((0..length).map(|n| n as u8).collect::<Vec<_>>());
        let bundle = vec![anchor(500), anchor(48), anchor(1)];
        let text = pem(&bundle);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(same_anchors(text.as_bytes(), &bundle));
        let turned: Vec<_> = bundle.iter().rev().cloned().collect();
        assert!(same_anchors(format!("# old and new\n{text}").as_bytes(), &turned));
        for other in [&text[..text.len() - 40], "", "garbage", &pem(&bundle[1..]), &(text.clone() + &text)] {
            assert!(!same_anchors(other.as_bytes(), &bundle), "{other}");
        }
    }
}
