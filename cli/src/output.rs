//! What goes to standard output and standard error: formats, colour, errors.
//!
//! Results go to standard output, everything else to standard error. Colour is used only on a terminal, and never when
//! `NO_COLOR` is set (no-color.org). Nothing here panics when the reader is gone.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use clap::ValueEnum;
use crossterm::style::{Color, Stylize};
use serde::Serialize;

/// The forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// One JSON object
    Json,
    /// One YAML document
    Yaml,
}

/// Where a text is going, which decides about colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Without colour, for golden tests.
    #[cfg(test)]
    pub const PLAIN: Self = Self { colour: false };

    /// For standard output.
    pub fn stdout() -> Self {
        Self { colour: io::stdout().is_terminal() && colour_wanted() }
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self { colour: io::stderr().is_terminal() && colour_wanted() }
    }

    /// `text`, in a colour where colours are shown.
    pub fn paint(self, text: &str, colour: Color) -> String {
        if self.colour { text.with(colour).to_string() } else { text.to_owned() }
    }

    /// `text`, emphasised where that can be shown.
    pub fn bold(self, text: &str) -> String {
        if self.colour { text.bold().to_string() } else { text.to_owned() }
    }
}

fn colour_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Prints a line of a result. Errors when standard output is closed.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output cannot be written")
}

/// Prints a result as an object: a line of JSON, or a YAML document. [`Format::Table`] prints YAML too; commands
/// with a table of their own print that instead.
pub fn object(format: Format, value: &impl Serialize) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string(value).context("the result has no JSON form")?,
        Format::Yaml | Format::Table => {
            let yaml = serde_saphyr::to_string(value).context("the result has no YAML form")?;
            format!("---\n{}", yaml.trim_end())
        }
    };
    line(&text)
}

/// Prints a note for people on standard error; a closed one is ignored, for there is nobody to tell.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error and its causes on standard error.
pub fn error(error: &anyhow::Error) {
    let head = Style::stderr().paint("error:", Color::Red);
    note(&format!("{head} {error:#}"));
}
