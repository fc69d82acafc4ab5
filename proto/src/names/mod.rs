//! From a control address, `host:port`, to a TCP connection, without the C library's resolver: the images hold one
//! static binary each, and what a static glibc can resolve depends on the version that it was linked from (it loads the
//! rest at run time, from files that are not there), with a thread for each question.
//!
//! [`Address`] is what a flag or a variable says, [`Names`] asks the name servers of `/etc/resolv.conf` (hickory), and
//! [`Names::connect`] dials what they answer. IP addresses and `localhost` need no name server.
//!
//! The first certificate is on the way of a pod's start, and Kubernetes' `ndots:5` makes a usual resolver try every
//! search domain before the name as it is written: here that name is asked first, both families at once, and the
//! search domains (all at once) only when it does not exist or `HEAD_START` has passed without an answer. An answer
//! is kept for its own time, at most `KEEP_AT_MOST`; a failure is not kept.
//!
//! It trusts no answer: whoever connects verifies the identity at the other end.

mod address;
mod connect;
mod error;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    future::{Either, select},
    stream::{FuturesOrdered, StreamExt as _},
};
use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts, ServerOrderingStrategy},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
    system_conf::parse_resolv_conf,
};

pub use self::{
    address::{Address, AddressError},
    connect::ConnectError,
    error::{NameError, Reason},
};

/// Where the system says who resolves names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A name, with all its search domains. Below the limit for a whole connection to the controller (2 s), so that the
/// reason is told; three datagrams are sent within it.
const RESOLVE_LIMIT: Duration = Duration::from_millis(1500);
/// How long the name as it is written is waited for before the search domains are asked too: a name server that
/// forwards it to one that is away answers late. Some round trips within a cluster.
const HEAD_START: Duration = Duration::from_millis(100);
/// How long the other family's addresses are waited for once one family's are known (RFC 8305 says 50 ms).
const FAMILY_WAIT: Duration = Duration::from_millis(50);
/// An answer is asked for again after this, whatever it says of itself: a controller that moved is found soon.
const KEEP_AT_MOST: Duration = Duration::from_secs(10);
/// Answers kept. A process asks for two names, in two families and a few search domains.
const ANSWERS_KEPT: u64 = 64;
/// Names whose last good addresses are kept for times without a name server. A process asks for two.
const LAST_GOOD_KEPT: usize = 16;

/// Resolves names as `/etc/resolv.conf` and `/etc/hosts` say. Nothing is read before the first name is asked for.
#[derive(Debug, Default)]
pub struct Names {
    /// `None`: to be made from the file. A failure puts it back to that, for the file may be wrong and be mended.
    resolver: Mutex<Option<Arc<Resolver>>>,
    /// What was last answered, for when nobody answers any more: a name server that is away must not keep a proxy from
    /// a controller that is there.
    last_good: Mutex<HashMap<Box<str>, Vec<IpAddr>>>,
    /// Stands in for [`RESOLV_CONF`] in tests: its text and the port of its name servers.
    #[cfg(test)]
    instead: Option<(String, u16)>,
}

