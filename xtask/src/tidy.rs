//! Rules that no compiler checks: every module says what it is, files stay short and import each other in no large circle
//! ([`crate::circles`]), nothing names a machine, every test runs, and every bound has one ([`limits`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    circles::{Crate, MOST},
    limits,
};

/// Lines after which a file is refused.
const TOO_LONG: usize = 400;
/// Folders that are not ours to check.
const SKIPPED: [&str; 2] = ["target", ".git"];
/// Text files that are checked.
const TEXT: [&str; 9] = ["rs", "toml", "md", "yaml", "yml", "json", "proto", "sh", "tpl"];

/// Checks the whole repository.
pub fn run(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    list(root, &mut files)?;
    files.sort();
    let (mut faults, mut tests, mut page) = (Vec::new(), BTreeSet::new(), None);
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        faults.extend(check(&name, &text));
        if let Some((package, file)) = name.split_once("/src/") {
            crates.entry(package.to_owned()).or_default().add(file, &text);
        }
        match name.as_str() {
            limits::PAGE => page = Some(text),
            name if name.ends_with(".rs") => tests.extend(limits::tests(&text).map(str::to_owned)),
            _ => {}
        }
    }
    faults.extend(limits::faults(&page.with_context(|| format!("there is no {}", limits::PAGE))?, &tests));
    for (name, modules) in &crates {
        let circles = modules.circles().into_iter();
        faults
            .extend(circles.map(|circle| format!("{name}: over {MOST} files import each other in a circle: {circle}")));
    }
    if !faults.is_empty() {
        bail!("{} faults in {} files:\n  {}", faults.len(), files.len(), faults.join("\n  "));
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_symlink() || SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| TEXT.contains(&e)) {
            files.push(path);
        }
    }
    Ok(())
}

/// What is wrong with a file.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if name.ends_with(".rs") {
        if !text.starts_with("//!") {
            faults.push(format!("{name}:1 does not open with //! (what it is, why, what it does not do)"));
        }
        if lines > TOO_LONG {
            faults.push(format!("{name} has {lines} lines, over {TOO_LONG}: split it"));
        }
    }
    // Written in pieces, so that this file does not accuse itself.
    let homes = [concat!("/", "home/"), concat!("/", "root/"), concat!("/", "Users/"), concat!("/", "work/")];
    for (n, line) in text.lines().enumerate() {
        if name.ends_with(".rs") && line.trim_start().starts_with("#[ignore") {
            let instead = "ask `is_long` for what takes long";
            faults.push(format!("{name}:{} leaves out a test, which counts as skipped: {instead}", n + 1));
        }
        let start_of_path = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}".contains(c));
        let mut places = homes.iter().flat_map(|home| line.match_indices(home));
        if let Some((_, home)) = places.find(|(at, _)| start_of_path(*at)) {
            faults.push(format!("{name}:{} names a path of a machine ({home})", n + 1));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_where_they_are() {
        assert_eq!(check("a.rs", "//! Fine.\n"), Vec::<String>::new());
        assert!(check("a.rs", "fn main() {}\n")[0].starts_with("a.rs:1"));
        let machine = format!("see {}me/x", concat!("/", "home/"));
        assert!(check("a.md", &format!("first\n{machine}\n"))[0].starts_with("a.md:2"));
        assert_eq!(check("a.md", concat!("https://example.com/", "home/page\n")), Vec::<String>::new());
        let ignored = "//! Fine.\n#[test]\n    #[ignore = \"slow\"]\n";
        assert!(check("a.rs", ignored)[0].starts_with("a.rs:3 leaves out"));
        let long = "//! Long.\n".repeat(TOO_LONG + 1);
        let faults = check("a.rs", &long);
        assert!(faults.len() == 1, "{faults:?}");
    }
}
