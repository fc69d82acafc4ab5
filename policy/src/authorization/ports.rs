//! Sets of ports.

use std::fmt;

/// A set of ports of a pod, as ranges: sorted, and with a gap between each two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Box<[(u16, u16)]>);

impl Ports {
    /// The ports in any of these ranges (first and last). A range whose last port is before its first has none.
    pub fn new(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    /// These ports.
    pub fn only(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::new(ports.into_iter().map(|port| (port, port)))
    }

    /// All ports but these.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for (first, last) in &self.0 {
            ranges.extend(next.zip(first.checked_sub(1)));
            next = last.checked_add(1);
        }
        ranges.extend(next.map(|next| (next, u16::MAX)));
        Self::new(ranges)
    }

    /// The ports that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
        Self::new(pairs)
    }

    /// Whether a port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < port);
        self.0.get(at).is_some_and(|(first, _)| *first <= port)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

impl fmt::Display for Ports {
    /// As in `80, 8000-8010`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }?;
        }
        if self.0.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_sorted_and_merged() {
        for (ranges, text) in [
            (&[][..], "none"),
            (&[(80, 80)], "80"),
            (&[(8000, 8010), (80, 80), (8005, 8020)], "80, 8000-8020"),
            (&[(80, 80), (81, 81), (82, 82)], "80-82"),
            (&[(0, 65535), (1, 1)], "0-65535"),
            (&[(9, 8)], "none"),
        ] {
            assert_eq!(Ports::new(ranges.iter().copied()).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in prop::collection::vec((0u16..40, 0u16..40), 0..5), b in prop::collection::vec((0u16..40, 0u16..40), 0..5)) {
            let is_in = |ranges: &[(u16, u16)], port| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
            let (first, second) = (Ports::new(a.clone()), Ports::new(b.clone()));
            for port in (0..45).chain([u16::MAX]) {
                prop_assert_eq!(first.contains(port), is_in(&a, port));
                prop_assert_eq!(first.inverse().contains(port), !is_in(&a, port));
                prop_assert_eq!(first.and(&second).contains(port), is_in(&a, port) && is_in(&b, port));
            }
            prop_assert_eq!(first.inverse().inverse(), first);
        }
    }
}
