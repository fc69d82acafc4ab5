//! Accepts connections: finds where each was really going, limits how many there are, and stops when the proxy drains.
//!
//! Each worker has its own listeners on the same ports (SO_REUSEPORT), so the kernel spreads connections and no thread hands
//! one to another.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    rc::Rc,
};

use mesh_listen::{ACCEPT_PAUSE, bind};
use socket2::SockRef;
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

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Role {
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
pub(crate) fn addresses(config: &Config) -> Vec<(SocketAddr, Role)> {
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

/// Accepts until the proxy drains.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener, role: Role) {
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
        // Not redirected: it comes from our own outbound side, or from a client that connects to the proxy directly.
        Role::Inbound => {
            match original_destination(&stream).or_else(|| worker.transport.hairpin.take(entry.source())) {
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
            }
        }
        Role::InboundFixed(app) => {
            let stream = Metered::new(stream, entry.clone());
            Box::pin(inbound::serve(worker, entry, stream, app)).await
        }
    }
}

/// Where a redirected connection was going (SO_ORIGINAL_DST); `None` when it was not redirected.
pub(crate) fn original_destination<S: AsFd>(stream: &S) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    // A listener on [::] accepts IPv4 as well. For such a connection, the IPv4 socket option has the original destination.
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

    /// Thousands of connections are idle at once, so each must hold little memory while it waits.
    #[test]
    fn an_idle_connection_is_small() {
        let all = size(|(w, e, s, r): (Rc<Worker>, Rc<Entry>, TcpStream, Role)| serve(w, e, s, r));
        let out = size(|(w, e, s, d): (Rc<Worker>, Rc<Entry>, TcpStream, Destination)| outbound::serve(w, e, s, d))
            .max(size(|(w, e, s, a): (Rc<Worker>, Rc<Entry>, TcpStream, SocketAddr)| outbound::redirected(w, e, s, a)));
        let inb = size(|(w, e, s, d): (Rc<Worker>, Rc<Entry>, TcpStream, SocketAddr)| inbound::serve(w, e, s, d));
        assert!(all <= 512 && out <= 1024 && inb <= 1024, "a connection takes {all} + {out} or {inb} bytes");
    }
}
