//! The header modifier (Gateway API, `HTTPHeaderFilter`).
//!
//! It changes what it is told to; which headers belong to the mesh itself is the proxy's business.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::bounds::OVERHEAD;

/// Removes, sets and adds headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replaces every value of the header, or adds it.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Adds a value after those there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes every value of the header.
    pub remove: Vec<HeaderName>,
}

impl HeaderModifier {
    /// Its part of [`crate::Route::bytes`].
    pub(super) fn bytes(&self) -> usize {
        let pairs = self.set.iter().chain(&self.add);
        let pairs: usize = pairs.map(|pair| size_of_val(pair) + pair.0.as_str().len() + pair.1.len() + OVERHEAD).sum();
        pairs + self.remove.iter().map(|name| size_of_val(name) + name.as_str().len()).sum::<usize>()
    }

    /// Changes the headers: first what is removed, then what is set, then what is added, so that nothing that the
    /// modifier itself puts in is lost. Does nothing, and allocates nothing, when it is empty.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::filter::Filter;

    fn modifier(
        set: &[(&'static str, &'static str)],
        add: &[(&'static str, &'static str)],
        remove: &[&'static str],
    ) -> HeaderModifier {
        let pairs = |list: &[(&'static str, &'static str)]| {
            list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        HeaderModifier {
            set: pairs(set),
            add: pairs(add),
            remove: remove.iter().map(|n| HeaderName::from_static(n)).collect(),
        }
    }

    fn after(filter: &HeaderModifier, lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        filter.apply(&mut headers);
        let mut found: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        found.sort();
        found
    }

    fn owned(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(
            after(&modifier(&[("my-header", "bar")], &[], &[]), &[("my-header", "foo")]),
            owned(&[("my-header", "bar")])
        );
        assert_eq!(
            after(&modifier(&[], &[("my-header", "bar,baz")], &[]), &[("my-header", "foo")]),
            owned(&[("my-header", "bar,baz"), ("my-header", "foo")])
        );
        let removed = after(
            &modifier(&[], &[], &["my-header1", "my-header3"]),
            &[("my-header1", "foo"), ("my-header2", "bar"), ("my-header3", "baz")],
        );
        assert_eq!(removed, owned(&[("my-header2", "bar")]));
    }

    #[test]
    fn set_replaces_every_value_and_survives_a_removal() {
        let both = modifier(&[("a", "new")], &[("a", "more")], &["a"]);
        assert_eq!(
            after(&both, &[("a", "1"), ("a", "2"), ("b", "3")]),
            owned(&[("a", "more"), ("a", "new"), ("b", "3")])
        );
    }

    #[test]
    fn a_filter_touches_only_its_own_side() {
        let filter = Filter::RequestHeaders(modifier(&[("a", "1")], &[], &[]));
        let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
        filter.apply_request(&mut request);
        filter.apply_response(&mut response, None);
        assert_eq!((request.len(), response.len()), (1, 0));
        assert!(HeaderModifier::default().is_empty() && !modifier(&[], &[], &["a"]).is_empty());
    }
}
