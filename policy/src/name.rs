//! Names that Kubernetes allows (RFC 1123): what namespaces, service accounts, pods and other objects are called.

/// Longest name of an object, in bytes.
const MAX_SUBDOMAIN: usize = 253;
/// Longest name of a namespace, in bytes.
const MAX_LABEL: usize = 63;

/// Whether a text is a DNS-1123 label, as namespaces are: lower-case letters, digits and inner `-`, no dot.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_part(text)
}

/// Whether a text is a DNS-1123 subdomain, as the names of most objects are: parts as of a label, joined by dots.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain) && bytes.iter().all(|b| plain(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, label, subdomain) in [
            ("web", true, true),
            ("web-0", true, true),
            ("0", true, true),
            ("a.b", false, true),
            ("", false, false),
            (".", false, false),
            ("a..b", false, false),
            ("a.-b", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("A", false, false),
            ("a/b", false, false),
            ("a_b", false, false),
            ("é", false, false),
        ] {
            assert_eq!((is_label(text), is_subdomain(text)), (label, subdomain), "{text:?}");
        }
        assert!(is_label(&"a".repeat(63)) && !is_label(&"a".repeat(64)));
        assert!(is_subdomain(&"a".repeat(253)) && !is_subdomain(&"a".repeat(254)));
    }
}
