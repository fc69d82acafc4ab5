//! Objects by where they came from, and the snapshot made of all of them.
//!
//! The one place that holds the state of the world. A source is a file of a folder; a watch of an API server can stand
//! behind the same `apply` and `delete`. Readers get whole snapshots over a watch channel: one that is slow
//! misses those in between and never holds up anyone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_resources::{Class, Object, ObjectId, Options, Snapshot};
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    problems::{self, Entry},
};

/// One state of the world.
#[derive(Debug, Default)]
pub struct Published {
    /// Grows with every change.
    pub version: u64,
    /// All objects.
    pub snapshot: Snapshot,
    /// What is refused now, sorted.
    pub problems: Vec<Entry>,
}

/// What tells objects apart: kind, namespace and name, and the API group.
type Name = (ObjectId, String);

/// The state that snapshots are made of.
#[derive(Debug)]
pub struct Index {
    options: Options,
    objects: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// The versions in force of those objects that have no problem of [`Class::Schema`].
    good: HashMap<Name, Arc<Object>>,
    /// Problems of whole sources, such as files that cannot be read.
    refused: BTreeMap<Arc<str>, Entry>,
    changed: bool,
    publish: watch::Sender<Arc<Published>>,
    metrics: Arc<Metrics>,
}

impl Index {
    /// An empty index, and where its snapshots appear.
    pub fn new(options: Options, metrics: Arc<Metrics>) -> (Self, watch::Receiver<Arc<Published>>) {
        let (publish, receiver) = watch::channel(Arc::default());
        let (objects, good, refused) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        (Self { options, objects, good, refused, changed: false, publish, metrics }, receiver)
    }

    /// Puts a source's objects in force in place of those it had.
    pub fn apply(&mut self, source: &Arc<str>, objects: Vec<Object>) {
        self.changed |= self.refused.remove(source).is_some();
        let objects: Vec<_> = objects.into_iter().map(Arc::new).collect();
        if self.objects.get(source) != Some(&objects) {
            self.objects.insert(source.clone(), objects);
            self.changed = true;
        }
    }

    /// Notes that what a source says now is refused; its last good objects stay.
    pub fn refuse(&mut self, source: &Arc<str>, why: Entry) {
        if self.refused.get(source) != Some(&why) {
            self.refused.insert(source.clone(), why);
            self.changed = true;
        }
    }

    /// Takes back a [`Self::refuse`] without new objects.
    pub fn accept(&mut self, source: &str) {
        self.changed |= self.refused.remove(source).is_some();
    }

    /// Forgets a source and its objects.
    pub fn delete(&mut self, source: &str) {
        self.changed |= self.objects.remove(source).is_some();
        self.changed |= self.refused.remove(source).is_some();
    }

    /// Whether a source has objects in force.
    pub fn has_objects(&self, source: &str) -> bool {
        self.objects.get(source).is_some_and(|objects| !objects.is_empty())
    }

    /// Makes and publishes a snapshot if something changed since the last one. Says whether it did.
    pub fn publish(&mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        let (snapshot, refused) = self.build();
        let mut problems: Vec<Entry> = self.refused.values().cloned().chain(refused).collect();
        problems.extend(snapshot.problems().iter().map(Entry::from));
        problems.sort();
        problems.dedup();
        let before = self.publish.borrow().clone();
        problems::log_changes(&before.problems, &problems);
        let version = before.version + 1;
        self.metrics.problems.set(problems.len() as f64);
        self.metrics.snapshot_version.set(version as f64);
        self.metrics.objects.set(self.objects.values().map(Vec::len).sum::<usize>() as f64);
        self.publish.send_replace(Arc::new(Published { version, snapshot, problems }));
        true
    }

