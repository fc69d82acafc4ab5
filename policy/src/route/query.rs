//! Query parameters (Gateway API, `HTTPQueryParamMatch`).

use smallvec::SmallVec;

use super::text::StringMatch;

/// Decoded values up to this many bytes stay on the stack.
const DECODE_BUFFER: usize = 256;

/// A query parameter that must be present with a value.
///
/// - Of a parameter repeated in a request the first occurrence counts, as the Gateway API recommends.
/// - Names and values are compared after decoding `%41` to `A` and `+` to a space, as servers and HTML forms do
///   (RFC 9110 section 4.2.3 calls a character and its encoding equivalent; Linkerd decodes as well, Envoy does not):
///   what is routed is what the server will read. A `%` without two hexadecimal digits stands for itself.
/// - A parameter without `=` has the empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Name, decoded; case-sensitive.
    pub name: String,
    /// What the decoded value must be.
    pub value: StringMatch,
}

impl QueryMatch {
    /// Whether the query (without `?`) has the parameter with such a value.
    pub fn matches(&self, query: Option<&str>) -> bool {
        self.values(query).next().is_some_and(|value| self.is_value(value))
    }

    /// The values of every occurrence of the parameter, as received.
    pub(crate) fn values<'q>(&self, query: Option<&'q str>) -> impl Iterator<Item = &'q str> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decode(name).eq(self.name.bytes()).then_some(value)
        })
    }

    /// Whether a value, as received, is the one that is wanted.
    pub(crate) fn is_value(&self, value: &str) -> bool {
        match &self.value {
            StringMatch::Exact(exact) => decode(value).eq(exact.bytes()),
            StringMatch::Regex(regex) => {
                let decoded: SmallVec<[u8; DECODE_BUFFER]> = decode(value).collect();
                regex.is_match(&decoded)
            }
        }
    }
}

/// The bytes that an encoded name or value stands for.
fn decode(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, mut after) = rest.split_first()?;
        let decoded = match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    after = tail;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => byte,
        };
        rest = after;
        Some(decoded)
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::route::RegexMatch;
    use proptest::prelude::*;

    fn exact(name: &str, value: &str) -> QueryMatch {
        QueryMatch { name: name.into(), value: StringMatch::Exact(value.into()) }
    }

    #[test]
    fn the_first_occurrence_counts() {
        for (name, value, query, expected) in [
            ("a", "1", Some("a=1"), true),
            ("a", "1", Some("a=1&a=2"), true),
            ("a", "2", Some("a=1&a=2"), false),
            ("a", "1", Some("b=2&&a=1"), true),
            ("a", "", Some("a"), true),
            ("a", "", Some("a="), true),
            ("a", "", Some("b"), false),
            ("a", "", None, false),
            ("a", "b=c", Some("a=b=c"), true),
            ("A", "1", Some("a=1"), false),
            ("a b", "c d", Some("a+b=c%20d"), true),
            ("a", "%", Some("a=%"), true),
            ("a", "%4", Some("a=%4"), true),
            ("a", "%zz", Some("a=%zz"), true),
            ("a", "é", Some("a=%C3%a9"), true),
            ("a", "x", Some("%61=x&a=y"), true),
        ] {
            assert_eq!(exact(name, value).matches(query), expected, "{name}={value} in {query:?}");
        }
        let pattern = StringMatch::Regex(RegexMatch::new("v[0-9]").unwrap());
        let regex = QueryMatch { name: "a".into(), value: pattern };
        assert!(regex.matches(Some("a=%761")) && !regex.matches(Some("a=v10")));
    }

    proptest! {
        /// Whatever is encoded is found again, after any parameters of another name.
        #[test]
        fn encoding_is_transparent(name in "[a-c%+&=]{1,4}", value in "\\PC{0,6}", before in "(x(=[a-z%]{0,3})?&){0,3}", all in any::<bool>()) {
            let encode = |text: &str| -> String {
                text.bytes()
                    .map(|b| if !all && b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02x}") })
                    .collect()
            };
            let query = format!("{before}{}={}&{}=other", encode(&name), encode(&value), encode(&name));
            prop_assert!(exact(&name, &value).matches(Some(&query)));
            let different = format!("{value}!");
            prop_assert!(!exact(&name, &different).matches(Some(&query)));
        }
    }
}
