//! Accepts connections: where they were really going, how many at once, and until when.
//!
//! Each worker has listeners of its own on the same ports (SO_REUSEPORT), so that the kernel spreads connections and no
//! thread hands any to another.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    rc::Rc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    config::Config,
    connect,
    connections::{Entry, Side},
    error::Error,
    inbound,
    metered::Metered,
    outbound::{self, Destination},
    worker::Worker,
};

/// Connections that the kernel holds while we are busy.
const BACKLOG: i32 = 4096;
/// When accepting fails (no file descriptors left), trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// `EAFNOSUPPORT`: the kernel has no IPv6.
const NO_SUCH_FAMILY: i32 = 97;

/// What a listener is for.
#[derive(Clone, Debug)]
pub enum Role {
    /// Redirected connections of the application, or an HTTP proxy.
    Outbound,
    /// A port that stands for a destination.
    OutboundFixed(String),
    /// Redirected connections to the application.
    Inbound,
    /// A port that stands for an application port.
    InboundFixed(SocketAddr),
}

impl Role {
    fn side(&self) -> Side {
        match self {
            Self::Outbound | Self::OutboundFixed(_) => Side::Outbound,
            Self::Inbound | Self::InboundFixed(_) => Side::Inbound,
        }
    }
}

/// Every address this proxy listens on for traffic, with its role.
pub fn addresses(config: &Config) -> Vec<(SocketAddr, Role)> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut all = vec![(config.outbound_listen, Role::Outbound), (config.inbound_listen, Role::Inbound)];
    // IPv4 connections are redirected to 127.0.0.1, IPv6 ones to ::1.
    let twin = SocketAddr::from((Ipv6Addr::LOCALHOST, config.outbound_listen.port()));
    if config.outbound_listen.ip() == Ipv4Addr::LOCALHOST && bind(SocketAddr::new(twin.ip(), 0), false).is_ok() {
        all.push((twin, Role::Outbound));
    }
    all.extend(config.outbound_ports.iter().map(|p| (local(p.listen), Role::OutboundFixed(p.authority.clone()))));
    all.extend(config.inbound_ports.iter().map(|p| (local(p.listen), Role::InboundFixed(local(p.app)))));
    all
}

/// Opens one listener; one on `[::]` takes IPv4 as well, and only that where there is no IPv6. `shared`: several workers
/// open the same address. Otherwise an address that another process listens on is an error.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let all = address.ip() == Ipv6Addr::UNSPECIFIED;
    let socket = match Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)) {
        Err(error) if all && error.raw_os_error() == Some(NO_SUCH_FAMILY) => {
            return bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), shared);
        }
        socket => socket?,
    };
    if all {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the proxy drains.
pub async fn run(worker: Rc<Worker>, listener: TcpListener, role: Role) {
    while let Some(accepted) = worker.transport.connections.accept(role.side(), &listener).await {
        match accepted {
            Ok((stream, entry)) => {
                let (worker, role) = (worker.clone(), role.clone());
                tokio::task::spawn_local(async move {
                    let direction = entry.direction();
                    if let Some(Err(error)) = entry.serve(serve(worker, entry.clone(), stream, role)).await {
                        tracing::debug!("{} connection: {error}", direction.as_str());
                    }
                });
            }
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(worker: Rc<Worker>, entry: Rc<Entry>, stream: TcpStream, role: Role) -> Result<(), Error> {
    connect::tune(&stream).map_err(Error::connection)?;
    match role {
        Role::Outbound => match original_destination(&stream) {
            Some(address) => Box::pin(outbound::redirected(worker, entry, stream, address)).await,
            None => Box::pin(outbound::serve(worker, entry, stream, Destination::Authority)).await,
        },
        Role::OutboundFixed(authority) => {
            let destination = Destination::Target(worker.target(&authority));
            Box::pin(outbound::serve(worker, entry, stream, destination)).await
        }
        // Not redirected: from our own outbound side, or from somebody who has no business here.
        Role::Inbound => match original_destination(&stream).or_else(|| worker.transport.handover.take(entry.source()))
        {
            Some(address) => {
                let stream = Metered::new(stream, entry.clone());
                Box::pin(inbound::serve(worker, entry, stream, address)).await
            }
            None => {
                let from = entry.source();
                tracing::debug!(
                    "refused a connection from {from} to the inbound port itself: it is for redirected ones"
                );
                Ok(())
            }
        },
        Role::InboundFixed(app) => {
            let stream = Metered::new(stream, entry.clone());
            Box::pin(inbound::serve(worker, entry, stream, app)).await
        }
    }
}

/// Where a redirected connection was going (SO_ORIGINAL_DST); `None` when it was not redirected.
pub fn original_destination<S: AsFd>(stream: &S) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    // A listener on [::] takes IPv4 as well, whose original destination is asked for as such.
    let local = socket.local_addr().ok()?.as_socket()?;
    let (ip, port) = (local.ip().to_canonical(), local.port());
    let original = match ip {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().filter(|address| (address.ip(), address.port()) != (ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that `make` returns, without making it.
    fn size<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of connections are idle at once: what each holds while it waits is kept small.
    #[test]
    fn an_idle_connection_is_small() {
        let all = size(|(w, e, s, r): (Rc<Worker>, Rc<Entry>, TcpStream, Role)| serve(w, e, s, r));
        let out = size(|(w, e, s, d): (Rc<Worker>, Rc<Entry>, TcpStream, Destination)| outbound::serve(w, e, s, d))
            .max(size(|(w, e, s, a): (Rc<Worker>, Rc<Entry>, TcpStream, SocketAddr)| outbound::redirected(w, e, s, a)));
        let inb = size(|(w, e, s, d): (Rc<Worker>, Rc<Entry>, TcpStream, SocketAddr)| inbound::serve(w, e, s, d));
        assert!(all <= 512 && out <= 1024 && inb <= 1024, "a connection takes {all} + {out} or {inb} bytes");
    }
}
