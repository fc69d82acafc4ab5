//! Manifests from files, folders and standard input.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use mesh_resources::{Object, ObjectId, ParseError, object::MAX_FILE_BYTES, parse_manifests};

/// Files of one command; more is a mistake in the path.
const MAX_FILES: usize = 10_000;
/// Folders in folders; a cycle of links ends here.
const MAX_DEPTH: usize = 16;
/// The name of standard input.
const STDIN: &str = "-";
/// Files that are named like manifests and are none.
const OTHERS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Chart.yaml"];

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
        for path in paths {
            if path.as_os_str() == STDIN {
                given.take(&text("standard input", io::stdin().lock())?, "standard input");
                continue;
            }
            let mut files = Vec::new();
            collect(path, 0, &mut files)?;
            ensure!(!files.is_empty(), "{}: there is no .yaml, .yml or .json file in it", path.display());
            files.sort();
            for file in files {
                let shown = file.display().to_string();
                let opened = fs::File::open(&file).with_context(|| shown.clone())?;
                let text = text(&shown, opened)?;
                // Tests of routes often stand beside them.
                if file == *path || !is_suite(&text) {
                    given.take(&text, &shown);
                }
            }
        }
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

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let about = fs::metadata(path).with_context(|| path.display().to_string())?;
    if about.is_dir() {
        ensure!(depth < MAX_DEPTH, "{}: folders are nested more than {MAX_DEPTH} deep", path.display());
        let inside = fs::read_dir(path).with_context(|| path.display().to_string())?;
        for entry in inside {
            let entry = entry.with_context(|| path.display().to_string())?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') && !OTHERS.contains(&&*name) {
                collect(&entry.path(), depth + 1, files)?;
            }
        }
        return Ok(());
    }
    let is_manifest = path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known));
    if depth == 0 || is_manifest {
        ensure!(files.len() < MAX_FILES, "{}: there are more than {MAX_FILES} files", path.display());
        files.push(path.to_owned());
    }
    Ok(())
}

/// Whether a text is a file of `meshctl test` and no manifest.
fn is_suite(text: &str) -> bool {
    let begins = |key: &str| text.lines().any(|line| line.starts_with(key));
    begins("tests:") && !begins("apiVersion:")
}

fn text(name: &str, from: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    ensure!(bytes.len() <= MAX_FILE_BYTES, "{name}: it has more than {MAX_FILE_BYTES} bytes; split it");
    String::from_utf8(bytes).map_err(|_| anyhow!("{name}: it is not text (UTF-8), so it is no manifest"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
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

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = ManifestFiles::read(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains("there is no .yaml"), "{message}");
        let absent = folder.path().join("absent.yaml");
        assert!(format!("{:#}", ManifestFiles::read(&[absent]).unwrap_err()).contains("No such file"));
        let binary = folder.path().join("x.yaml");
        fs::write(&binary, [0, 159, 146, 150]).unwrap();
        assert!(ManifestFiles::read(&[binary]).unwrap_err().to_string().contains("it is not text"));
    }
}
