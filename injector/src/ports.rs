//! Lists of ports and ranges of ports, as annotations, configuration and `mesh-init` write them: `25,3306,8000-8100`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries of one list; each becomes an element of a kernel set, and more than this is a mistake.
const MAX_RANGES: usize = 64;

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A list of ports and ranges; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList(Vec<PortRange>);

impl PortList {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| (range.first..=range.last).contains(&port))
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| *port > 0 && digits)
        };
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            (Some(_), Some(_)) => Err(format!("the range {text:?} ends before it begins")),
            _ => Err(format!("{text:?} is neither a port from 1 to 65535 nor a range such as 8000-8100")),
        }
    }
}

impl FromStr for PortList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let ranges = text.split(',').take(MAX_RANGES + 1).map(str::parse).collect::<Result<Vec<_>, _>>()?;
        limited(ranges)
    }
}

fn limited(ranges: Vec<PortRange>) -> Result<PortList, String> {
    if ranges.len() > MAX_RANGES {
        return Err(format!("there are more than {MAX_RANGES} entries; write neighbours as a range"));
    }
    Ok(PortList(ranges))
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

/// In configuration: a list whose entries are numbers or texts (`[25, "8000-8100"]`).
impl<'de> Deserialize<'de> for PortList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Port(u64),
            Text(String),
        }
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        let parse = |entry| match entry {
            Entry::Port(port) => port.to_string().parse(),
            Entry::Text(text) => text.parse(),
        };
        entries
            .into_iter()
            .map(parse)
            .collect::<Result<Vec<PortRange>, String>>()
            .and_then(limited)
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for PortList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, written) in [("", ""), ("25", "25"), (" 25, 80-90 ", "25,80-90"), ("9-9", "9"), ("65535", "65535")] {
            assert_eq!(text.parse::<PortList>().unwrap().to_string(), written);
        }
        let list: PortList = "25,80-90".parse().unwrap();
        assert!(list.contains(85) && list.contains(90) && !list.contains(91));
        for wrong in ["0", "65536", "a", "1,,2", "9-8", "-5", "5-", "+5", "1;2", "1-2-3"] {
            wrong.parse::<PortList>().unwrap_err();
        }
        (vec!["1"; MAX_RANGES + 1]).join(",").parse::<PortList>().unwrap_err();
    }

    #[test]
    fn configuration_takes_numbers_and_texts() {
        let list: PortList = serde_json::from_str(r#"[25, "8000-8100"]"#).unwrap();
        assert_eq!(list.to_string(), "25,8000-8100");
        assert_eq!(serde_json::to_string(&list).unwrap(), r#"["25","8000-8100"]"#);
        for wrong in ["[0]", "[70000]", "[\"x\"]", "[-1]", "25"] {
            serde_json::from_str::<PortList>(wrong).unwrap_err();
        }
    }
}
