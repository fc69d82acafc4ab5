//! What a caller hears of a failure that is not its own: words that name nothing of this pod, and an id to ask its owner about.

use std::{borrow::Cow, fmt};

/// What whoever is refused may know.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// In words.
    pub text: Cow<'static, str>,
    /// The decision of a policy.
    pub decision: Option<DecisionId>,
}

/// A random number by which the log and whoever was refused name one decision. Shown as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecisionId(pub(crate) u64);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
