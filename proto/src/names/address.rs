//! `host:port`, checked when it is read.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// A host, by name or by IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: Box<str>,
    port: u16,
}

/// Text that is no `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port, such as mesh-identity.mesh-system.svc:4650 or [::1]:4650")]
pub struct AddressError(String);

/// The longest name that DNS has, written out.
const MAX_HOST: usize = 254;

impl Address {
    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_name(host),
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if is_host { Ok(Self { host: bracketed.unwrap_or(host).into(), port }) } else { Err(wrong()) }
    }
}

/// Letters, digits, hyphens, underscores and dots; IPv4 addresses look the same.
fn is_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= MAX_HOST && labels.into_iter().all(is_label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_an_address_stays_as_written() {
        for text in ["127.0.0.1:4650", "[fd00::1]:4650", "localhost:1", "mesh-identity.mesh-system.svc.:65535", "a_b:2"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let address: Address = "[::1]:4650".parse().unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 4650));
    }

    #[test]
    fn what_is_none_is_refused_with_its_text() {
        let long = format!("{}:1", "a".repeat(64));
        for text in
            ["", "host", "host:", ":1", "host:0", "host:65536", "::1:1", "[::1]", "[x]:1", "a b:1", "a..b:1", &long]
        {
            assert!(text.parse::<Address>().unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
