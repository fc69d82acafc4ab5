//! `meshctl check`: before an installation, after it, and for the data plane. The checks are in `crate::check`.

use std::{
    io::IsTerminal,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    check::{
        self, Check, Context, Status, When,
        report::{FORMATS, Teller, print, result},
        run::{Event, run as run_checks},
    },
    globals::Globals,
    kube::Cluster,
    output::{self, Format, Style, formats},
};

/// How long what is coming up is waited for, if `--wait` does not say.
const WAIT: Duration = Duration::from_secs(300);

/// Arguments of `meshctl check`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl check --pre                  # may Mesh be installed here?
  meshctl check                        # is the installation well? Waits 5 minutes for it to come up
  meshctl check --proxy -n shop        # are the sidecars of a namespace?
  meshctl check -o short --wait 0      # for scripts: only what is not well, at once
  meshctl check --explain webhook-called

Exit codes: 0 all well or only warnings, 1 something failed, 2 wrong usage.")]
pub(crate) struct Args {
    /// Check whether Mesh can be installed
    #[arg(long, conflicts_with = "proxy")]
    pre: bool,
    /// Check the sidecars, of all namespaces or of the one of --namespace
    #[arg(long)]
    proxy: bool,
    /// Print the page of a check and do nothing else
    #[arg(long, value_name = "CHECK", conflicts_with_all = ["pre", "proxy"])]
    explain: Option<String>,
    /// How to print it
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// Runs the checks.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    if let Some(id) = &args.explain {
        return explain(id);
    }
    let when = match (args.pre, args.proxy) {
        (true, _) => When::Pre,
        (false, true) => When::Proxy,
        (false, false) => When::Installed,
    };
    // Nothing comes up before an installation.
    let wait = globals.wait.unwrap_or(if args.pre { Duration::ZERO } else { WAIT });
    super::block_on(async {
        let cluster = match Cluster::connect(globals).await {
            Ok(cluster) => cluster,
            // Whoever reads an object is told in one.
            Err(error) => {
                let error = anyhow::Error::from(error);
                if let Some(object) = check::report::failed(args.output, &format!("{error:#}"))? {
                    output::line(&object)?;
                }
                return Err(error);
            }
        };
        let checks: Vec<&'static Check> = check::all().filter(|check| check.when.contains(&when)).collect();
        let context = Arc::new(Context::new(cluster, globals.namespace.clone()));
        let begun = Instant::now();
        let mut teller = Teller::new(args.output, Style::stdout());
        let progress = Progress::new();
        let mut printed = Ok(());
        let reports = run_checks(&checks, context, wait, |event| match event {
            Event::Waiting(check, message) => progress.waiting(check, message),
            Event::Ended(report) => {
                let text = teller.text(report);
                let now = progress.aside(|| print(&text));
                if printed.is_ok() {
                    printed = now;
                }
            }
        })
        .await;
        progress.end();
        printed?;
        output::line(&teller.end(&reports, begun.elapsed())?)?;
        Ok(if result(&reports) == Status::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    })
}

fn explain(id: &str) -> anyhow::Result<ExitCode> {
    let known = || check::all().map(|check| check.id).collect::<Vec<_>>().join(", ");
    let found = check::all().find(|check| check.id == id);
    let found = found.ok_or_else(|| anyhow!("there is no check {id:?}; there are: {}", known()))?;
    output::line(found.page.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// What is waited for: one line that changes on a terminal, a line for each news elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} ({elapsed})") {
            bar.set_style(style);
        }
        Self { bar, is_terminal, last: std::cell::RefCell::default() }
    }

    fn waiting(&self, check: &Check, message: &str) {
        let text = format!("waiting for {}: {message}", check.id);
        if self.is_terminal {
            self.bar.set_message(text);
            self.bar.tick();
        } else if *self.last.borrow() != text {
            output::note(&text);
            self.last.replace(text);
        }
    }

    /// Does something to the terminal while the line is out of the way.
    fn aside<T>(&self, doing: impl FnOnce() -> T) -> T {
        self.bar.suspend(doing)
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
