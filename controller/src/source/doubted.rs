//! Policies that are said to be gone, until it is certain that they are.
//!
//! When somebody deletes the definition (CRD) of a kind, the API server first deletes every object of it, and tells watches so as
//! if each had been deleted for itself. Policies that restrict who calls a pod must not end in this way: what was in force stays,
//! and it is told. A definition that is being removed takes no new objects, which discovery shows. It may show it somewhat
//! later than the first object goes, so each waits for a while before it is asked.

use std::{collections::HashMap, time::Duration};

use ::kube::{Client, Error, discovery};
use mesh_resources::kinds::{Kind, Version};
use tokio::time::{Instant, timeout};

use crate::{
    kube::named::{REQUEST_LIMIT, describe},
    source::waiting::ObjectName,
};

/// How long what is gone waits: discovery follows a definition within some milliseconds.
const WAIT: Duration = Duration::from_millis(300);

/// Whether what is gone of a kind may be gone because its definition is.
pub(super) fn is_doubted(kind: &Kind) -> bool {
    kind.restricts && matches!(kind.version, Version::Served(_))
}

/// What was found out about the definition of a kind.
pub(super) struct Definition {
    pub(super) kind: &'static Kind,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// Whether it is there to stay.
    pub(super) stays: Result<bool, String>,
}

impl Definition {
    /// Asks the API server whether a kind is served and takes new objects.
    pub(super) async fn look(client: Client, kind: &'static Kind) -> Self {
        let asked = Instant::now();
        let stays = match timeout(REQUEST_LIMIT, discovery::group(&client, kind.group)).await {
            Ok(Ok(group)) => Ok(group
                .resources_by_stability()
                .iter()
                .any(|(resource, can)| resource.kind == kind.kind && can.supports_operation(discovery::verbs::CREATE))),
            Ok(Err(Error::Discovery(_))) => Ok(false),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err(format!("no answer within {REQUEST_LIMIT:?}")),
        };
        Self { kind, asked, stays }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doubted {
    gone: HashMap<ObjectName, Gone>,
}

#[derive(Clone, Copy, Debug)]
struct Gone {
    revision: u64,
    told: Instant,
}

impl Doubted {
    /// An object is said to be gone.
    pub(super) fn gone(&mut self, name: ObjectName, revision: u64) {
        self.gone.insert(name, Gone { revision, told: Instant::now() });
    }

    /// It is there (again).
    pub(super) fn there(&mut self, name: &ObjectName) {
        self.gone.remove(name);
    }

    /// When the next question about a definition is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.gone.values().map(|gone| gone.told + WAIT).min()
    }

    /// The kinds of those for which it is due.
    pub(super) fn kinds(&self, now: Instant) -> Vec<&'static str> {
        let due = self.gone.iter().filter(|(_, gone)| gone.told + WAIT <= now);
        let mut kinds: Vec<_> = due.map(|((kind, _), _)| *kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Those of a kind that had waited long enough when its definition was asked for, each with its revision. They are
    /// doubted no more: they are gone, or stay, as the definition says.
    pub(super) fn take(&mut self, kind: &str, asked: Instant) -> Vec<(ObjectName, u64)> {
        self.gone
            .extract_if(|(of, _), gone| *of == kind && gone.told + WAIT <= asked)
            .map(|(name, gone)| (name, gone.revision))
            .collect()
    }

    /// It could not be found out: they wait anew.
    pub(super) fn again(&mut self, kind: &str) {
        let of_kind = self.gone.iter_mut().filter(|((of, _), _)| *of == kind);
        of_kind.for_each(|(_, gone)| gone.told = Instant::now());
    }
}
