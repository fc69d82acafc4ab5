//! Dialling an address: its hosts one after the other, each with a short head start over the next.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;

use super::{Address, NameError, Names};

/// How long one attempt is waited for before the next begins too (RFC 8305 says 250 ms).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses tried. A Service has one or two; a headless one as many as it has pods.
const MAX_TRIED: usize = 8;

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Every address refused.
    #[error("cannot connect to {address}: {}", each(attempts))]
    Refused {
        /// What was dialled.
        address: Address,
        /// Each attempt and its end.
        attempts: Vec<(IpAddr, io::Error)>,
    },
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Name(_) => io::ErrorKind::NotFound,
            ConnectError::Refused { attempts, .. } => {
                attempts.last().map_or(io::ErrorKind::NotConnected, |(_, error)| error.kind())
            }
        };
        Self::new(kind, error)
    }
}

impl Names {
    /// Resolves and connects. It ends when all addresses have failed; how long that may take is the caller's to bound.
    pub async fn connect(&self, address: &Address) -> Result<TcpStream, ConnectError> {
        let mut waiting = self.resolve(address.host()).await?.into_iter().take(MAX_TRIED);
        let (mut attempts, mut dials) = (Vec::new(), FuturesUnordered::new());
        loop {
            let next = waiting.next();
            if let Some(ip) = next {
                dials.push(async move { (ip, TcpStream::connect(SocketAddr::new(ip, address.port())).await) });
            }
            let ended = async { dials.next().await };
            let ended = match next {
                Some(_) => tokio::time::timeout(NEXT_AFTER, ended).await.ok(),
                None => Some(ended.await),
            };
            match ended {
                Some(Some((_, Ok(stream)))) => return Ok(stream),
                Some(Some((ip, Err(error)))) => attempts.push((ip, error)),
                Some(None) => return Err(ConnectError::Refused { address: address.clone(), attempts }),
                None => {}
            }
        }
    }
}

fn each(attempts: &[(IpAddr, io::Error)]) -> String {
    attempts.iter().map(|(ip, error)| format!("{ip}: {error}")).collect::<Vec<_>>().join("; ")
}
