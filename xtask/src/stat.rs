//! What the kernel says of a process in /proc/PID/stat (proc_pid_stat(5)).

use std::fs;

/// A reading of one process.
pub struct Stat {
    /// What it does: `R` runs, `S` sleeps, `Z` is dead and not yet buried.
    state: char,
    /// Who started it, or who took it in as an orphan.
    pub parent: u32,
    /// Processor seconds, user's and kernel's, of all that it has started and that have ended and are buried.
    pub children_cpu: f64,
}

impl Stat {
    /// Reads it; nothing if the process is gone.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether it runs: one that is dead and not yet buried does not.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    fn parse(line: &str) -> Option<Self> {
        // Behind the name, which may hold anything, the third field comes first.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        let hundredths = |number| field(number)?.parse::<f64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            children_cpu: (hundredths(16)? + hundredths(17)?) / 100.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let line = "42 (a) R (b) Z 7 42 42 0 -1 4194304 100 200 0 0 11 12 150 50 20 0 1 0 100 0 0";
        let stat = Stat::parse(line);
        assert!(stat.is_some_and(|stat| !stat.is_alive() && stat.parent == 7 && stat.children_cpu == 2.0));
        assert!(Stat::parse("42 (a) R").is_none());
    }
}
