//! Which files of the folder are manifests, and what tells that one changed. Reading them is `folder`'s to do.
//!
//! Names that begin with a dot are left out, as are backups and swap files by their endings (`a.yaml~`, `.a.yaml.swp`).
//! Links are followed, to files and to folders, and each folder is read once: in a mounted ConfigMap every name is a
//! link into a hidden folder that is replaced as a whole, and links may lead in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_resources::object;

/// Most files; beyond it the rest is reported and left out.
const MAX_FILES: usize = 10_000;
/// Most names looked at, whatever they are.
const MAX_ENTRIES: usize = 100_000;
/// Most bytes of all files.
const MAX_TOTAL_BYTES: u64 = 256 * 1024 * 1024;
/// Deepest sub-folder.
const MAX_DEPTH: usize = 16;

/// What of a file tells that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file changed less than so long ago.
    pub(crate) fn is_within(self, span: Duration) -> bool {
        let seconds = u64::try_from(self.modified.0.max(self.changed.0)).unwrap_or_default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // A time in the future is as uncertain as one just now.
        at.elapsed().map_or(true, |age| age < span)
    }
}

/// The manifests of a folder.
#[derive(Debug, Default)]
pub(crate) struct FolderListing {
    /// By name, relative to the folder.
    pub(crate) files: BTreeMap<Arc<str>, Stamp>,
    /// Why something was left out, if something was: then a file that is not listed may be there all the same.
    pub(crate) left_out: Option<String>,
    bytes: u64,
    entries: usize,
    /// Device and inode of the folders read.
    folders: BTreeSet<(u64, u64)>,
}

impl FolderListing {
    /// Lists a folder and those below it. An error is about the folder itself; what is wrong below is left out.
    pub(crate) fn of(root: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        listing.walk(root, root, 0)?;
        Ok(listing)
    }

    fn walk(&mut self, root: &Path, folder: &Path, depth: usize) -> io::Result<()> {
        let metadata = std::fs::metadata(folder)?;
        if !self.folders.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let room = MAX_ENTRIES.saturating_sub(self.entries);
        let mut entries = std::fs::read_dir(folder)?.take(room + 1).collect::<io::Result<Vec<_>>>()?;
        if entries.len() > room {
            entries.truncate(room);
            self.left_out = Some(format!("more than {MAX_ENTRIES} names; some are not read"));
        }
        self.entries += entries.len();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let relative = path.strip_prefix(root).unwrap_or(&path).to_str();
            // A name that is not UTF-8 cannot be reported or watched by name; manifests are never called so.
            let Some(name) = relative.filter(|_| !entry.file_name().as_encoded_bytes().starts_with(b".")) else {
                continue;
            };
            // A dangling link, or what vanished meanwhile, is nothing.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth + 1 >= MAX_DEPTH {
                    self.left_out = Some(format!("{name}: folders deeper than {MAX_DEPTH} are not read"));
                } else if let Err(error) = self.walk(root, &path, depth + 1) {
                    self.left_out = Some(format!("{name}: {error}; its last good state stays in force"));
                }
            } else if metadata.is_file() && is_manifest(&path) {
                self.add(name, &metadata);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, metadata: &Metadata) {
        if self.files.len() >= MAX_FILES || self.bytes.saturating_add(metadata.len()) > MAX_TOTAL_BYTES {
            let mib = MAX_TOTAL_BYTES / 1024 / 1024;
            self.left_out = Some(format!("more than {MAX_FILES} files or {mib} MiB; {name} and others are not read"));
            return;
        }
        self.bytes += metadata.len();
        self.files.insert(name.into(), Stamp::new(metadata));
    }
}

fn is_manifest(path: &Path) -> bool {
    if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| object::OTHER_FILES.contains(&name)) {
        return false;
    }
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|e| object::FILE_EXTENSIONS.contains(&e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn names(root: &Path) -> Vec<String> {
        FolderListing::of(root).unwrap().files.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn manifests_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("sub/.git")).unwrap();
        for name in ["a.yaml", "b.yml", "c.json", "sub/d.yaml"] {
            fs::write(at(name), "").unwrap();
        }
        for name in [
            "kustomization.yaml",
            "sub/Chart.yaml",
            "a.yaml~",
            ".a.yaml.swp",
            "#a.yaml#",
            ".#a.yaml",
            "a.yaml.swp",
            "notes.txt",
            "yaml",
            "sub/.git/x.yaml",
        ] {
            fs::write(at(name), "").unwrap();
        }
        symlink("gone.yaml", at("dangling.yaml")).unwrap();
        assert_eq!(names(dir.path()), ["a.yaml", "b.yml", "c.json", "sub/d.yaml"]);
    }

    #[test]
    fn a_mounted_config_map_is_read_once_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("..2026_01/sub")).unwrap();
        fs::write(at("..2026_01/a.yaml"), "one").unwrap();
        fs::write(at("..2026_01/sub/b.yaml"), "").unwrap();
        symlink("..2026_01", at("..data")).unwrap();
        symlink("..data/a.yaml", at("a.yaml")).unwrap();
        symlink("..data/sub", at("sub")).unwrap();
        symlink(".", at("circle")).unwrap();
        symlink("sub", at("twice")).unwrap();
        assert_eq!(names(dir.path()), ["a.yaml", "sub/b.yaml"]);
        // The mount is updated: another hidden folder, and one rename.
        let before = FolderListing::of(dir.path()).unwrap().files;
        fs::create_dir_all(at("..2026_02/sub")).unwrap();
        fs::write(at("..2026_02/a.yaml"), "two").unwrap();
        fs::write(at("..2026_02/sub/b.yaml"), "").unwrap();
        symlink("..2026_02", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let after = FolderListing::of(dir.path()).unwrap().files;
        assert!(after.keys().eq(before.keys()) && after["a.yaml"] != before["a.yaml"]);
    }

    #[test]
    fn files_and_their_bytes_are_bounded_and_what_is_left_out_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Files without content take no room; how long they are says only the file system.
        let huge = fs::File::create(at("a.yaml")).unwrap();
        huge.set_len(MAX_TOTAL_BYTES).unwrap();
        assert_eq!(FolderListing::of(dir.path()).unwrap().left_out, None);
        fs::write(at("b.yaml"), "x").unwrap();
        let listing = FolderListing::of(dir.path()).unwrap();
        assert_eq!((listing.files.len(), listing.left_out.is_some()), (1, true));
        huge.set_len(0).unwrap();
        let mut many = FolderListing::default();
        let metadata = fs::metadata(at("b.yaml")).unwrap();
        (0..MAX_FILES).for_each(|n| many.add(&format!("{n}.yaml"), &metadata));
        assert_eq!(many.left_out, None);
        many.add("one-more.yaml", &metadata);
        assert_eq!((many.files.len(), many.left_out.is_some()), (MAX_FILES, true));
        let deep = (1..=MAX_DEPTH).map(|n| n.to_string()).collect::<Vec<_>>().join("/");
        fs::create_dir_all(at(&deep)).unwrap();
        fs::write(at(&deep).join("c.yaml"), "").unwrap();
        let listing = FolderListing::of(dir.path()).unwrap();
        assert!(listing.left_out.unwrap().contains("deeper than 16") && listing.files.len() == 2);
    }
}
