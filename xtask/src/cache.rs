//! Where pinned tools are kept once they are built: a folder of the user's, shared by all checkouts.
//!
//! An entry is named by its version, the machine's architecture and a hash of the files that pin it (`go.mod`, `go.sum`), so
//! that checkouts with other pins do not meet. It is built in a folder beside and gets its name when all is well; a lock
//! lets a second checkout wait for the first. Nothing here is ever altered again: `rm -r` of the whole folder is safe
//! while no cluster is up, and only costs the time to build.

use std::{
    env,
    fs::{self, File, TryLockError},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::step::root;

/// The variable that names the folder; otherwise it is `$XDG_CACHE_HOME/mesh` or `~/.cache/mesh`.
const VARIABLE: &str = "MESH_CACHE";
/// Bytes of the hash in a name: against mistakes, not against an adversary, who would have the user's rights already.
const HASH: usize = 6;
/// The file that says that an entry which cannot be renamed is complete.
const COMPLETE: &str = "complete";

/// A built tool, or one to be built.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    folder: PathBuf,
    name: String,
}

/// The folder of all entries.
pub fn folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = set(VARIABLE)
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("mesh")))
        .or_else(|| Some(env::home_dir()?.join(".cache/mesh")));
    let folder = found.with_context(|| format!("set {VARIABLE} to a folder for built tools: there is no HOME"))?;
    // Names in it are read by processes with other working folders.
    Ok(root().join(folder))
}

impl CacheEntry {
    /// The entry of a tool in a version, pinned by these files.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn of(tool: &str, version: &str, pins: &[PathBuf]) -> Result<Self> {
        Self::in_folder(folder()?, tool, version, pins)
    }

    fn in_folder(folder: PathBuf, tool: &str, version: &str, pins: &[PathBuf]) -> Result<Self> {
        let mut name = format!("{tool}-{version}-{}", env::consts::ARCH);
        if !pins.is_empty() {
            let mut hash = Sha256::new();
            for pin in pins {
                let content = fs::read(pin).with_context(|| format!("cannot read {}", pin.display()))?;
                // With its length: otherwise a line could move from one file to the next unseen.
                hash.update(u64::try_from(content.len())?.to_be_bytes());
                hash.update(content);
            }
            name.push('-');
            name.extend(hash.finalize().iter().take(HASH).map(|byte| format!("{byte:02x}")));
        }
        Ok(Self { folder, name })
    }

    /// Where it is, or will be.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.path().is_dir()
    }

    /// Does the work in a folder beside, which gets the entry's name when all is well; nothing if it is there. Gives its
    /// folder. `what` is said before, with how long it takes.
    ///
    /// # Errors
    ///
    /// Those of the work, and of the file system.
    pub fn built(&self, what: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path();
        if path.is_dir() {
            return Ok(path);
        }
        let _lock = self.lock(what)?;
        if path.is_dir() {
            return Ok(path);
        }
        eprintln!("building {what} into {}", path.display());
        // Of a run that was killed: who holds the lock is alone with it.
        let partial = self.folder.join(format!("{}.partial", self.name));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        work(&partial).with_context(|| format!("cannot build {what}"))?;
        fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The same for what cannot be renamed, as a virtual environment of Python: a file in it says that it is complete.
    ///
    /// # Errors
    ///
    /// Those of the work, and of the file system.
    pub fn installed(&self, what: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path();
        let complete = path.join(COMPLETE);
        if complete.is_file() {
            return Ok(path);
        }
        let _lock = self.lock(what)?;
        if complete.is_file() {
            return Ok(path);
        }
        eprintln!("installing {what} into {}", path.display());
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        work(&path).with_context(|| format!("cannot install {what}"))?;
        fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
        Ok(path)
    }

    /// Waits for the right to build it. The kernel gives it back when the process ends, however it ends.
    fn lock(&self, what: &str) -> Result<File> {
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let path = self.folder.join(format!("{}.lock", self.name));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another run that builds {what}");
                file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => return Err(error).context(format!("cannot lock {}", path.display())),
        }
        Ok(file)
    }
}

/// Copies a folder of files that are read later, such as one of a Go module, which `go clean -modcache` would take away.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
            continue;
        }
        // Not `fs::copy`: a module's files are read-only, and ours are to be removable.
        let mut content = Vec::new();
        File::open(entry.path())?.read_to_end(&mut content)?;
        fs::write(&target, content).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    /// A folder that vanishes with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("mesh-xtask-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn other_pins_make_another_entry() {
        let folder = Folder::new("pins");
        let pins = [folder.0.join("go.mod"), folder.0.join("go.sum")];
        let name = |first: &str, second: &str| {
            fs::write(&pins[0], first).unwrap();
            fs::write(&pins[1], second).unwrap();
            CacheEntry::in_folder(folder.0.clone(), "helm", "3.0.0", &pins).unwrap().name
        };
        let one = name("a\n", "b\n");
        assert!(one.starts_with(&format!("helm-3.0.0-{}-", env::consts::ARCH)), "{one}");
        assert_eq!(one, name("a\n", "b\n"));
        assert_ne!(one, name("a\nb\n", ""));
        assert_ne!(one, name("a\n", "c\n"));
        fs::remove_file(&pins[1]).unwrap();
        assert!(CacheEntry::in_folder(folder.0.clone(), "helm", "3.0.0", &pins).is_err());
    }

    #[test]
    fn checkouts_at_once_build_it_once_and_a_failed_build_leaves_none() {
        let folder = Folder::new("once");
        let entry = CacheEntry::in_folder(folder.0.clone(), "tool", "1", &[]).unwrap();
        assert!(entry.built("a tool", |_| anyhow::bail!("no compiler")).is_err());
        assert!(!entry.is_there());
        let builds = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let path = entry.built("a tool", |partial| {
                        builds.fetch_add(1, Ordering::Relaxed);
                        Ok(fs::write(partial.join("program"), "built")?)
                    });
                    assert_eq!(fs::read_to_string(path.unwrap().join("program")).unwrap(), "built");
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn what_stays_in_place_is_there_only_when_it_is_complete() {
        let folder = Folder::new("place");
        let entry = CacheEntry::in_folder(folder.0.clone(), "wheel", "1", &[]).unwrap();
        let half = |path: &Path| {
            fs::write(path.join("half"), "")?;
            anyhow::bail!("no network")
        };
        assert!(entry.installed("a wheel", half).is_err());
        let path = entry.installed("a wheel", |path| Ok(fs::write(path.join("whole"), "")?)).unwrap();
        assert!(path.join("whole").is_file() && !path.join("half").exists());
        entry.installed("a wheel", |_| anyhow::bail!("it is there")).unwrap();
    }
}
