//! The folder of manifests: what changed since the last reading goes into the index. When to read is `watch`'s to say.
//!
//! A file that cannot be parsed is refused and its last good objects stay; so is one that became empty, which is what
//! a file looks like while an editor writes it, and which is waited for a little before anything is said. Removing the
//! file removes its objects, and so does removing them from the file. When the whole folder is gone everything stays as
//! it was. A half-written file that happens to be valid YAML cannot be told from a whole one: `watch` waits until the
//! writer closes it, and writing by rename leaves no doubt.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_resources::{ParseError, object::MAX_FILE_BYTES, parse_manifests, yaml};

use crate::{
    metrics::Metrics,
    source::{
        index::Index,
        listing::{FolderListing, Stamp},
    },
    status::problems::ProblemEntry,
};

/// A file changed this recently is read again although its times are the same: a clock tick can hide a change. One
/// that was emptied this recently is being written, most likely, and waited for.
const RECENT: Duration = Duration::from_secs(2);
/// Names the folder itself among the sources of the index; no file has it.
const FOLDER: &str = "";

/// A file as it was last read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stamp: Stamp,
    content: u64,
}

/// The folder and what was read from it.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    index: Index,
    seen: BTreeMap<Arc<str>, Seen>,
    recent: Duration,
    metrics: Arc<Metrics>,
}

impl Folder {
    /// A folder that feeds an index. Nothing is read yet.
    pub(crate) fn new(root: PathBuf, index: Index, metrics: Arc<Metrics>) -> Self {
        Self { root, index, seen: BTreeMap::new(), recent: RECENT, metrics }
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed and publishes it. Blocks on the file system. Says whether anything changed.
    pub(crate) fn read(&mut self) -> bool {
        self.metrics.folder_reads.increment(1);
        let folder: Arc<str> = FOLDER.into();
        let listing = match FolderListing::of(&self.root) {
            Ok(listing) => listing,
            Err(error) => {
                let what = format!("{}: {error}; the last good state stays in force", self.root.display());
                self.index.refuse(&folder, ProblemEntry::folder(what, "make the folder readable again"));
                return self.index.publish();
            }
        };
        // What was left out of the listing is not gone for that.
        let may_be_there = |name: &str| listing.left_out.is_some() && self.root.join(name).try_exists().unwrap_or(true);
        let is_gone = |name: &&Arc<str>| !listing.files.contains_key(*name) && !may_be_there(name);
        let gone: Vec<_> = self.seen.keys().filter(is_gone).cloned().collect();
        for (name, stamp) in listing.files {
            self.read_file(name, stamp);
        }
        for name in gone {
            tracing::info!("{name} was removed, and its objects with it");
            self.seen.remove(&name);
            self.index.delete(&name);
        }
        match listing.left_out {
            Some(what) => self.index.refuse(&folder, ProblemEntry::folder(what, "split the folder or remove files")),
            None => self.index.accept(FOLDER),
        }
        // Nobody knows what is in a file that never could be read: it may restrict who calls a pod.
        if self.index.is_all_read() {
            self.index.set_knows_restrictions();
        }
        self.index.publish()
    }

    fn read_file(&mut self, name: Arc<str>, stamp: Stamp) {
        let seen = self.seen.get(&name).copied();
        if seen.is_some_and(|seen| seen.stamp == stamp) && !stamp.is_within(self.recent) {
            return;
        }
        let text = match read_bounded(&self.root.join(&*name)) {
            Ok(text) => text,
            // Removed or replaced since it was listed: the next reading sees what it became.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let error = broken(&name, error.to_string());
                self.index.refuse(&name, ProblemEntry::broken_file(&error, self.index.has_objects(&name)));
                // Remembered as present, so that its removal is noticed.
                self.seen.entry(name).or_insert(Seen { stamp, content: 0 });
                return;
            }
        };
        let was_emptied = text.trim().is_empty() && self.index.has_objects(&name);
        if was_emptied && stamp.is_within(self.recent) {
            tracing::debug!("{name} is empty just now; it is read again soon");
            return;
        }
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let content = hasher.finish();
        self.seen.insert(name.clone(), Seen { stamp, content });
        if seen.is_some_and(|seen| seen.content == content) {
            return;
        }
        let result = if was_emptied {
            Err(broken(&name, "the file has become empty; remove the file to remove its objects".to_owned()))
        } else {
            parse_manifests(&text, &name)
        };
        match result {
            Ok(objects) => {
                tracing::debug!("read {name}: {} objects", objects.len());
                self.index.apply(&name, objects);
            }
            Err(error) => self.index.refuse(&name, ProblemEntry::broken_file(&error, self.index.has_objects(&name))),
        }
    }
}

fn broken(name: &str, message: String) -> ParseError {
    ParseError { file: name.to_owned(), line: 1, column: 1, message }
}

