//! Waiting for a state, with progress, and no longer than makes sense.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// How often is said that it still waits.
const SAY: Duration = Duration::from_secs(5);

/// Looks until there is something. An error of the look ends the wait.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut said = start;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("{what} did not come about within {} s", limit.as_secs());
        }
        if said.elapsed() > SAY {
            said = Instant::now();
            println!("waiting for {what} ({} s)", start.elapsed().as_secs());
        }
        thread::park_timeout(LOOK);
    }
}
