//! How far the start-up is: a spinner on a terminal, plain lines otherwise. On standard error, so that standard output
//! has results only.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use crossterm::style::Color;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{self, Style};

/// The spinner's pace.
const TICK: Duration = Duration::from_millis(100);

/// Progress of the start-up.
pub(super) struct Progress {
    spinner: Option<ProgressBar>,
    style: Style,
    since: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            // The template is checked by a test; the default one is as good.
            let style = ProgressStyle::with_template("  {spinner} {msg} …")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            spinner.set_style(style);
            spinner
        });
        Self { spinner, style: Style::stderr(), since: Instant::now() }
    }

    /// Says what is going on.
    pub(super) fn begin(&mut self, what: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.to_owned());
            spinner.enable_steady_tick(TICK); // not before: lines printed earlier would tear it
        }
    }

    /// Says that something is done, and when.
    pub(super) fn done(&mut self, what: &str) {
        let text =
            format!("  {} {what} ({} ms)", self.style.paint("✓", Color::Green), self.since.elapsed().as_millis());
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| output::note(&text)),
            None => output::note(&text),
        }
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
