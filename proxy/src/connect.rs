//! The only module that opens upstream sockets: TCP, and mutual TLS to a peer whose identity discovery named.
//!
//! A connection that fails here delivered nothing.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mesh_credentials::tls::expect_identity;
use mesh_policy::{Endpoint, Identity};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    connections::{Entry, Side},
    error::{Error, Reason},
    expiry,
    io::Io,
    metrics::Direction,
    tls_stream::{self, Stream},
    transport::Transport,
};

/// A peer that vanished silently is given up after this time: keepalive probes begin, and unacknowledged data is abandoned.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Outside the mesh, a server may be far away: a few lost packets must not fail a connection that would succeed without a
/// proxy.
const EXTERNAL: Duration = Duration::from_secs(15);

/// Opens a TCP connection within the connect timeout.
pub(crate) async fn tcp(transport: &Transport, address: SocketAddr) -> Result<TcpStream, Error> {
    within(transport, address, transport.config.times.connect, TcpStream::connect(address)).await
}

/// Opens a TCP connection to an address outside the mesh, which may be far away.
pub(crate) async fn external(transport: &Transport, address: SocketAddr) -> Result<TcpStream, Error> {
    within(transport, address, EXTERNAL, TcpStream::connect(address)).await
}

async fn within(
    transport: &Transport,
    address: SocketAddr,
    limit: Duration,
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> Result<TcpStream, Error> {
    if transport.is_own(address) {
        return Err(Error::undelivered(Reason::Loop, format!("{address} is this proxy itself")));
    }
    let failed = |error: io::Error| Error::undelivered(Reason::ConnectFailed, format!("{address}: {error}"));
    let stream = match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            return Err(Error::undelivered(Reason::ConnectFailed, format!("{address}: no answer within {limit:?}")));
        }
    };
    tune(&stream).map_err(failed)?;
    Ok(stream)
}

/// A connection that was opened.
pub(crate) struct Upstream<T> {
    /// Its stream.
    pub io: T,
    /// Its entry in the table of live connections, if it is one of the mesh. The user of the stream holds the entry as long.
    pub entry: Option<Rc<Entry>>,
}

impl<T> Upstream<T> {
    /// A connection that is not of the mesh.
    pub(crate) fn plain(io: T) -> Self {
        Self { io, entry: None }
    }

    /// The same, where the type of the stream does not matter.
    pub(crate) fn boxed(self) -> Upstream<Box<dyn Io>>
    where
        T: Io,
    {
        Upstream { io: Box::new(self.io), entry: self.entry }
    }
}

/// Opens a connection to an endpoint: mutual TLS with `config` if it is meshed, else plain TCP.
pub(crate) async fn endpoint(
    transport: &Transport,
    endpoint: &Endpoint,
    config: &Arc<ClientConfig>,
) -> Result<Upstream<Box<dyn Io>>, Error> {
    match &endpoint.identity {
        None => Ok(Upstream::plain(tcp(transport, endpoint.address).await?).boxed()),
        Some(identity) => Ok(mesh(transport, endpoint.address, identity, config).await?.boxed()),
    }
}

/// Opens a mutual TLS connection to a peer that must prove `identity`.
pub(crate) async fn mesh(
    transport: &Transport,
    address: SocketAddr,
    identity: &Identity,
    config: &Arc<ClientConfig>,
) -> Result<Upstream<Stream<TcpStream>>, Error> {
    if !transport.tls.held.is_ready() {
        return Err(Error::undelivered(Reason::NoIdentity, "there is no certificate to prove yet"));
    }
    // One limit for TCP and TLS: a slow accept leaves less time for the handshake.
    let limit = transport.config.times.connect;
    let late = tokio::time::Instant::now() + limit;
    let tcp = if transport.is_this_pod(address.ip()) {
        Box::pin(within(transport, address, limit, own_inbound(transport, address))).await?
    } else {
        tcp(transport, address).await?
    };
    let handshake = tls_stream::connect(config.clone(), ServerName::IpAddress(address.ip().into()), tcp);
    let (stream, session) = match tokio::time::timeout_at(late, handshake).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            transport.tls_failed(Direction::Outbound, &error);
            return Err(Error::undelivered(Reason::ConnectFailed, format!("{address}: TLS: {error}")));
        }
        Err(_) => {
            transport.tls_failed(Direction::Outbound, &io::ErrorKind::TimedOut.into());
            let detail = format!("{address}: no TLS handshake within {limit:?}");
            return Err(Error::undelivered(Reason::ConnectFailed, detail));
        }
    };
    if let Err(proved) = expect_identity(session.peer_certificates(), identity) {
        let proved = proved.map_or("nothing".to_owned(), |id| id.to_string());
        let detail = format!("{address} proves {proved}, discovery expects {identity}");
        return Err(Error::undelivered(Reason::IdentityMismatch, detail));
    }
    if session.alpn_protocol() != config.alpn_protocols.first().map(Vec::as_slice) {
        return Err(Error::undelivered(
            Reason::ConnectFailed,
            format!("{address}: the peer does not speak our protocol"),
        ));
    }
    let entry = transport.connections.add(Side::Upstream, address);
    if !expiry::proved(transport, &entry, &session) {
        let detail = format!("{address}: the anchor of its certificate has just been withdrawn");
        return Err(Error::undelivered(Reason::IdentityMismatch, detail));
    }
    transport.tls_finished(Direction::Outbound, identity, &session);
    Ok(Upstream { io: stream, entry: Some(entry) })
}

/// A connection to our own inbound side, which is told that its destination is `address`.
async fn own_inbound(transport: &Transport, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let announced = transport.hairpin.announce(socket.local_addr()?, address);
    let announced =
        announced.ok_or_else(|| io::Error::other("too many calls of this pod to itself are on their way"))?;
    let inbound = match transport.config.inbound_listen {
        any if any.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, any.port())),
        one => one,
    };
    let stream = socket.connect(inbound).await?;
    announced.made();
    Ok(stream)
}

/// Options of every connection, accepted or opened.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 6))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(KEEP_ALIVE))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{error::Delivery, worker::tests::worker};

    #[tokio::test(start_paused = true)]
    async fn who_does_not_accept_is_waited_for_no_longer_than_the_limit() {
        let worker = worker(&[]);
        // The kernel answers no client for which the listener's queue has no room.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let (address, limit) = (listener.local_addr().unwrap(), worker.config.times.connect);
        let mut queued = Vec::new();
        while let Ok(connected) = tokio::time::timeout(limit, TcpStream::connect(address)).await {
            queued.push(connected.unwrap());
        }
        let late = tokio::time::timeout(2 * limit, tcp(&worker.transport, address)).await.unwrap().unwrap_err();
        assert_eq!((late.reason, late.delivery), (Reason::ConnectFailed, Delivery::Never));
        let late = tokio::time::timeout(2 * EXTERNAL, external(&worker.transport, address)).await.unwrap();
        assert!(late.unwrap_err().detail.contains("no answer within 15s"), "outside of the mesh");
    }
}
