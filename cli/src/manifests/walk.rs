//! Which files are meant by a path, and their text: the same for every command that reads manifests.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use mesh_resources::{
    object::{FILE_EXTENSIONS, MAX_FILE_BYTES, OTHER_FILES},
    yaml,
};

/// Files of one path; more is a mistake in it.
const MAX_FILES: usize = 10_000;
/// Folders in folders.
const MAX_DEPTH: usize = 16;
/// The name of standard input.
const STDIN: &str = "-";
/// How standard input is called in messages.
const STDIN_SHOWN: &str = "standard input";

/// Reads files, folders and `-` in order, and gives each text with the name of its file.
///
/// Of folders the manifests are read, by name, with those of folders below: what is named with a dot first, files of Kustomize and of
/// `meshctl test`, and links that lead nowhere are left out. Links are followed, and each folder is read once.
pub(crate) fn read(paths: &[PathBuf], mut take: impl FnMut(&str, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for path in paths {
        if path.as_os_str() == STDIN {
            take(&text(STDIN_SHOWN, io::stdin().lock())?, STDIN_SHOWN)?;
            continue;
        }
        let mut walk = Walk::default();
        walk.named(path)?;
        ensure!(!walk.files.is_empty(), "{}: there is no .yaml, .yml or .json file in it", path.display());
        walk.files.sort();
        for file in walk.files {
            let shown = file.display().to_string();
            let opened = fs::File::open(&file).with_context(|| shown.clone())?;
            let text = text(&shown, opened)?;
            // Tests of routes often stand beside them.
            if file == *path || !is_suite(&text) {
                take(&text, &shown)?;
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    /// Device and inode of the folders read: links may lead in circles.
    folders: BTreeSet<(u64, u64)>,
}

impl Walk {
    /// What the user named: a file whatever it is called, or a folder.
    fn named(&mut self, path: &Path) -> anyhow::Result<()> {
        let about = fs::metadata(path).with_context(|| path.display().to_string())?;
        if about.is_dir() {
            return self.folder(path, &about, 0);
        }
        self.files.push(path.to_owned());
        Ok(())
    }

    fn folder(&mut self, path: &Path, about: &fs::Metadata, depth: usize) -> anyhow::Result<()> {
        if !self.folders.insert((about.dev(), about.ino())) {
            return Ok(());
        }
        ensure!(depth < MAX_DEPTH, "{}: folders are nested more than {MAX_DEPTH} deep", path.display());
        let inside = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut inside = inside.with_context(|| path.display().to_string())?;
        inside.sort_by_key(fs::DirEntry::file_name);
        // Folders that are there themselves go before links to them, so that files have their own names in messages.
        inside.sort_by_key(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        for entry in inside {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || OTHER_FILES.contains(&&*name) {
                continue;
            }
            let path = entry.path();
            // A link to nowhere or to itself, or what vanished meanwhile, is nothing.
            let Ok(about) = fs::metadata(&path) else { continue };
            if about.is_dir() {
                self.folder(&path, &about, depth + 1)?;
            } else if path.extension().is_some_and(|ext| FILE_EXTENSIONS.iter().any(|known| ext == *known)) {
                ensure!(self.files.len() < MAX_FILES, "{}: there are more than {MAX_FILES} files", path.display());
                self.files.push(path);
            }
        }
        Ok(())
    }
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
    yaml::decode(bytes).map_err(|why| anyhow!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let mut names = Vec::new();
        read(&[root.to_owned()], |_, name| {
            names.push(Path::new(name).strip_prefix(root).unwrap().display().to_string());
            Ok(())
        })
        .unwrap();
        names
    }

    #[test]
    fn what_is_no_manifest_is_left_out_and_links_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a.yaml", "b/c.yml", "b/d.json", "notes.txt", ".github/ci.yml", "b/.hidden.yaml"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "kind: A\n").unwrap();
        }
        fs::write(at("kustomization.yaml"), "resources: [a.yaml]").unwrap();
        fs::write(at("b/Chart.yaml"), "name: b").unwrap();
        fs::write(at("b/web.test.yaml"), "tests:\n- {name: n}\n").unwrap();
        symlink(".", at("current")).unwrap();
        symlink("..", at("b/up")).unwrap();
        symlink("b", at("aa")).unwrap();
        symlink("nobody@host.1", at(".#a.yaml")).unwrap();
        symlink("gone", at("gone.yaml")).unwrap();
        symlink("self.yaml", at("self.yaml")).unwrap();
        assert_eq!(names(folder.path()), ["a.yaml", "b/c.yml", "b/d.json"]);
        // What is named is read whatever it is called; what is not there is an error.
        let named = |name: &str| read(&[at(name)], |_, _| Ok(()));
        named("kustomization.yaml").unwrap();
        assert!(format!("{:#}", named("gone.yaml").unwrap_err()).contains("No such file"));
        assert!(named(".github").is_ok());
        fs::create_dir(at("none")).unwrap();
        assert!(named("none").unwrap_err().to_string().contains("there is no .yaml"));
    }

    #[test]
    fn texts_have_an_encoding() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        let read = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let mut found = String::new();
            read(std::slice::from_ref(&file), |text, _| {
                found.push_str(text);
                Ok(())
            })
            .map(|()| found)
        };
        let wide = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        let little: Vec<u8> = wide("\u{feff}kind: Ä").iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = wide("\u{feff}kind: Ä").iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(read(&little).unwrap(), "kind: Ä");
        assert_eq!(read(&big).unwrap(), "kind: Ä");
        for broken in [&[0, 159, 146, 150][..], &little[..little.len() - 1]] {
            assert!(read(broken).unwrap_err().to_string().contains("x.yaml: it is not text"));
        }
    }
}
