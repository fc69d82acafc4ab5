//! The one layer of an image: a tar archive that is the same bytes for the same files.

use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// The PAX record in which tar archives of images carry the extended attribute that holds a file's capabilities.
const CAPABILITY_RECORD: &str = "SCHILY.xattr.security.capability";
/// `VFS_CAP_REVISION_2` of linux/capability.h; without `VFS_CAP_FLAGS_EFFECTIVE`.
const REVISION_2: u32 = 0x0200_0000;
const CAP_NET_ADMIN: u32 = 12;

/// Capabilities of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `cap_net_admin=p`: whoever runs the file may take it up where the container's bounding set has it.
    NetAdminPermitted,
}

/// A file of the image, owned by root.
pub struct File {
    /// Below the root, without a leading slash.
    pub path: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its capabilities.
    pub capability: Option<Capability>,
}

impl Capability {
    /// The attribute: magic, then permitted and inheritable, each in two halves of which the lower comes first.
    fn attribute(self) -> [u8; 20] {
        let Self::NetAdminPermitted = self;
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&REVISION_2.to_le_bytes());
        bytes[4..8].copy_from_slice(&(1u32 << CAP_NET_ADMIN).to_le_bytes());
        bytes
    }
}

/// Packs files in the order of their paths.
pub fn pack(mut files: Vec<File>) -> Result<Vec<u8>> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut archive = Builder::new(Vec::new());
    for file in &files {
        if let Some(capability) = file.capability {
            archive.append_pax_extensions([(CAPABILITY_RECORD, capability.attribute().as_slice())])?;
        }
        append(&mut archive, &file.path, file.mode, &file.content)?;
    }
    archive.into_inner().context("cannot end the archive")
}

/// Adds a file with nothing in its header that differs from one machine or day to another.
pub fn append(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, path, content).with_context(|| format!("cannot pack {path}"))
}

/// What a registry would store and a node would fetch.
pub fn compressed_size(layer: &[u8]) -> Result<usize> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(layer)?;
    Ok(gzip.finish()?.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use super::*;

    fn files(reverse: bool) -> Vec<File> {
        let file = |path: &str, capability| File { path: path.into(), content: path.into(), mode: 0o555, capability };
        let mut files = vec![file("mesh-proxy", Some(Capability::NetAdminPermitted)), file("sbom.json", None)];
        if reverse {
            files.reverse();
        }
        files
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        assert_eq!(pack(files(false)).unwrap(), pack(files(true)).unwrap());
    }

    #[test]
    fn entries_are_roots_and_only_the_proxy_has_a_capability() {
        let layer = pack(files(true)).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            let extensions = entry.pax_extensions().unwrap().map(|all| {
                all.map(|one| one.map(|one| (one.key().unwrap().to_owned(), one.value_bytes().to_vec())).unwrap())
                    .collect()
            });
            let extensions: Vec<(String, Vec<u8>)> = extensions.unwrap_or_default();
            entry.read_to_string(&mut content).unwrap();
            let header = entry.header();
            let numbers = [header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()];
            assert_eq!((numbers, header.mode().unwrap()), ([0; 3], 0o555));
            seen.push((content, extensions));
        }
        // As `setcap cap_net_admin=p` writes it; `getfattr -n security.capability` shows these bytes.
        let attribute = [0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let capability = vec![("SCHILY.xattr.security.capability".to_owned(), attribute)];
        assert_eq!(seen, [("mesh-proxy".into(), capability), ("sbom.json".into(), vec![])]);
    }
}
