//! No circle of imports over a few files: files that import each other in a circle are read, and changed, together.
//!
//! What counts is what stands in `use` declarations above the tests. It reads them as text: macros that make them are not
//! understood, and there are none.

use std::collections::{BTreeMap, BTreeSet};

/// Files that one circle may have.
pub const MOST: usize = 4;

/// The modules of one crate: what each imports of the others.
#[derive(Debug, Default)]
pub struct Crate {
    /// By the path of the module, which of the root is empty: the paths that it imports, as they stand, from the root.
    imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
}

impl Crate {
    /// Adds a file, by its path below `src/`. Files of tests alone are left out.
    pub fn add(&mut self, file: &str, text: &str) {
        let mut module: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let is_test = |name: &String| name == "tests" || name.ends_with("_tests") || name == "fake" || name == "mock";
        if module.iter().any(is_test) {
            return;
        }
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            module.pop();
        }
        let imports = imports(text).filter_map(|path| from_root(&module, &path)).collect();
        self.imports.insert(module, imports);
    }

    /// The circles of more than [`MOST`] files, each as the names of its modules.
    pub fn circles(&self) -> Vec<String> {
        let names: Vec<&Vec<String>> = self.imports.keys().collect();
        let edges: Vec<BTreeSet<usize>> = names.iter().map(|name| self.imported(name, &names)).collect();
        let reached: Vec<BTreeSet<usize>> = (0..names.len()).map(|from| reach(from, &edges)).collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for at in 0..names.len() {
            let circle: Vec<usize> = reached[at].iter().copied().filter(|to| reached[*to].contains(&at)).collect();
            if seen.insert(circle.clone()) && circle.len() > MOST {
                circles.push(circle.iter().map(|at| names[*at].join("::")).collect::<Vec<_>>().join(", "));
            }
        }
        circles
    }

    /// The modules that one imports: of each path, the longest part that is a module.
    fn imported(&self, name: &Vec<String>, names: &[&Vec<String>]) -> BTreeSet<usize> {
        let place =
            |path: &[String]| (0..=path.len()).rev().find_map(|n| names.binary_search(&&path[..n].to_vec()).ok());
        let paths = self.imports.get(name).into_iter().flatten();
        paths.filter_map(|path| place(path)).filter(|at| names[*at] != name).collect()
    }
}

/// All that can be reached.
fn reach(from: usize, edges: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        next.extend(edges[at].iter().filter(|to| found.insert(**to)));
    }
    found
}

/// The paths of the `use` declarations above the tests, each whole.
fn imports(text: &str) -> impl Iterator<Item = String> {
    let above = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let above = above.split("#[cfg(test)]\n#[allow").next().unwrap_or_default();
    let code: String = above.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some((tree, _)) = code[at + 4..].split_once(';').filter(|_| !is_word) {
            expand("", &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
        }
    }
    paths.into_iter()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{before}{}", tree.trim()));
        return;
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut from) = (0, 0);
    let before = format!("{before}{}", head.trim());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[from..at].trim();
                if !part.is_empty() {
                    expand(&before, part, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// A path as it stands in a module, from the root of its crate; nothing, if it leads out of it.
fn from_root(module: &[String], path: &str) -> Option<Vec<String>> {
    let path = path.split(" as ").next().unwrap_or_default();
    let mut parts = path.split("::").map(str::trim).peekable();
    let mut base = match parts.peek() {
        Some(&"crate") => Vec::new(),
        Some(&("self" | "super")) => module.to_vec(),
        _ => return None,
    };
    for part in parts {
        match part {
            "crate" | "self" | "*" => {}
            "super" => drop(base.pop()),
            part => base.push(part.to_owned()),
        }
    }
    Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = Crate::default();
        files.iter().for_each(|(file, text)| all.add(file, text));
        all.circles()
    }

    #[test]
    fn a_circle_over_the_most_is_named() {
        let next = |to: &str| format!("use crate::{to}::Thing;\n");
        let files: Vec<(String, String)> =
            (0..=MOST).map(|n| (format!("m{n}.rs"), next(&format!("m{}", (n + 1) % (MOST + 1))))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        assert_eq!(of(&files), ["m0, m1, m2, m3, m4"]);
        assert_eq!(of(&files[1..]), Vec::<String>::new());
    }

    #[test]
    fn paths_are_found_as_they_are_written() {
        let text = "//! use crate::no;\npub use super::a::{self, B};\nuse crate::{c::{D, e::*}, f as g};\nuse std::fmt;\n\
                    #[cfg(test)]\nmod tests { use crate::only_tests; }\n";
        let found: Vec<Vec<String>> =
            imports(text).filter_map(|path| from_root(&["x".to_owned(), "y".to_owned()], &path)).collect();
        let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
        assert_eq!(found, ["x::a", "x::a::B", "c::D", "c::e", "f"]);
    }
}