/// Reads a file whose length may change meanwhile.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    yaml::decode(bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::source::index::Published;
    use mesh_resources::Options;
    use tokio::sync::watch::Receiver;

    struct Fixture {
        dir: tempfile::TempDir,
        folder: Folder,
        rx: Receiver<Arc<Published>>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (index, rx) = Index::new(Options::default(), Metrics::new());
            let folder = Folder::new(dir.path().to_owned(), index, Metrics::new());
            Self { dir, folder, rx }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn service(&self, file: &str, name: &str, port: u16) {
            let meta = format!("metadata: {{name: {name}, namespace: shop}}");
            let text = format!("apiVersion: v1\nkind: Service\n{meta}\nspec: {{ports: [{{port: {port}}}]}}\n");
            self.write(file, &text);
        }

        fn knows(&self, target: &str) -> bool {
            self.rx.borrow().snapshot.resolve(target, "shop").is_some()
        }

        fn problems(&self) -> Vec<String> {
            self.rx.borrow().problems.iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn files_come_change_and_go() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        f.service("sub/b.yml", "db", 5432);
        f.service(".hidden.yaml", "hidden", 1);
        f.service("notes.txt", "notes", 1);
        assert!(f.folder.read());
        assert!(f.knows("web:80") && f.knows("db:5432") && !f.knows("hidden:1") && !f.knows("notes:1"));
        assert!(!f.folder.read());
        // The same length within one tick of the clock.
        f.service("a.yaml", "web", 81);
        assert!(f.folder.read());
        assert!(f.knows("web:81") && !f.knows("web:80"));
        std::fs::remove_file(f.dir.path().join("sub/b.yml")).unwrap();
        assert!(f.folder.read());
        assert!(!f.knows("db:5432"));
    }

    #[test]
    fn broken_empty_and_oversized_files_keep_the_last_good_objects() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        f.service("b.yaml", "db", 5432);
        f.folder.read();
        f.folder.recent = Duration::ZERO;
        for bad in ["apiVersion: v1\nkind: [Service\n", "", "  \n", "apiVersion: v1\n", "\u{0}"] {
            f.write("a.yaml", bad);
            f.folder.read();
            assert!(f.knows("web:80"), "{bad:?}");
            assert_eq!(f.problems().len(), 1, "{bad:?}: {:?}", f.problems());
            assert!(f.problems()[0].starts_with("a.yaml:"), "{:?}", f.problems());
        }
        std::fs::write(f.dir.path().join("a.yaml"), vec![b'#'; MAX_FILE_BYTES + 1]).unwrap();
        f.folder.read();
        assert!(f.knows("web:80") && f.problems().len() == 1);
        std::fs::write(f.dir.path().join("a.yaml"), [0xff, 0xfe]).unwrap();
        f.folder.read();
        assert!(f.knows("web:80") && f.problems().len() == 1);
        f.service("b.yaml", "db", 5433);
        f.folder.read();
        assert!(f.knows("db:5433"), "other files go on");
        f.service("a.yaml", "web", 81);
        f.folder.read();
        assert!(f.knows("web:81") && f.problems().is_empty());
    }

    #[test]
    fn a_file_that_was_emptied_just_now_is_waited_for() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        f.folder.read();
        f.write("a.yaml", "");
        f.folder.recent = Duration::from_secs(3600);
        assert!(!f.folder.read(), "nothing is said yet");
        f.folder.recent = Duration::ZERO;
        assert!(f.folder.read());
        assert!(f.knows("web:80") && f.problems()[0].contains("become empty"), "{:?}", f.problems());
        f.service("a.yaml", "web", 81);
        f.folder.read();
        assert!(f.knows("web:81") && f.problems().is_empty());
    }

    #[test]
    fn an_object_taken_out_of_a_file_is_gone() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        let one = std::fs::read_to_string(f.dir.path().join("a.yaml")).unwrap();
        f.write("a.yaml", &format!("{one}---\n{}", one.replace("web", "db").replace("80", "5432")));
        f.folder.read();
        assert!(f.knows("web:80") && f.knows("db:5432"));
        f.write("a.yaml", &one);
        f.folder.read();
        assert!(f.knows("web:80") && !f.knows("db:5432"));
    }

    #[test]
    fn kinds_that_are_not_used_may_repeat_and_others_have_their_own_group() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\n";
        f.write("b.yaml", map);
        f.write("c.yaml", map);
        f.write(
            "d.yaml",
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n",
        );
        f.write(
            "e.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: edge, namespace: shop}\nspec:\n  parentRefs: \
             [{name: edge}]\n  rules: [{backendRefs: [{group: gateway.example.com, kind: Backend, name: up}]}]\n",
        );
        assert!(f.folder.read());
        assert!(f.knows("web:80") && f.problems().is_empty(), "{:?}", f.problems());
        f.service("z.yaml", "web", 81);
        f.folder.read();
        assert!(f.problems()[0].contains("z.yaml"), "of a kind that is used, the second is told: {:?}", f.problems());
    }

    #[test]
    fn a_broken_file_that_is_removed_is_gone() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        f.folder.read();
        f.write("a.yaml", "{");
        f.folder.read();
        std::fs::remove_file(f.dir.path().join("a.yaml")).unwrap();
        f.folder.read();
        assert!(!f.knows("web:80") && f.problems().is_empty());
    }

    #[test]
    fn a_folder_that_disappears_keeps_everything() {
        let mut f = Fixture::new();
        f.service("a.yaml", "web", 80);
        f.folder.read();
        let moved = f.dir.path().with_extension("moved");
        std::fs::rename(f.dir.path(), &moved).unwrap();
        f.folder.read();
        assert!(f.knows("web:80"));
        assert!(f.problems()[0].contains("the last good state stays in force"), "{:?}", f.problems());
        std::fs::rename(&moved, f.dir.path()).unwrap();
        f.folder.read();
        assert!(f.knows("web:80") && f.problems().is_empty());
    }
}
