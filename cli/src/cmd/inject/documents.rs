//! Files, folders and standard input as YAML documents, each with its own text: what is not changed is passed on as it
//! was written, comments and all.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use mesh_resources::object::{MAX_ALIAS_EVENTS, MAX_DEPTH, MAX_FILE_BYTES, MAX_OBJECTS};
use serde_json::Value;

/// Files of a folder and those below it; more is a mistake in the path.
const MAX_FILES: usize = 10_000;
/// The name of standard input.
const STDIN: &str = "-";

/// A document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The file, as it was named.
    pub file: String,
    /// Its first line.
    pub line: u64,
    /// What is written there.
    pub text: String,
    /// Its value; `None` when there are only comments.
    pub value: Option<Value>,
}

/// Reads everything, in order. An error names the file and the line.
pub(super) fn read(names: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for name in names {
        if name.as_os_str() == STDIN {
            let text = text("standard input", io::stdin().lock())?;
            documents.extend(parse(&text, "standard input")?);
            continue;
        }
        let mut files = Vec::new();
        collect(name, true, &mut files)?;
        ensure!(!files.is_empty(), "{}: there is no .yaml, .yml or .json file in it", name.display());
        files.sort();
        for file in files {
            let shown = file.display().to_string();
            let opened = fs::File::open(&file).with_context(|| shown.clone())?;
            documents.extend(parse(&text(&shown, opened)?, &shown)?);
        }
    }
    ensure!(documents.iter().any(|document| document.value.is_some()), "there is no manifest in what was given");
    Ok(documents)
}

fn collect(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let about = fs::metadata(path).with_context(|| path.display().to_string())?;
    if about.is_dir() {
        let mut inside = fs::read_dir(path).with_context(|| path.display().to_string())?;
        return inside.try_for_each(|entry| collect(&entry?.path(), false, files));
    }
    let is_manifest = path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known));
    if named || is_manifest {
        ensure!(files.len() < MAX_FILES, "{}: there are more than {MAX_FILES} files", path.display());
        files.push(path.to_owned());
    }
    Ok(())
}

fn text(name: &str, from: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    ensure!(bytes.len() <= MAX_FILE_BYTES, "{name}: it has more than {MAX_FILE_BYTES} bytes; split it");
    String::from_utf8(bytes).map_err(|_| anyhow!("{name}: it is not text (UTF-8), so it is no manifest"))
}

/// Splits a text into its documents and reads each.
fn parse(text: &str, file: &str) -> anyhow::Result<Vec<Document>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents: Vec<Document> = Vec::new();
    let begin = |line: u64| Document { file: file.to_owned(), line, text: String::new(), value: None };
    let mut current = begin(1);
    let mut finished = Vec::new();
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        match marker(line) {
            Some(rest) => {
                finished.push(std::mem::replace(&mut current, begin(number + 1)));
                if !rest.trim().is_empty() {
                    current.line = number;
                    current.text.push_str(rest.trim_start());
                }
            }
            None => current.text.push_str(line),
        }
    }
    finished.push(current);
    for mut document in finished.into_iter().filter(|document| !document.text.trim().is_empty()) {
        document.value = value(&document)?;
        documents.push(document);
    }
    Ok(documents)
}

/// What follows the marker between documents on its line, if the line is one.
fn marker(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---")?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r'])).then_some(rest)
}

fn value(document: &Document) -> anyhow::Result<Option<Value>> {
    let is_content = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#' | '%'));
    if !document.text.lines().any(is_content) {
        return Ok(None);
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: MAX_OBJECTS },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS },
    };
    let file = &document.file;
    let read = serde_saphyr::from_str_with_options::<Value>(&document.text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let what = error.to_string().replace('\n', " ");
        // It counts lines from the document's own first one.
        let what = what.split(" at line ").next().unwrap_or(&what);
        anyhow!("{file}:{}:{column}: {what}; correct the file", document.line + line - 1)
    })?;
    if read.is_null() {
        return Ok(None);
    }
    let first = (0..).zip(document.text.lines()).find(|(_, line)| is_content(line)).map_or(0, |(skipped, _)| skipped);
    let line = document.line + first;
    for field in ["apiVersion", "kind"] {
        if read.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            bail!("{file}:{line}: this is no Kubernetes manifest: it has no `{field}`");
        }
    }
    Ok(Some(read))
}

/// The comments before a document's first line, for one that is written anew.
pub(super) fn leading_comments(text: &str) -> String {
    text.split_inclusive('\n').take_while(|line| line.trim().is_empty() || line.starts_with('#')).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn documents_keep_their_text_and_their_lines() {
        let text = "# about a\napiVersion: v1\nkind: A\n---\n---\n# only this\n--- # b\nkind: B\napiVersion: v1\n";
        let found = parse(text, "f").unwrap();
        let seen: Vec<_> = found.iter().map(|d| (d.line, d.text.as_str(), d.value.is_some())).collect();
        assert_eq!(
            seen,
            [
                (1, "# about a\napiVersion: v1\nkind: A\n", true),
                (6, "# only this\n", false),
                (7, "# b\nkind: B\napiVersion: v1\n", true)
            ]
        );
        assert_eq!(leading_comments(&found[0].text), "# about a\n");
    }

    #[test]
    fn what_is_no_manifest_is_told_with_its_place() {
        for (text, message) in [
            ("kind: A\napiVersion: v1\n---\n\nkind: [B\n", "f:5:7: unclosed bracket '['; correct the file"),
            (
                "kind: A\napiVersion: v1\n---\n# x\nhello: world\n",
                "f:5: this is no Kubernetes manifest: it has no `apiVersion`",
            ),
            ("just words\n", "f:1: this is no Kubernetes manifest"),
            ("- a\n- b\n", "f:1: this is no Kubernetes manifest"),
        ] {
            let error = parse(text, "f").unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("x.yaml");
        fs::write(&binary, [0, 159, 146, 150]).unwrap();
        let message = read(&[binary]).unwrap_err().to_string();
        assert!(message.contains("x.yaml: it is not text"), "{message}");
        let message = format!("{:#}", read(&[folder.path().join("absent.yaml")]).unwrap_err());
        assert!(message.contains("absent.yaml") && message.contains("No such file"), "{message}");
    }
}
