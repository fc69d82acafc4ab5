//! Files, folders and standard input as YAML documents, each with its own text: what is not changed is passed on as it
//! was written, comments and all.

use std::path::PathBuf;

use anyhow::{anyhow, bail, ensure};
use mesh_resources::yaml;
use serde_json::Value;

use crate::manifests::walk;

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
    /// Whether it is one of several JSON objects in a row, which stand in one text only as JSON.
    pub is_json: bool,
}

/// Reads everything, in order. An error names the file and the line.
pub(super) fn read(names: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    walk::read(names, |text, file| {
        documents.extend(parse(text, file)?);
        Ok(())
    })?;
    ensure!(documents.iter().any(|document| document.value.is_some()), "there is no manifest in what was given");
    Ok(documents)
}

/// Splits a text into its documents and reads each.
fn parse(text: &str, file: &str) -> anyhow::Result<Vec<Document>> {
    let documents = yaml::documents(text)
        .map_err(|error| anyhow!("{file}:{}:{}: {}; correct the file", error.line, error.column, error.what))?;
    let mut found = Vec::new();
    for document in documents {
        let line = document.first_line();
        for field in ["apiVersion", "kind"] {
            let is_there =
                |value: &Value| value.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            if !document.value.as_ref().is_none_or(is_there) {
                bail!("{file}:{line}: this is no Kubernetes manifest: it has no `{field}`");
            }
        }
        let (text, value, is_json) = (document.text.to_owned(), document.value, document.is_json);
        found.push(Document { file: file.to_owned(), line, text, value, is_json });
    }
    Ok(found)
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
                (2, "# about a\napiVersion: v1\nkind: A\n", true),
                (6, "# only this\n", false),
                (8, "# b\nkind: B\napiVersion: v1\n", true)
            ]
        );
        assert_eq!(leading_comments(&found[0].text), "# about a\n");
    }

    #[test]
    fn what_is_no_manifest_is_told_with_its_place() {
        for (text, message) in [
            (
                "kind: A\napiVersion: v1\n---\n\nkind: [B\n",
                "f:5:7: the bracket [ is opened and never closed; correct the file",
            ),
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
    }
}
