//! Sockets that listen: a port is free again as soon as its process is gone, and one socket takes both families.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds while we are busy: thousands of proxies may come back at once. The system's own bound
/// (`somaxconn`) is usually the same.
const BACKLOG: i32 = 4096;
/// Pause when the system gives no more sockets, so that the loop does not spin: others must close first.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// `EAFNOSUPPORT`: the kernel has no IPv6.
const NO_SUCH_FAMILY: i32 = 97;

/// Opens one listener, which is not blocking; one on `[::]` takes IPv4 as well, and only that where there is no IPv6.
/// `shared`: several threads open the same address. Otherwise an address that another process listens on is an error.
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
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens. `0.0.0.0` is every address of both families where the system has IPv6.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    let is_any = address.ip() == Ipv4Addr::UNSPECIFIED;
    let bound = if is_any { bind(both, false).or_else(|_| bind(address, false)) } else { bind(address, false) };
    TcpListener::from_std(bound?)
}

/// The next connection and where it is from. While the system gives none, that is logged and tried again.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!("no connection could be accepted: {error}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_address_is_both_families() {
        let listener = listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn only_those_who_share_listen_on_the_same_address() {
        let alone = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        bind(alone.local_addr().unwrap(), true).unwrap_err();
        let shared = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        bind(shared.local_addr().unwrap(), true).unwrap();
        listen(shared.local_addr().unwrap()).unwrap_err();
    }
}
