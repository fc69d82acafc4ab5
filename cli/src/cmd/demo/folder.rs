//! The demo's folder: `manifests/`, which the user may edit, and `state/`, which the controller keeps.
//!
//! A temporary one is readable by its owner alone (it has keys and tokens; sidecars of another user get copies of their
//! own) and removed at the end. One that the user names stays, with what was edited in it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::TempDir;

use super::manifests::{self, ROUTE_FILE};
use super::topology::Topology;

/// The file that says where sidecars have their local ports, by pod, for `meshctl tap`.
pub(crate) const SIDECARS: &str = "sidecars.json";

/// Where the demo keeps its files.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Folder {
    /// Takes `chosen`, which then stays, or makes a temporary folder, which stays if `keep`.
    pub(super) fn open(chosen: Option<&Path>, keep: bool) -> anyhow::Result<Self> {
        let folder = match chosen {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))?;
                let path = path.canonicalize().with_context(|| format!("{} cannot be used", path.display()))?;
                Self { path, temporary: None }
            }
            None => {
                let owner_only = fs::Permissions::from_mode(0o700);
                let temporary = tempfile::Builder::new().prefix("meshctl-demo-").permissions(owner_only).tempdir();
                let temporary = temporary.context("no temporary folder can be made; set TMPDIR or use --dir")?;
                let path = temporary.path().canonicalize().context("the temporary folder cannot be used")?;
                if keep {
                    let _ = temporary.keep();
                    Self { path, temporary: None }
                } else {
                    Self { path, temporary: Some(temporary) }
                }
            }
        };
        for made in [folder.manifests(), folder.state()] {
            fs::create_dir_all(&made).with_context(|| format!("{} cannot be made", made.display()))?;
        }
        folder.forget_last_run()?;
        Ok(folder)
    }

    /// The folder with the manifests.
    pub(super) fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    /// The file with the weights.
    pub(super) fn route_file(&self) -> PathBuf {
        self.manifests().join(ROUTE_FILE)
    }

    /// The controller's folder.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The whole folder, if it is to vanish at the end.
    pub(super) fn temporary(&self) -> Option<&Path> {
        self.temporary.as_ref().map(|_| self.path.as_path())
    }

    /// The whole folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a file for another user, who can read it and nothing else in the folder, and says where it is.
    pub(super) fn hand_over(&self, file: &Path, name: &str, uid: u32) -> anyhow::Result<PathBuf> {
        let dir = self.path.join("sidecars");
        let copy = dir.join(name);
        let copied = || {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(self.state(), fs::Permissions::from_mode(0o700))?;
            for passed in [&self.path, &dir] {
                fs::set_permissions(passed, fs::Permissions::from_mode(0o711))?;
            }
            fs::copy(file, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o400))?;
            chown(&copy, Some(uid), Some(uid))
        };
        copied().with_context(|| format!("{} cannot be written", copy.display()))?;
        Ok(copy)
    }

    /// Writes the manifests. In a folder that is used again, services and routes stay as the user left them.
    pub(super) fn write_manifests(&self, topology: &Topology) -> anyhow::Result<()> {
        for manifest in manifests::all(topology) {
            let file = self.manifests().join(manifest.name);
            if manifest.has_addresses || !file.exists() {
                fs::write(&file, manifest.text).with_context(|| format!("{} cannot be written", file.display()))?;
            }
        }
        Ok(())
    }

    /// Says where sidecars have their local ports. Those of redirected pods are in networks of their own, and not reached from here.
    pub(super) fn write_sidecars(&self, topology: &Topology) -> anyhow::Result<()> {
        let here = topology.sidecars().filter(|(_, sidecar)| sidecar.namespace.is_none());
        let all: BTreeMap<&str, SocketAddr> = here.map(|(pod, sidecar)| (pod, sidecar.admin)).collect();
        let file = self.path.join(SIDECARS);
        let written = serde_json::to_vec(&all).map_err(std::io::Error::from).and_then(|text| fs::write(&file, text));
        written.with_context(|| format!("{} cannot be written", file.display()))
    }

    /// Removes a temporary folder. The error names it, so that it can be removed by hand.
    pub(super) fn close(self) -> anyhow::Result<()> {
        let Some(temporary) = self.temporary else { return Ok(()) };
        temporary.close().with_context(|| format!("{} cannot be removed", self.path.display()))
    }

    /// What says that a controller is there must come from this run's controller.
    fn forget_last_run(&self) -> anyhow::Result<()> {
        let (addresses, tokens) = (self.state().join("addresses.json"), self.state().join("tokens"));
        let gone = |r: std::io::Result<()>| match r {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        gone(fs::remove_file(&addresses)).with_context(|| format!("{} cannot be removed", addresses.display()))?;
        gone(fs::remove_dir_all(&tokens)).with_context(|| format!("{} cannot be removed", tokens.display()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::cmd::demo::ports::Ports;

    #[test]
    fn a_temporary_folder_is_private_and_vanishes() {
        let folder = Folder::open(None, false).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        folder.write_manifests(&Topology::plan(&mut Ports::new()).unwrap()).unwrap();
        assert_eq!(fs::read_dir(folder.manifests()).unwrap().count(), 5);
        folder.close().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_chosen_folder_keeps_what_was_edited() {
        let outer = tempfile::tempdir().unwrap();
        let topology = Topology::plan(&mut Ports::new()).unwrap();
        let folder = Folder::open(Some(outer.path()), false).unwrap();
        folder.write_manifests(&topology).unwrap();
        fs::write(folder.route_file(), "# mine\n").unwrap();
        fs::write(folder.state().join("addresses.json"), "{}").unwrap();
        folder.close().unwrap();

        let again = Folder::open(Some(outer.path()), false).unwrap();
        assert!(!again.state().join("addresses.json").exists(), "left by the last run");
        let slices = again.manifests().join("11-endpointslices.yaml");
        fs::write(&slices, "old").unwrap();
        again.write_manifests(&topology).unwrap();
        assert_eq!(fs::read_to_string(again.route_file()).unwrap(), "# mine\n");
        assert!(fs::read_to_string(&slices).unwrap().contains("EndpointSlice"));
    }
}
