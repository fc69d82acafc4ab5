//! What goes to standard output and standard error: formats, colour, errors.
//!
//! Results go to standard output, everything else to standard error. Colour is used only on a terminal, and never when
//! `NO_COLOR` is set (no-color.org). Nothing here panics when the reader is gone.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use clap::{
    ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use crossterm::style::{Color, Stylize};
use serde::Serialize;

use crate::yaml;

/// Every word that `-o` takes somewhere. A command takes some of them ([`formats`]); a word means the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people. `text` is the older word of `lint` and `test`.
    #[value(alias = "text")]
    Table,
    /// A table with more columns.
    Wide,
    /// Only what is not well, and the result.
    Short,
    /// One JSON object.
    Json,
    /// One YAML document.
    Yaml,
    /// Certificates (PEM).
    Pem,
    /// Commands for a workflow of GitHub.
    Github,
    /// SARIF 2.1.0.
    Sarif,
}

/// JSON as an entry of [`formats`].
pub(crate) const JSON: (Format, &str) = (Format::Json, "One JSON object");
/// YAML as an entry of [`formats`].
pub(crate) const YAML: (Format, &str) = (Format::Yaml, "One YAML document");
/// What most commands take.
pub(crate) const COMMON: [(Format, &str); 3] = [(Format::Table, "Text for people"), JSON, YAML];

/// The parser of a command's `-o`: it takes only these formats, each with what `--help` says of it. Help, shell completion
/// and the message about a wrong word name no others.
pub(crate) fn formats<const N: usize>(taken: [(Format, &'static str); N]) -> impl TypedValueParser<Value = Format> {
    let values = taken.into_iter().filter_map(|(format, help)| Some(format.to_possible_value()?.help(help)));
    PossibleValuesParser::new(values).try_map(|word| Format::from_str(&word, false))
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Whether text is coloured, which depends on where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Without colour, for golden tests.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false };

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self { colour: io::stdout().is_terminal() && colour_wanted() }
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self { colour: io::stderr().is_terminal() && colour_wanted() }
    }

    /// `text`, in a colour where colours are shown.
    pub(crate) fn paint(self, text: &str, colour: Color) -> String {
        if self.colour { text.with(colour).to_string() } else { text.to_owned() }
    }

    /// `text`, emphasised where that can be shown.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.colour { text.bold().to_string() } else { text.to_owned() }
    }
}

fn colour_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Prints a line of a result. Errors when standard output is closed.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output cannot be written")
}

/// Prints an object of a stream of them: a line of JSON, or, whatever else `format` is, a YAML document.
pub(crate) fn object(format: Format, value: &impl Serialize) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string(value).context("the result has no JSON form")?,
        _ => {
            let yaml = serde_saphyr::to_string(value).context("the result has no YAML form")?;
            format!("---\n{}", yaml.trim_end())
        }
    };
    line(&text)
}

/// A whole result as an object: indented JSON, or, whatever else `format` is, YAML with sorted keys, as kubectl has both.
pub(crate) fn pretty(format: Format, value: &impl Serialize) -> anyhow::Result<String> {
    match format {
        Format::Json => serde_json::to_string_pretty(value).context("the result has no JSON form"),
        _ => Ok(yaml::write(&serde_json::to_value(value).context("the result has no YAML form")?)),
    }
}

/// A table as kubectl prints one.
pub(crate) fn columns<T: AsRef<str>>(head: &[&str], rows: impl Iterator<Item = Vec<T>>) -> String {
    let mut all: Vec<Vec<String>> = vec![head.iter().map(|&title| title.to_owned()).collect()];
    all.extend(rows.map(|row| row.iter().map(|cell| cell.as_ref().to_owned()).collect()));
    let width = |column: usize| all.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Prints a note for people on standard error; if that is closed, the note is dropped.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error and its causes on standard error.
pub(crate) fn error(error: &anyhow::Error) {
    let head = Style::stderr().paint("error:", Color::Red);
    note(&format!("{head} {error:#}"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn json_and_yaml_say_the_same() {
        let object = json!({ "checks": [{ "id": "a", "seconds": 1.5 }], "result": "ok" });
        let json: Value = serde_json::from_str(&pretty(Format::Json, &object).unwrap()).unwrap();
        let yaml: Value = serde_saphyr::from_str(&pretty(Format::Yaml, &object).unwrap()).unwrap();
        assert_eq!((&json, &yaml), (&object, &object));
    }
}
