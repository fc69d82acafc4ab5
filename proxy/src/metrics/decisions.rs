//! What each authorization policy decided, in numbers: for `/metrics`, and for the page `/authorization`.
//!
//! The handles of a policy are bound once for each policy that is put in force, so counting is one atomic add. Numbers of
//! rules are not labels: a pod may have a quarter of a million of them. The log and the page name the rule.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{labels::label_text, room::Room};

/// Policies that are told apart: as many as a pod may have at once. Policies come and go, and their counters stay.
const MAX_POLICIES: usize = 1_000;
/// What counts policies beyond that.
const OTHER: &str = "other";
const NAME: &str = "mesh_authorization_decisions_total";
/// The lines of a policy.
const LINES: usize = 2 * Decided::ALL.len();

/// What a policy decided about a request, or about a connection of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It let it in.
    Allowed,
    /// It refused it.
    Denied,
    /// It would have refused it, and is in shadow.
    ShadowDenied,
    /// It is an AUDIT that matched.
    Audited,
}

impl Decided {
    /// All, in the order of their counters.
    pub(crate) const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::ShadowDenied, Self::Audited];

    /// The label value, and the key of the page.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::ShadowDenied => "shadow_denied",
            Self::Audited => "audited",
        }
    }
}

/// The counters of one policy: without and with mutual TLS.
#[derive(Debug, Default)]
pub(crate) struct PolicyDecisions([[AtomicU64; Decided::ALL.len()]; 2]);

impl PolicyDecisions {
    /// Counts one.
    pub(crate) fn count(&self, decided: Decided, mutual_tls: bool) {
        self.0[usize::from(mutual_tls)][decided as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn total(&self, decided: Decided) -> u64 {
        self.0.iter().map(|counters| counters[decided as usize].load(Ordering::Relaxed)).sum()
    }
}

/// The counters of all policies, by name.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<BTreeMap<Arc<str>, Arc<PolicyDecisions>>>);

impl Decisions {
    /// The counters of a policy.
    pub(super) fn of(&self, room: &Room, policy: &Arc<str>) -> Arc<PolicyDecisions> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = NAME.len() + policy.len() + r#"policy="",verdict="shadow_denied",tls="mutual""#.len();
        let has_room = || all.len() < MAX_POLICIES && room.take(LINES, bytes);
        let name = if all.contains_key(policy) || has_room() { policy.clone() } else { OTHER.into() };
        all.entry(name).or_default().clone()
    }

    /// Those that counted anything, in the text format of Prometheus.
    pub(super) fn render(&self, help: &str, text: &mut String) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        let _ = writeln!(text, "# HELP {NAME} {help}\n# TYPE {NAME} counter");
        for (policy, counters) in all.iter() {
            for (tls, counters) in ["none", "mutual"].into_iter().zip(&counters.0) {
                for (decided, count) in Decided::ALL.into_iter().zip(counters) {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        let labels = label_text(&[
                            ("policy", policy.to_string()),
                            ("verdict", decided.as_str().to_owned()),
                            ("tls", tls.to_owned()),
                        ]);
                        let _ = writeln!(text, "{NAME}{{{}}} {count}", labels.trim_end_matches(','));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_beyond_the_limit_are_one() {
        let (decisions, room) = (Decisions::default(), Room::new(1));
        for n in 0..=MAX_POLICIES + 1 {
            decisions.of(&room, &format!("{n}").into()).count(Decided::Denied, true);
        }
        decisions.of(&room, &"0".into()).count(Decided::ShadowDenied, false);
        let mut text = String::new();
        decisions.render("Help.", &mut text);
        assert!(text.contains("{policy=\"other\",verdict=\"denied\",tls=\"mutual\"} 2\n"), "{text}");
        assert!(text.contains("{policy=\"0\",verdict=\"shadow_denied\",tls=\"none\"} 1\n"), "{text}");
        assert_eq!(text.lines().count(), 2 + MAX_POLICIES + 2, "what counted nothing is not told");
    }
}
