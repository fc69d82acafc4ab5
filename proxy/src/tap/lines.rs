//! What a viewer is sent: a line of JSON for each event.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Tap, viewer::Event};

/// So many bytes are sent at once, and one line more.
const FULL: usize = 16 * 1024;
/// How often a viewer is told how much it missed.
const EVERY: Duration = Duration::from_secs(1);

impl Tap {
    /// The next lines; `None`: nobody reads any more.
    pub(super) async fn lines(&mut self, pieces: &mpsc::Sender<Bytes>) -> Option<String> {
        let mut lines = String::new();
        while lines.is_empty() {
            tokio::select! {
                event = self.events.recv() => self.write(&event?, &mut lines),
                () = sleep_until(self.told_at + EVERY) => self.tell_skipped(&mut lines),
                () = pieces.closed() => return None,
            }
        }
        while lines.len() < FULL
            && let Ok(event) = self.events.try_recv()
        {
            self.write(&event, &mut lines);
        }
        if Instant::now() >= self.told_at + EVERY {
            self.tell_skipped(&mut lines);
        }
        Some(lines)
    }

    fn write(&self, event: &Event, lines: &mut String) {
        self.viewer.taken(event);
        let named = self.viewer.attributes();
        let (phase, mut attributes) = match event {
            Event::Open(begun) => ("open", begun.attributes(named)),
            Event::End(finished) => ("end", finished.attributes(named)),
        };
        attributes.insert("phase".to_owned(), phase.into());
        line(&Value::Object(attributes), lines);
    }

    fn tell_skipped(&mut self, lines: &mut String) {
        self.told_at = Instant::now();
        let count = self.viewer.skipped();
        if count > 0 {
            line(&json!({ "phase": "skipped", "count": count }), lines);
        }
    }
}

fn line(value: &Value, lines: &mut String) {
    // A map of text and numbers cannot fail.
    let _ = writeln!(lines, "{value}");
}