    /// Decodes everything, and gives what is refused of it.
    ///
    /// Of two objects of one name, the one in the first source by name counts, whatever came first in time. One that no
    /// API server would take leaves its earlier version in force, as a refused write does on a cluster; without an
    /// earlier version it is taken in as far as it is understood.
    fn build(&mut self) -> (Snapshot, Vec<Entry>) {
        let mut snapshot = Snapshot::new(self.options.clone());
        let mut seen: HashMap<Name, &Object> = HashMap::new();
        let mut good = HashMap::new();
        let mut refused = Vec::new();
        for object in self.objects.values().flatten() {
            let name = (object.id(), object.group().to_owned());
            if let Some(kept) = seen.get(&name) {
                refused.push(Entry::duplicate(kept, object));
                continue;
            }
            seen.insert(name.clone(), object);
            let problems = snapshot.apply(object);
            let is_good = problems.iter().all(|problem| problem.class != Class::Schema);
            match self.good.get(&name).filter(|_| !is_good) {
                Some(earlier) => {
                    snapshot.apply(earlier);
                    refused.extend(problems.iter().filter(|p| p.class == Class::Schema).map(Entry::refused));
                    good.insert(name, earlier.clone());
                }
                None if is_good => drop(good.insert(name, object.clone())),
                None => {}
            }
        }
        self.good = good;
        (snapshot, refused)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mesh_resources::parse_manifests;

    fn service(name: &str, port: u16, file: &str) -> Vec<Object> {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}"
        );
        parse_manifests(&text, file).unwrap()
    }

    fn index() -> (Index, watch::Receiver<Arc<Published>>) {
        Index::new(Options { meshed_by_label: true, ..Options::default() }, Metrics::new())
    }

    fn knows(rx: &watch::Receiver<Arc<Published>>, target: &str) -> bool {
        rx.borrow().snapshot.resolve(target, "shop").is_some()
    }

    #[test]
    fn sources_come_change_break_and_go() {
        let (mut index, rx) = index();
        let (a, b): (Arc<str>, Arc<str>) = ("a.yaml".into(), "b.yaml".into());
        index.apply(&a, service("web", 80, "a.yaml"));
        index.apply(&b, service("db", 5432, "b.yaml"));
        assert!(index.publish());
        assert!(knows(&rx, "web:80") && knows(&rx, "db:5432"));
        index.apply(&a, service("web", 80, "a.yaml"));
        assert!(!index.publish(), "the same again is no change");
        index.refuse(&a, Entry::folder("broken".to_owned(), "mend it"));
        assert!(index.publish());
        assert!(knows(&rx, "web:80"), "the last good objects stay");
        assert_eq!(rx.borrow().problems.len(), 1);
        index.apply(&a, service("web", 81, "a.yaml"));
        assert!(index.publish());
        assert!(knows(&rx, "web:81") && !knows(&rx, "web:80"));
        assert!(rx.borrow().problems.is_empty());
        index.delete("b.yaml");
        assert!(index.publish());
        assert!(!knows(&rx, "db:5432"));
        assert_eq!(rx.borrow().version, 4);
        assert!(!index.publish());
    }

    #[test]
    fn of_two_with_one_name_the_first_file_wins() {
        let (mut index, rx) = index();
        index.apply(&"b.yaml".into(), service("web", 81, "b.yaml"));
        index.apply(&"a.yaml".into(), service("web", 80, "a.yaml"));
        index.publish();
        assert!(knows(&rx, "web:80") && !knows(&rx, "web:81"));
        let problem = rx.borrow().problems[0].to_string();
        assert!(problem.starts_with("b.yaml:1: Service shop/web: defined in a.yaml:1 as well"), "{problem}");
    }

    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web}]
  rules:
  - backendRefs:
    - name: web
      port: 80
      weight: WEIGHT
";

    fn route(weight: &str) -> Vec<Object> {
        parse_manifests(&ROUTE.replace("WEIGHT", weight), "r.yaml").unwrap()
    }

    /// The weight of the route's backend, or why it is invalid.
    fn weight(rx: &watch::Receiver<Arc<Published>>) -> Result<u32, String> {
        let published = rx.borrow();
        let backend = &published.snapshot.http_routes.values().next().expect("a route").rules[0].backends[0];
        backend.service.clone().map(|_| backend.weight)
    }

    fn told(rx: &watch::Receiver<Arc<Published>>) -> Vec<(String, Option<u64>, String)> {
        rx.borrow().problems.iter().map(|p| (p.reason.clone(), p.line, p.what.clone())).collect()
    }

    #[test]
    fn an_object_that_no_api_server_takes_leaves_the_earlier_one_in_force() {
        let (mut index, rx) = index();
        let file: Arc<str> = "r.yaml".into();
        index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
        index.apply(&file, route("3"));
        index.publish();
        assert_eq!((weight(&rx), told(&rx)), (Ok(3), vec![]));

        index.apply(&file, route("-5"));
        assert!(index.publish());
        let what = "weight is -5; it must be 0 to 1000000; the object is refused, its earlier version stays in force";
        let refused = vec![("Refused".to_owned(), Some(10), what.to_owned())];
        assert_eq!((weight(&rx), told(&rx)), (Ok(3), refused.clone()));
        // Neither another bad version nor another change elsewhere loses it.
        index.apply(&file, route("many"));
        index.apply(&"db.yaml".into(), service("db", 1, "db.yaml"));
        index.publish();
        assert_eq!(weight(&rx), Ok(3));
        // In another file by now.
        index.delete("r.yaml");
        index.apply(&"a.yaml".into(), route("-5"));
        index.publish();
        assert_eq!((weight(&rx), told(&rx)), (Ok(3), refused));

        index.apply(&"a.yaml".into(), route("4"));
        index.publish();
        assert_eq!((weight(&rx), told(&rx)), (Ok(4), vec![]));
        // What is deleted is no earlier version of what comes later.
        index.delete("a.yaml");
        index.publish();
        assert!(rx.borrow().snapshot.http_routes.is_empty());
        index.apply(&file, route("-5"));
        index.publish();
        assert!(weight(&rx).is_err());
    }

    #[test]
    fn without_an_earlier_version_what_is_understood_is_in_force() {
        let (mut index, rx) = index();
        index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
        index.apply(&"r.yaml".into(), route("-5"));
        index.publish();
        assert!(weight(&rx).is_err());
        let what = "weight is -5; it must be 0 to 1000000; its share of the requests is answered 500";
        assert_eq!(told(&rx), [("UnsupportedValue".to_owned(), Some(10), what.to_owned())]);
        index.apply(&"r.yaml".into(), route("7"));
        index.publish();
        assert_eq!((weight(&rx), told(&rx)), (Ok(7), vec![]));
    }

    #[test]
    fn what_is_not_understood_replaces_the_earlier_version() {
        let (mut index, rx) = index();
        index.apply(&"web.yaml".into(), service("web", 80, "web.yaml"));
        index.apply(&"r.yaml".into(), route("3"));
        index.publish();
        index.apply(&"r.yaml".into(), route("4\n    brandNew: {a: 1}"));
        index.publish();
        assert_eq!(weight(&rx), Ok(4));
        assert_eq!(told(&rx).len(), 1);
        assert_eq!(told(&rx)[0].0, "UnsupportedValue");
    }
}
