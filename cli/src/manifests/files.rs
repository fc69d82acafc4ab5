//! Manifests from files, folders and standard input.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::ensure;
use mesh_resources::{Object, ObjectId, ParseError, parse_manifests};

use super::walk;

/// The manifests of some files.
#[derive(Debug, Default)]
pub(crate) struct ManifestFiles {
    /// Their objects, in the order of the files' names; of two of one name the first.
    pub objects: Vec<Object>,
    /// Files that cannot be read as manifests.
    pub broken: Vec<ParseError>,
    /// Objects that were there already.
    pub repeated: Vec<Object>,
    seen: BTreeSet<ObjectId>,
}

impl ManifestFiles {
    /// Reads files, folders and `-`. Errors when one cannot be read at all, or holds no manifest by its name.
    pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut given = Self::default();
        walk::read(paths, |text, file| {
            given.take(text, file);
            Ok(())
        })?;
        ensure!(!given.objects.is_empty() || !given.broken.is_empty(), "there is no manifest in what was given");
        Ok(given)
    }

    /// Takes in the text of a file.
    pub(crate) fn take(&mut self, text: &str, file: &str) {
        match parse_manifests(text, file) {
            Ok(objects) => objects.into_iter().for_each(|object| self.add(object)),
            Err(error) => self.broken.push(error),
        }
    }

    /// Takes in an object.
    pub(crate) fn add(&mut self, object: Object) {
        if self.seen.insert(object.id()) {
            self.objects.push(object);
        } else {
            self.repeated.push(object);
        }
    }

    /// The objects; an error when a file is broken, since its objects are not known.
    pub(crate) fn into_objects(self) -> anyhow::Result<Vec<Object>> {
        match self.broken.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(self.objects),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use super::*;

    fn service(name: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn folders_are_read_in_order_and_what_is_no_manifest_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("b/two.yml", &service("second"));
        write("a.yaml", &service("first"));
        write("c.json", &service("first").replace('\n', "\n\n"));
        write("notes.txt", "not: read");
        write("b/web.test.yaml", "tests:\n- {name: n}\n");
        write("kustomization.yaml", "resources: [a.yaml]");
        write(".hidden/x.yaml", "not: read");
        write("d.yaml", "kind: [");
        let given = ManifestFiles::read(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = given.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!((names, given.repeated.len(), given.broken.len()), (vec!["first", "second"], 1, 1));
        assert!(given.repeated[0].source.as_ref().unwrap().file.ends_with("c.json"));
        assert!(given.into_objects().unwrap_err().to_string().contains("d.yaml:1:"));
    }
}
