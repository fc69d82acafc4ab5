//! The thread that writes lines: a buffer at a time, when it is full or 100 ms have passed.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use mesh_policy::access_log::Format;
use metrics::Counter;

use super::{Sender, line::Line};

/// A buffer of this many bytes is written at once.
const FULL: usize = 64 * 1024;
/// What is there is written after so long at the latest.
const LATEST: Duration = Duration::from_millis(100);
/// How long it sleeps when nothing is there: far less than the queue takes to fill.
const PAUSE: Duration = Duration::from_millis(10);
/// It needs little: what it holds is on the heap.
const STACK: usize = 256 * 1024;

/// What is counted.
#[derive(Clone)]
pub(crate) struct Counts {
    /// Lines that were written.
    pub(crate) written: Counter,
    /// Lines that could not be written.
    pub(crate) unwritten: Counter,
    /// Lines for which there was no room.
    pub(crate) lost: Counter,
}

/// The thread, and how to reach it.
pub(crate) struct Writer {
    sender: Sender,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts it, for lines of all workers. `queue`: how many wait at most.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(crate) fn start(counts: Counts, queue: usize, format: Format) -> io::Result<Self> {
        let (queue, lines) = sync_channel(queue);
        let Counts { written, unwritten, lost } = counts;
        let (end, ended) = sync_channel(0);
        let work = move || {
            write(&lines, format, &mut io::stdout().lock(), &written, &unwritten);
            drop(end);
        };
        thread::Builder::new().name("access-log".to_owned()).stack_size(STACK).spawn(work)?;
        Ok(Self { sender: Sender { queue, lost }, ended })
    }

    /// Where workers put their lines.
    pub(crate) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits until what was handed over is written, once all workers are gone; no longer than `limit`.
    pub(crate) fn finish(self, limit: Duration) {
        let Self { sender, ended } = self;
        drop(sender);
        let _ended_or_late = ended.recv_timeout(limit);
    }
}

/// Writes until no worker is left. Between the first line of a buffer and its last it sleeps, so that lines that come in a row
/// wake nobody.
#[allow(clippy::disallowed_methods)] // the thread has nothing else to do
pub(super) fn write(
    lines: &Receiver<Line>,
    format: Format,
    out: &mut impl Write,
    written: &Counter,
    unwritten: &Counter,
) {
    let mut text = String::new();
    while let Ok(first) = lines.recv() {
        let until = Instant::now() + LATEST;
        let mut count = 1;
        first.write(format, &mut text);
        while text.len() < FULL {
            match lines.try_recv() {
                Ok(line) => {
                    line.write(format, &mut text);
                    count += 1;
                }
                Err(TryRecvError::Empty) if Instant::now() < until => thread::sleep(PAUSE),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let is_written = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
        if is_written { written } else { unwritten }.increment(count);
        text.clear();
    }
}
