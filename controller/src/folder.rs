//! The folder of manifests: what changed since the last reading goes into the index. When to read is `watch`'s to say.
//!
//! A file that cannot be parsed is refused and its last good objects stay; so is one that became empty, which is what
//! a file looks like while an editor writes it. Removing the file removes its objects. When the whole folder is gone
//! everything stays as it was. A half-written file that happens to be valid YAML cannot be told from a whole one: the
//! short pause after the last event is what makes it unlikely, and writing by rename makes it impossible.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_resources::{ParseError, object::MAX_FILE_BYTES, parse_manifests};

use crate::{index::Index, metrics::Metrics, problems::Entry};

/// A file changed this recently is read again although its times are the same: a clock tick can hide a change.
const RECENT: Duration = Duration::from_secs(2);
/// Most files; beyond it the rest is reported and left out.
const MAX_FILES: usize = 10_000;
/// Most bytes of all files.
const MAX_TOTAL_BYTES: u64 = 256 * 1024 * 1024;
/// Deepest sub-folder.
const MAX_DEPTH: usize = 16;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// Names the folder itself among the sources of the index; no file has it.
const FOLDER: &str = "";

/// What of a file tells that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file as it was last read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stamp: Stamp,
    content: u64,
}

/// The folder and what was read from it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    index: Index,
    seen: BTreeMap<Arc<str>, Seen>,
    metrics: Arc<Metrics>,
}

impl Folder {
    /// A folder that feeds an index. Nothing is read yet.
    pub fn new(root: PathBuf, index: Index, metrics: Arc<Metrics>) -> Self {
        Self { root, index, seen: BTreeMap::new(), metrics }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed and publishes it. Blocks on the file system. Says whether anything changed.
    pub fn read(&mut self) -> bool {
        self.metrics.folder_reads.increment(1);
        let folder: Arc<str> = FOLDER.into();
        let mut found = Found::default();
        match walk(&self.root, &self.root, 0, &mut found) {
            Ok(()) => {}
            Err(error) => {
                let what = format!("{}: {error}; the last good state stays in force", self.root.display());
                self.index.refuse(&folder, Entry::folder(what, "make the folder readable again"));
                return self.index.publish();
            }
        }
        match found.left_out {
            Some(what) => self.index.refuse(&folder, Entry::folder(what, "split the folder or remove files")),
            None => self.index.accept(FOLDER),
        }
        let names: BTreeSet<_> = found.files.keys().cloned().collect();
        for (name, stamp) in found.files {
            self.read_file(name, stamp);
        }
        // Files in sub-folders that could not be listed just now are not gone.
        let hidden = |name: &str| found.unreadable.iter().any(|folder| name.starts_with(folder.as_str()));
        let gone: Vec<_> = self.seen.keys().filter(|name| !names.contains(*name) && !hidden(name)).cloned().collect();
        for name in gone {
            tracing::info!("{name} was removed, and its objects with it");
            self.seen.remove(&name);
            self.index.delete(&name);
        }
        self.index.publish()
    }

    fn read_file(&mut self, name: Arc<str>, stamp: Stamp) {
        let seen = self.seen.get(&name).copied();
        if seen.is_some_and(|seen| seen.stamp == stamp) && !is_recent(stamp) {
            return;
        }
        let text = match read_bounded(&self.root.join(&*name)) {
            Ok(text) => text,
            // Removed or replaced since it was listed: the next reading sees what it became.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let error = broken(&name, error.to_string());
                self.index.refuse(&name, Entry::broken_file(&error, self.index.has_objects(&name)));
                // Remembered as present, so that its removal is noticed.
                self.seen.entry(name).or_insert(Seen { stamp, content: 0 });
                return;
            }
        };
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let content = hasher.finish();
        self.seen.insert(name.clone(), Seen { stamp, content });
        if seen.is_some_and(|seen| seen.content == content) {
            return;
        }
        let result = if text.trim().is_empty() && self.index.has_objects(&name) {
            Err(broken(&name, "the file has become empty; remove the file to remove its objects".to_owned()))
        } else {
            parse_manifests(&text, &name)
        };
        match result {
            Ok(objects) => {
                tracing::debug!("read {name}: {} objects", objects.len());
                self.index.apply(&name, objects);
            }
            Err(error) => self.index.refuse(&name, Entry::broken_file(&error, self.index.has_objects(&name))),
        }
    }
}

fn broken(name: &str, message: String) -> ParseError {
    ParseError { file: name.to_owned(), line: 1, column: 1, message }
}

fn is_recent(stamp: Stamp) -> bool {
    let seconds = u64::try_from(stamp.modified.0.max(stamp.changed.0)).unwrap_or_default();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // A time in the future is as uncertain as one just now.
    at.elapsed().map_or(true, |age| age < RECENT)
}

/// Reads a file whose length may change meanwhile.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// The files of a folder.
#[derive(Debug, Default)]
struct Found {
    files: BTreeMap<Arc<str>, Stamp>,
    bytes: u64,
    /// Why something was left out.
    left_out: Option<String>,
    /// Sub-folders that could not be listed, relative, with a trailing slash.
    unreadable: Vec<String>,
}

/// Lists manifests. Hidden names are left out (editors and ConfigMap mounts keep their own there); links to files are
/// followed, links to folders are not, since they can lead in circles.
fn walk(root: &Path, folder: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_str();
        // A name that is not UTF-8 cannot be reported or watched by name; manifests are never called so.
        let Some(name) = relative.filter(|_| !entry.file_name().as_encoded_bytes().starts_with(b".")) else { continue };
        if entry.file_type()?.is_dir() {
            if depth + 1 >= MAX_DEPTH {
                found.left_out = Some(format!("{name}: folders deeper than {MAX_DEPTH} are not read"));
            } else if let Err(error) = walk(root, &path, depth + 1, found) {
                found.left_out = Some(format!("{name}: {error}; its last good state stays in force"));
                found.unreadable.push(format!("{name}/"));
            }
            continue;
        }
        let is_manifest = path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e));
        // A dangling link, or a file that vanished meanwhile, is no file.
        let Some(metadata) = std::fs::metadata(&path).ok().filter(|m| is_manifest && m.is_file()) else { continue };
        if found.files.len() >= MAX_FILES || found.bytes.saturating_add(metadata.len()) > MAX_TOTAL_BYTES {
            let mib = MAX_TOTAL_BYTES / 1024 / 1024;
            found.left_out = Some(format!("more than {MAX_FILES} files or {mib} MiB; {name} and others are not read"));
            continue;
        }
        found.bytes += metadata.len();
        let stamp = Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        found.files.insert(name.into(), stamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::index::Published;
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
