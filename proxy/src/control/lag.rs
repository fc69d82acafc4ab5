//! Replicas of the controller that lag behind what another one told.

use std::time::Duration;

use mesh_proto::v1::Revisions;
use tokio::time::Instant;

use super::update::Refused;

/// A replica that lags behind for longer is believed all the same: its API server may have begun anew from a backup.
pub(super) const LAGS_AT_MOST: Duration = Duration::from_secs(180);

/// What was told about one thing, by whichever replica.
#[derive(Default)]
pub(super) struct Lag {
    /// The last changes that are in it.
    changed: Revisions,
    /// Since when only replicas answer that have missed some of those.
    since: Option<Instant>,
}

impl Lag {
    /// Whether a replica that has seen so much may say what the whole is; refused if it has missed a change that is known.
    pub(super) fn admit(&mut self, seen: Option<&Revisions>) -> Result<(), Refused> {
        if seen.is_some_and(|seen| lags(seen, &self.changed)) {
            let since = *self.since.get_or_insert_with(Instant::now);
            if since.elapsed() < LAGS_AT_MOST {
                return Err(Refused::lags());
            }
        }
        self.since = None;
        Ok(())
    }

    /// These changes are in it now; `None` says nothing of them.
    pub(super) fn reached(&mut self, changed: Option<Revisions>) {
        self.changed = changed.unwrap_or(self.changed);
    }
}

/// Whether a replica that has seen so much has missed one of those changes.
fn lags(seen: &Revisions, changed: &Revisions) -> bool {
    let is_behind = |seen: u64, changed: u64| seen != 0 && seen < changed;
    is_behind(seen.services, changed.services)
        || is_behind(seen.endpoint_slices, changed.endpoint_slices)
        || is_behind(seen.pods, changed.pods)
        || is_behind(seen.namespaces, changed.namespaces)
        || is_behind(seen.authorization_policies, changed.authorization_policies)
        || is_behind(seen.cluster_authorization_policies, changed.cluster_authorization_policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_lags_that_has_missed_a_change() {
        let at = |services, endpoint_slices, pods| Revisions { services, endpoint_slices, pods, ..Default::default() };
        for (seen, changed, expected) in [
            (at(5, 9, 9), at(5, 9, 9), false),
            (at(9, 9, 8), at(5, 7, 9), true),
            (at(9, 8, 9), at(5, 9, 7), true),
            (at(4, 9, 9), at(5, 9, 7), true),
            // Of a quiet kind a replica may have heard nothing for longer than another kind changes.
            (at(5, 7, 100), at(5, 7, 90), false),
            (at(0, 0, 0), at(5, 7, 90), false),
            (at(1, 1, 1), at(0, 0, 0), false),
        ] {
            assert_eq!(lags(&seen, &changed), expected, "{seen:?} {changed:?}");
        }
        for of in [
            |n| Revisions { namespaces: n, ..Default::default() },
            |n| Revisions { authorization_policies: n, ..Default::default() },
            |n| Revisions { cluster_authorization_policies: n, ..Default::default() },
        ] {
            assert!(lags(&of(5), &of(6)) && !lags(&of(6), &of(6)));
        }
    }
}
