//! The objects that a question is about, compiled, with those that manifests imply.

use std::collections::BTreeSet;

use mesh_resources::{Object, Options, Snapshot};

use super::implied::implied;

/// Objects, and what is compiled of them.
#[derive(Debug)]
pub(crate) struct Objects {
    /// Compiled.
    pub snapshot: Snapshot,
    /// As they are written.
    pub all: Vec<Object>,
    /// Pods (`namespace/name`) that stand for a template: no such pod is there.
    pub implied: BTreeSet<String>,
    /// The trust domain of service accounts.
    pub trust_domain: String,
}

impl Objects {
    /// Those of manifests, with what they imply.
    pub(crate) fn of_manifests(mut all: Vec<Object>) -> Self {
        // Labels, since manifests are those of a folder or of what is to be applied.
        let options = Options { meshed_by_label: true, ..Options::default() };
        let (added, implied) = implied(&all);
        all.extend(added);
        Self { implied, ..Self::of_cluster(all, options) }
    }

    /// Those of a cluster.
    pub(crate) fn of_cluster(all: Vec<Object>, options: Options) -> Self {
        let trust_domain = options.trust_domain.clone();
        let (snapshot, _) = Snapshot::from_objects(&all, options);
        Self { snapshot, all, implied: BTreeSet::new(), trust_domain }
    }

    /// An object.
    pub(crate) fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        let is_it = |object: &&Object| object.is(kind) && object.namespace == namespace && object.name == name;
        self.all.iter().find(is_it)
    }
}
