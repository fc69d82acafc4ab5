//! Why a name has no addresses, in words that say whom to ask next.

use std::{fmt, net::IpAddr, time::Duration};

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{op::ResponseCode, rr::Name},
};

/// A name that could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    host: String,
    asked: Vec<Name>,
    servers: Vec<IpAddr>,
    reason: Reason,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is no host name.
    NoName,
    /// The servers answered that there is no such name, or that it has no address.
    NoSuchName,
    /// Nobody answered within this.
    NoAnswer(Duration),
    /// A server answered that it cannot or will not.
    Refused(ResponseCode),
    /// Who is to be asked is not known: the file, and what is wrong with it.
    Configuration(String),
    /// The question could not be sent, or its answer not be read.
    Transport(String),
}

impl NameError {
    pub(super) fn new(host: &str, asked: &[Name], servers: &[IpAddr], reason: Reason) -> Self {
        Self { host: host.to_owned(), asked: asked.to_vec(), servers: servers.to_vec(), reason }
    }

    pub(super) fn configuration(host: &str, file: &str, error: &NetError) -> Self {
        Self::new(host, &[], &[], Reason::Configuration(format!("{file}: {error}")))
    }

    /// What went wrong.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whether the servers are sure that there is no such name.
    pub fn is_no_such_name(&self) -> bool {
        matches!(self.reason, Reason::NoName | Reason::NoSuchName)
    }
}

impl Reason {
    pub(super) fn from_net(error: &NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(_)) => Self::NoSuchName,
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Refused(*code),
            NetError::Timeout => Self::NoAnswer(super::RESOLVE_LIMIT),
            other => Self::Transport(other.to_string()),
        }
    }

    /// Of two reasons the one to tell: that something is amiss weighs more than that there is no such name.
    pub(super) fn or_worse(self, other: Self) -> Self {
        if self == Self::NoSuchName { other } else { self }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = list(&self.servers);
        write!(f, "cannot resolve the host name {:?}: ", self.host)?;
        match &self.reason {
            Reason::NoName => write!(f, "it is no host name; correct the address"),
            Reason::NoSuchName => write!(
                f,
                "{servers} knows none of {}; does the Service exist, and is its namespace in the name?",
                list(&self.asked)
            ),
            Reason::NoAnswer(limit) => write!(
                f,
                "no answer from {servers} within {limit:?}, asked for {}; is the cluster's DNS running, and may this pod \
                 reach it (UDP port 53, NetworkPolicies)?",
                list(&self.asked)
            ),
            Reason::Refused(code) => write!(
                f,
                "{servers} answered \"{code}\", asked for {}; look at the logs of the cluster's DNS",
                list(&self.asked)
            ),
            Reason::Configuration(what) => {
                write!(f, "{what}; the pod's dnsPolicy decides what that file says")
            }
            Reason::Transport(what) => {
                write!(f, "{servers} could not be asked for {}: {what}; may this pod reach it?", list(&self.asked))
            }
        }
    }
}

impl std::error::Error for NameError {}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
