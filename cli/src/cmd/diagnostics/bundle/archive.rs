//! The archive: a gzip'ed tar that grows file by file, each bounded and all of them too, under another name until it is whole.
//!
//! Nothing is read back, so memory holds one file at a time. What is cut or left out is told in the index.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use serde_json::Value;
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::{objects, redact};
use crate::output::{self, Format};

/// One file: ten thousand series of metrics, or the policies of some hundred targets; more is not read by anyone.
pub(super) const MAX_FILE: usize = 8 * 1024 * 1024;
/// All files before they are compressed: about a tenth of it is what a person sends.
pub(super) const MAX_TOTAL: usize = 256 * 1024 * 1024;
/// Entries of the index, and what is told of each: only names of files and errors are in them.
const MAX_ENTRIES: usize = 10_000;
/// One reason in the index: errors quote what a server answered.
const MAX_REASON: usize = 1024;

/// What a file has in it.
pub(super) enum Content {
    /// Text whose beginning matters: what is too long loses its end.
    Text(String),
    /// Text whose end matters, as of logs: what is longer than this many bytes loses its beginning.
    Tail(String, usize),
    /// JSON, written as such.
    Json(Value),
    /// Objects, written as YAML.
    Yaml(Value),
}

/// What a file of the archive became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    /// Its path below the folder of the archive.
    pub path: String,
    /// Its size.
    pub bytes: usize,
    /// How many secrets were taken out.
    #[serde(skip_serializing_if = "is_none")]
    pub redacted: usize,
    /// How many bytes are not here, because it was too long.
    #[serde(skip_serializing_if = "is_none")]
    pub cut: usize,
}

/// What is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    /// What it would be.
    pub what: String,
    /// Why it is not there.
    pub why: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_none(number: &usize) -> bool {
    *number == 0
}

/// What is in an archive.
#[derive(Debug, Default, Serialize)]
pub(super) struct Index {
    /// The files.
    pub files: Vec<Written>,
    /// What could not be had.
    pub missing: Vec<Missing>,
}

/// An archive that is being written.
pub(super) struct Archive {
    tar: Builder<GzEncoder<NamedTempFile>>,
    /// The folder that everything is in.
    folder: String,
    created: i64,
    left: usize,
    max_file: usize,
    index: Index,
}

impl Archive {
    /// Begins an archive beside where it will be. Only who runs this may read it.
    pub(super) fn begin(target: &Path, folder: &str, created: i64) -> anyhow::Result<Self> {
        let beside = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = NamedTempFile::new_in(beside)
            .with_context(|| format!("no file can be made in {}; name another place with -o FILE", beside.display()))?;
        let tar = Builder::new(GzEncoder::new(file, Compression::default()));
        let index = Index::default();
        Ok(Self { tar, folder: folder.to_owned(), created, left: MAX_TOTAL, max_file: MAX_FILE, index })
    }

    /// An archive with other bounds.
    #[cfg(test)]
    pub(super) fn bounded(mut self, file: usize, total: usize) -> Self {
        (self.max_file, self.left) = (file, total);
        self
    }

    /// Adds a file, without its secrets.
    pub(super) fn add(&mut self, path: &str, content: Content) -> anyhow::Result<()> {
        let path: Vec<String> = path.split('/').map(safe).collect();
        let path = path.join("/");
        let longest = if let Content::Tail(_, most) = content { Some(most) } else { None };
        // Objects are searched string by string: in the text of one a secret may be written in another form.
        let (text, redacted) = match content {
            Content::Text(text) | Content::Tail(text, _) => redact::text(&text),
            Content::Json(value) => shown(value, Format::Json)?,
            Content::Yaml(value) => shown(value, Format::Yaml)?,
        };
        let most = self.max_file.min(self.left);
        if self.index.files.len() >= MAX_ENTRIES || (most == 0 && !text.is_empty()) {
            self.missing(&path, "the archive is full; name fewer pods");
            return Ok(());
        }
        let kept = longest.map_or_else(|| head(&text, most), |longest| tail(&text, most.min(longest)));
        self.write(&path, kept)?;
        self.left = self.left.saturating_sub(kept.len());
        let (bytes, cut) = (kept.len(), text.len() - kept.len());
        self.index.files.push(Written { path, bytes, redacted, cut });
        Ok(())
    }

    /// Notes what could not be had.
    pub(super) fn missing(&mut self, what: &str, why: &str) {
        if self.index.missing.len() < MAX_ENTRIES {
            let (why, _) = redact::text(why);
            self.index.missing.push(Missing { what: what.to_owned(), why: head(&why, MAX_REASON).to_owned() });
        }
    }

    /// What is in it, and what is not.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Adds a file that says what is in the archive: it has its room whatever else is there.
    pub(super) fn describe(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        self.write(path, text)
    }

    fn write(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.created.try_into().unwrap_or_default());
        let path = PathBuf::from(&self.folder).join(path);
        self.tar.append_data(&mut header, path, text.as_bytes()).context("the archive cannot be written")
    }

    /// Ends the archive, gives it its name, and says what is in it.
    pub(super) fn end(self, target: &Path) -> anyhow::Result<Index> {
        let ended = self.tar.into_inner().and_then(GzEncoder::finish);
        let mut file = ended.context("the archive cannot be written")?;
        file.flush().and_then(|()| file.as_file().sync_all()).context("the archive cannot be written")?;
        let named = file.persist(target).map_err(|error| error.error);
        named.with_context(|| format!("the archive cannot be named {}", target.display()))?;
        Ok(self.index)
    }
}

/// An object without its secrets, and how many there were.
fn shown(mut value: Value, format: Format) -> anyhow::Result<(String, usize)> {
    let redacted = objects::object(&mut value);
    Ok((output::pretty(format, &value)? + "\n", redacted))
}

/// A part of a path: names come from servers.
fn safe(part: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part: String = part.chars().take(255).map(|c| if is_safe(c) { c } else { '_' }).collect();
    if part.chars().all(|c| c == '.') { "_".to_owned() } else { part }
}

/// The first `most` bytes, to the end of a character.
fn head(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// The last `most` bytes, from the beginning of a line if there is one.
fn tail(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let rest = text.get(text.ceil_char_boundary(text.len() - most)..).unwrap_or_default();
    rest.split_once('\n').map_or(rest, |(_, lines)| lines)
}