impl Names {
    /// The addresses of a host: at least one, IPv4 before IPv6.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Some(known) = without_server(host) {
            return Ok(known);
        }
        let failed = match self.resolver(host) {
            Ok(resolver) => match resolver.resolve(host).await {
                Ok(found) => {
                    self.remember(host, &found);
                    return Ok(found);
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        // Failures are not kept, and the file is read anew: a Service may just be made, a server just be corrected.
        *self.resolver.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        match last_good {
            Some(found) if !failed.is_no_such_name() => {
                tracing::warn!("{failed}; going on with the addresses that it had last");
                Ok(found)
            }
            _ => Err(failed),
        }
    }

    fn remember(&self, host: &str, found: &[IpAddr]) {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if last_good.len() < LAST_GOOD_KEPT || last_good.contains_key(host) {
            last_good.insert(host.into(), found.to_vec());
        }
    }

    fn resolver(&self, host: &str) -> Result<Arc<Resolver>, NameError> {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*resolver {
            return Ok(resolver.clone());
        }
        let made = self.system().and_then(|(config, options)| Resolver::new(config, options));
        let made = Arc::new(made.map_err(|error| NameError::configuration(host, RESOLV_CONF, &error))?);
        *resolver = Some(made.clone());
        Ok(made)
    }

    fn system(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        #[cfg(test)]
        if let Some((text, port)) = &self.instead {
            let (mut config, options) = parse_resolv_conf(text)?;
            config.name_servers.iter_mut().flat_map(|server| &mut server.connections).for_each(|c| c.port = *port);
            return Ok((config, options));
        }
        parse_resolv_conf(std::fs::read(RESOLV_CONF)?)
    }
}

/// The addresses of what needs no name server.
fn without_server(host: &str) -> Option<Vec<IpAddr>> {
    if let Ok(ip) = host.parse() {
        return Some(vec![ip]);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    is_local.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// hickory's resolver, and what we need to ask it for absolute names only.
struct Resolver {
    resolver: TokioResolver,
    search: Vec<Name>,
    servers: Vec<IpAddr>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("search", &self.search).field("servers", &self.servers).finish()
    }
}

impl Resolver {
    fn new(config: ResolverConfig, options: ResolverOpts) -> Result<Self, NetError> {
        let (search, servers) = (config.search.clone(), config.name_servers.iter().map(|server| server.ip).collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let own = builder.options_mut();
        *own = options;
        own.timeout = RESOLVE_LIMIT;
        own.cache_size = ANSWERS_KEPT;
        own.positive_max_ttl = Some(KEEP_AT_MOST);
        own.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        Ok(Self { resolver: builder.build()?, search, servers })
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let failed = |asked: &[Name], reason| NameError::new(host, asked, &self.servers, reason);
        let Ok(name) = Name::from_utf8(host) else {
            return Err(failed(&[], Reason::NoName));
        };
        let mut written = name.clone();
        written.set_fqdn(true);
        let searched = self.searched(&name);
        let asked: Vec<Name> = std::iter::once(written.clone()).chain(searched.iter().cloned()).collect();
        // A single word is rarely a name of its own: its search domains need not wait for it.
        let head_start = if name.num_labels() > 1 { HEAD_START } else { Duration::ZERO };
        let resolved = tokio::time::timeout(RESOLVE_LIMIT, self.race(written, searched, head_start)).await;
        match resolved {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(reason)) => Err(failed(&asked, reason)),
            Err(_) => Err(failed(&asked, Reason::NoAnswer(RESOLVE_LIMIT))),
        }
    }

    /// The name in each search domain, in their order; none for a name that is absolute.
    fn searched(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return Vec::new();
        }
        self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect()
    }

    /// The name as written, and after a head start, or once it is known not to be, its search domains.
    async fn race(&self, written: Name, searched: Vec<Name>, head_start: Duration) -> Result<Vec<IpAddr>, Reason> {
        let mut first = pin!(self.addresses(written));
        let first_failed = match tokio::time::timeout(head_start, &mut first).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(reason)) => Some(reason),
            Err(_) => None,
        };
        let second = pin!(self.first_in_order(searched));
        match first_failed {
            Some(reason) => second.await.map_err(|other| reason.or_worse(other)),
            None => match select(first, second).await {
                Either::Left((Ok(found), _)) | Either::Right((Ok(found), _)) => Ok(found),
                Either::Left((Err(reason), second)) => second.await.map_err(|other| reason.or_worse(other)),
                Either::Right((Err(reason), first)) => first.await.map_err(|other| reason.or_worse(other)),
            },
        }
    }

    /// Asks for all names at once; the first of them that has addresses.
    async fn first_in_order(&self, names: Vec<Name>) -> Result<Vec<IpAddr>, Reason> {
        let mut answers: FuturesOrdered<_> = names.into_iter().map(|name| self.addresses(name)).collect();
        let mut worst = Reason::NoSuchName;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(found) => return Ok(found),
                Err(reason) => worst = worst.or_worse(reason),
            }
        }
        Err(worst)
    }

    /// Both families of one absolute name, asked at once.
    async fn addresses(&self, name: Name) -> Result<Vec<IpAddr>, Reason> {
        let v4 = pin!(self.family(name.clone(), RecordType::A));
        let v6 = pin!(self.family(name, RecordType::AAAA));
        let (first, other) = match select(v4, v6).await {
            Either::Left((first, other)) | Either::Right((first, other)) => (first, other),
        };
        let mut found = match first {
            Ok(found) => found,
            Err(reason) => return other.await.map_err(|other| reason.or_worse(other)),
        };
        if let Ok(Ok(more)) = tokio::time::timeout(FAMILY_WAIT, other).await {
            found.extend(more);
        }
        found.sort_by_key(IpAddr::is_ipv6);
        Ok(found)
    }

    async fn family(&self, name: Name, kind: RecordType) -> Result<Vec<IpAddr>, Reason> {
        let answer = self.resolver.lookup(name, kind).await.map_err(|error| Reason::from_net(&error))?;
        let found: Vec<_> = answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
        if found.is_empty() { Err(Reason::NoSuchName) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests;
