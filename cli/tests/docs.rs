//! The examples of the documentation do what the pages say: each file of a page is written, each command that needs no
//! cluster is run, and what the page shows of its output is there, in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use support::{Folder, repository};

/// A fenced block of a page.
struct Block {
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push(Block { language: language.to_owned(), text: text.join("\n") + "\n" });
        }
    }
    blocks
}

/// The words of a command line: by spaces, quotes keep them together, a comment ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (c, quote) {
            ('#', None) if !begun => break,
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) if begun => {
                words.push(std::mem::take(&mut word));
                begun = false;
            }
            (' ', None) => {}
            (c, _) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Whether a command needs nothing but the files of its page.
fn runs_here(words: &[String], folder: &Folder) -> bool {
    let has = |flag: &str| words.iter().any(|word| word == flag);
    let is_there =
        |word: &String| !(word.ends_with(".yaml") || word.ends_with('/')) || folder.path().join(word).exists();
    let command = words.get(1).map(String::as_str);
    let needs_no_cluster = match command {
        Some("explain" | "routes" | "authz") => has("--manifests"),
        Some("lint") => !has("--with-cluster") && !has("-"),
        Some("test") => true,
        _ => false,
    };
    words[0] == "meshctl"
        && needs_no_cluster
        && words.iter().all(is_there)
        && !words.iter().any(|word| word.contains('*'))
}

/// Runs the commands of a page and gives how many there were.
fn run(page: &Path) -> usize {
    let name = page.file_name().unwrap().to_str().unwrap();
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    let folder = Folder::with(&[]);
    for block in blocks.iter().filter(|block| block.language == "yaml") {
        let first = block.text.lines().next().unwrap_or_default();
        if let Some(file) = first.strip_prefix("# ").filter(|file| file.ends_with(".yaml")) {
            folder.write(file, &block.text);
        }
    }
    let mut commands = 0;
    for block in blocks.iter().filter(|block| block.language == "console") {
        let mut lines = block.text.lines().peekable();
        while let Some(line) = lines.next() {
            let mut shown = Vec::new();
            while let Some(output) = lines.next_if(|line| !line.starts_with("$ ")) {
                shown.push(output);
            }
            let words = words(line.strip_prefix("$ ").unwrap());
            if !runs_here(&words, &folder) {
                continue;
            }
            commands += 1;
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let ended = folder.meshctl(&args);
            let expected = if line.contains("# exits with 1") { 1 } else { 0 };
            assert_eq!(ended.code, Some(expected), "{name}: {line}\n{}{}", ended.out, ended.err);
            let mut out = ended.out.lines();
            for shown in shown.iter().filter(|line| !line.trim().is_empty()) {
                // A line may be shown up to where it becomes long.
                assert!(
                    out.any(|line| line.starts_with(shown)),
                    "{name}: {line}\n{shown:?} does not come next in:\n{}",
                    ended.out
                );
            }
        }
    }
    commands
}

#[test]
fn every_task_is_tried() {
    let mut pages: Vec<_> =
        fs::read_dir(repository("docs/tasks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() >= 13, "{pages:?}");
    for page in pages {
        assert!(run(&page) > 0, "{} has no command that could be tried", page.display());
    }
}

#[test]
fn pages_of_commands_are_tried() {
    for page in ["explain.md", "lint.md", "routes.md", "cli.md"] {
        run(&repository("docs").join(page));
    }
    assert_eq!(run(&repository("docs/testing-routes.md")), 2);
    assert_eq!(run(&repository("docs/authz.md")), 7);
}

/// The cells of each row of each table, below its head.
fn rows(page: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        if line.starts_with("|---") {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if in_table {
            rows.push(line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// The objects that a row may refer to.
fn surroundings() -> Vec<Value> {
    let service = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
                "spec": { "ports": [{ "port": 80 }] } })
    };
    let pod = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": format!("{name}-1"), "namespace": "shop", "labels": { "app": name, "meshctl.dev/inject": "enabled" } },
                "spec": { "serviceAccountName": name, "containers": [{ "name": "app", "ports": [{ "containerPort": 8080 }] }] } })
    };
    let namespace = |name: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let services = ["web", "web-v1", "web-v2"].map(service);
    let others = [pod("web"), pod("client"), namespace("bank")];
    services.into_iter().chain(others).collect()
}

#[test]
fn every_row_of_the_migration_is_linted() {
    let page = fs::read_to_string(repository("docs/migration.md")).unwrap();
    let rows = rows(&page);
    let mut tried = 0;
    for row in &rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let Some(ours) = row[1].strip_prefix('`').and_then(|ours| ours.strip_suffix('`')) else {
            assert!(row[1].is_empty() && row[2].starts_with("not there"), "{row:?}");
            continue;
        };
        let value: Value = serde_saphyr::from_str(ours).unwrap_or_else(|error| panic!("{ours}: {error}"));
        let mut objects: BTreeMap<String, Value> = surroundings()
            .into_iter()
            .map(|object| (object["metadata"]["name"].as_str().unwrap().to_owned(), object))
            .collect();
        if value.get("kind").is_some() {
            let key = value["metadata"]["name"].as_str().unwrap().to_owned();
            let is_service = value["kind"] == "Service";
            objects.insert(if is_service { key } else { "row".to_owned() }, value);
        } else {
            let mut rule = value;
            rule.as_object_mut().unwrap().entry("backendRefs").or_insert(json!([{ "name": "web", "port": 80 }]));
            let route = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "web" }], "rules": [rule] } });
            objects.insert("row".to_owned(), route);
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects.into_values().collect::<Vec<_>>() });
        let folder = Folder::with(&[("row.json", &list.to_string())]);
        let ended = folder.meshctl(&["lint", "--strict", "row.json"]);
        assert_eq!(ended.code, Some(0), "{ours}\n{}{}", ended.out, ended.err);
        assert!(!ended.out.contains("note:"), "{ours}\n{}", ended.out);
        tried += 1;
    }
    assert!(tried >= 30, "{tried} rows were tried");
}
