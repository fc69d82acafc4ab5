//! Reads the lines of several sidecars until enough came, somebody ends it, or none is left.

use std::pin::pin;

use anyhow::bail;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{
    row::Printer,
    sidecars::Found,
    words::{plain, plain_map},
};
use crate::{kube::Lines, output};

/// Events that wait to be printed; sidecars count what they skip beyond that.
const WAITING: usize = 256;

/// What comes of a sidecar.
enum Told {
    Event(Map<String, Value>),
    /// Why nothing more comes.
    End(String),
}

/// Follows them, until `most` events came.
pub(super) async fn follow(found: Found, path: &str, most: Option<u64>, printer: &Printer) -> anyhow::Result<()> {
    let (tell, mut told) = mpsc::channel(WAITING);
    let mut left = 0;
    let mut first_error = None;
    let opened = found.sidecars.iter().map(|sidecar| found.open(sidecar, path));
    let opened = futures_util::future::join_all(opened).await;
    for (sidecar, lines) in found.sidecars.iter().zip(opened) {
        match lines {
            Ok(lines) => {
                left += 1;
                tokio::spawn(read(lines, sidecar.name.clone(), tell.clone()));
            }
            Err(error) if found.sidecars.len() == 1 => return Err(error),
            Err(error) => {
                output::note(&format!("note: {} is not followed: {error:#}", sidecar.name));
                first_error.get_or_insert(error);
            }
        }
    }
    drop(tell);
    if let (0, Some(error)) = (left, first_error) {
        return Err(error.context("no sidecar can be followed"));
    }
    let count = if left == 1 { "1 sidecar".to_owned() } else { format!("{left} sidecars") };
    output::note(&format!("following {count}; Ctrl-C ends it"));
    printer.begin()?;
    let mut events = 0;
    let mut ended = pin!(tokio::signal::ctrl_c());
    loop {
        let next = tokio::select! {
            next = told.recv() => next,
            _ = &mut ended => return Ok(()),
        };
        match next {
            None => bail!("no sidecar is left that could be followed"),
            Some((sidecar, Told::End(why))) => output::note(&format!("note: {sidecar}: {why}")),
            Some((sidecar, Told::Event(event))) => {
                events += u64::from(printer.print(&sidecar, event)?);
                if most.is_some_and(|most| events >= most) {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads one sidecar until it ends.
async fn read(mut lines: Lines, name: String, tell: mpsc::Sender<(String, Told)>) {
    let why = loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => break "the sidecar has ended".to_owned(),
            Err(why) => break plain(&why),
        };
        if line.is_empty() {
            continue;
        }
        let Ok(event) = serde_json::from_slice(&line) else { break "what it tells is not as /tap tells it".to_owned() };
        if tell.send((name.clone(), Told::Event(plain_map(event)))).await.is_err() {
            return;
        }
    };
    // Nobody listens any more when it fails.
    let _ = tell.send((name, Told::End(why))).await;
}
