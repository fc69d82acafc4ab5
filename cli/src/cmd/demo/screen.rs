//! Draws the table again and again in the same place of a terminal.
//!
//! No alternate screen and no raw mode: what was printed before stays, Ctrl-C stays a signal, and a terminal whose
//! program was killed is as it was but for the cursor.

use std::io::{self, Stdout, Write};

use crossterm::{
    cursor::{Hide, MoveToColumn, MoveUp, Show},
    queue,
    style::Print,
    terminal::{Clear, ClearType, size},
};

/// Columns where the terminal does not report them.
const COLUMNS: u16 = 80;

/// Lines where the terminal does not report them.
const LINES: u16 = 24;

/// A place on the terminal.
#[derive(Debug)]
pub(super) struct Screen {
    out: Stdout,
    drawn: u16,
}

impl Screen {
    /// Nothing is drawn yet.
    pub(super) fn new() -> Self {
        Self { out: io::stdout(), drawn: 0 }
    }

    /// Columns of the terminal now.
    pub(super) fn width() -> usize {
        size().map_or(COLUMNS, |(columns, _)| columns).into()
    }

    /// Puts `lines` where the last ones were. Lines that do not fit are left out at the end. Errors when the terminal
    /// is gone.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let height = size().map_or(LINES, |(_, lines)| lines).max(2);
        let up = self.drawn.min(height - 1);
        queue!(self.out, Hide, MoveToColumn(0))?;
        if up > 0 {
            queue!(self.out, MoveUp(up))?;
        }
        let shown = lines.len().min(usize::from(height - 1));
        for line in &lines[..shown] {
            queue!(self.out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown))?;
        self.drawn = shown as u16;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = queue!(self.out, Show);
        let _ = self.out.flush();
    }
}
