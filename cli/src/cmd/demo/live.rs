//! The live view: requests without end, and once a second what became of them.
//!
//! A table on a terminal, a line elsewhere, an object with `-o json|yaml`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::PoisonError,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Demo, Signals,
    load::{self, Results},
    metrics::{self, Mtls, Scrape},
    problems,
    process::Processes,
    report::DemoReport,
    screen::Screen,
    stats::Tally,
    view::View,
};
use crate::output::{self, Format, Style};

/// Between two pictures.
const SECOND: Duration = Duration::from_secs(1);

/// Columns of a summary that is not on a terminal.
const COLUMNS: usize = 100;

/// Shows the demo until a signal comes or nobody reads any more; both are the ordinary end.
pub(super) async fn run(demo: &Demo<'_>, processes: &mut Processes, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let before = Scrape::of(demo.topology).await?;
    let results = Results::default();
    let load = tokio::spawn(load::run(demo.plan.clone(), results.clone()));
    let mut shown = Shown::new(demo);
    let mut tick = interval(SECOND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut mtls = Mtls::default();
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => break,
            _ = tick.tick() => {}
        }
        processes.check()?;
        let ((window, seconds), total) = {
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            (results.end_second(), results.total.clone())
        };
        // A sidecar that does not answer in time is no news about identities: the last ones stay.
        if let Ok(now) = Scrape::of(demo.topology).await {
            mtls = metrics::mtls(demo.topology, &before, &now);
        }
        let problems = problems::of(demo.topology.controller).await;
        if shown.show(&Moment { window, seconds, total, mtls: &mtls, problems }).is_err() {
            break;
        }
    }
    load.abort();
    drop(shown);
    output::note("ending the demo");
    Ok(ExitCode::SUCCESS)
}

/// The result of a run as text: the table over all requests.
pub(super) fn summary(demo: &Demo<'_>, total: &Tally, mtls: &Mtls, took: Duration) -> Vec<String> {
    let width = if io::stdout().is_terminal() { Screen::width() } else { COLUMNS };
    let route_file = demo.folder.route_file();
    let route_file = route_file.to_string_lossy();
    let view = View { window: total, seconds: took.as_secs_f64(), total, mtls, problems: &[], route_file: &route_file };
    let mut lines = view.result(width, Style::stdout());
    lines.push(format!("the first good answer came {} ms after the start", demo.startup.as_millis()));
    lines
}

/// What is known once a second.
struct Moment<'m> {
    window: Tally,
    seconds: usize,
    total: Tally,
    mtls: &'m Mtls,
    problems: Vec<String>,
}

/// Where it is shown.
struct Shown<'d> {
    demo: &'d Demo<'d>,
    route_file: String,
    screen: Option<Screen>,
    /// Messages of the last second, so that lines do not repeat them.
    shown: Vec<String>,
}

impl<'d> Shown<'d> {
    fn new(demo: &'d Demo<'d>) -> Self {
        let route_file = demo.folder.route_file().to_string_lossy().into_owned();
        let screen = (demo.output == Format::Table && io::stdout().is_terminal()).then(Screen::new);
        if screen.is_none() {
            output::note(&format!("edit {route_file}: change the weights, save, watch the shares move"));
        }
        Self { demo, route_file, screen, shown: Vec::new() }
    }

    /// Errors when nobody reads it any more.
    fn show(&mut self, moment: &Moment<'_>) -> anyhow::Result<()> {
        let Moment { window, seconds, total, mtls, problems } = moment;
        let view = View { window, seconds: *seconds as f64, total, mtls, problems, route_file: &self.route_file };
        if let Some(screen) = &mut self.screen {
            return Ok(screen.draw(&view.table(Screen::width(), Style::stdout()))?);
        }
        let messages = view.messages();
        let new: Vec<_> = messages.iter().filter(|message| !self.shown.contains(message)).cloned().collect();
        self.shown = messages;
        match self.demo.output {
            Format::Table => [view.line()].iter().chain(&new).try_for_each(|line| output::line(line)),
            format => {
                new.iter().for_each(|message| output::note(message));
                output::object(format, &DemoReport::new(total, (*mtls).clone(), self.demo.startup))
            }
        }
    }
}
