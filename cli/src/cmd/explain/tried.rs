//! What was tried before a decision fell, in a form to print and to compare.

use mesh_policy::{RouteMeta, Rule, Step, Trace, trace::MAX_STEPS};
use serde::Serialize;

/// A rule that was tried and lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Lost {
    /// `HTTPRoute namespace/name`.
    pub route: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// The rule's own name.
    pub name: Option<String>,
    /// Why it lost.
    pub why: String,
}

/// Hears the steps of a decision.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Who lost, in the order of precedence; at most [`MAX_STEPS`].
    pub lost: Vec<Lost>,
    /// How many more lost.
    pub left_out: usize,
    /// What held of the rule that won.
    pub matched: Option<String>,
}

impl Tried {
    fn lost(&mut self, meta: &RouteMeta, index: usize, rule: &Rule, why: String) {
        let lost = Lost {
            route: format!("{} {}/{}", meta.kind.as_str(), meta.namespace, meta.name),
            rule: index,
            name: rule.name.as_deref().map(str::to_owned),
            why,
        };
        // Matches of one rule may lose for one reason.
        if self.lost.last() == Some(&lost) {
            return;
        }
        if self.lost.len() < MAX_STEPS {
            self.lost.push(lost);
        } else {
            self.left_out += 1;
        }
    }
}

impl Trace for Tried {
    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::HostLost { meta, rule_index, rule, host } => {
                self.lost(meta, rule_index, rule, format!("the host is not {host}"));
            }
            Step::MatchLost { meta, rule_index, rule, why } => self.lost(meta, rule_index, rule, why.to_string()),
            Step::Won { host, matched, .. } => {
                let host = host.map(|host| format!("host {host}"));
                let matched = matched.map_or("everything".to_owned(), ToString::to_string);
                self.matched = Some(host.into_iter().chain([matched]).collect::<Vec<_>>().join(", "));
            }
            // These are the decision itself.
            Step::NoRoutes { .. }
            | Step::Answered { .. }
            | Step::NotFound
            | Step::NoBackends
            | Step::RuleLost { .. }
            | Step::Inbound { .. } => {}
        }
    }
}
