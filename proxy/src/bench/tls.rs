//! Bytes through one connection of TLS 1.3 over loopback (AES-128-GCM, X25519MLKEM768), both ways, one after the other. The
//! library is tokio-rustls, at both ends; the handshake is not in the figure.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Side, broken, cpu_us};
use crate::tls_stream;

/// Room of one read. More than a record, less than what a socket may hold.
const READ: usize = 64 * 1024;
const MIB: f64 = 1024.0 * 1024.0;
const NAME: &str = "localhost";

/// The processor time of both ends for a MiB, in microseconds, in writes of so many bytes.
pub(super) async fn cost(side: Side, write: usize, time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (client, (server, _)) = (client?, accepted?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (dials, accepts) = configs()?;
    let name = ServerName::try_from(NAME).map_err(broken)?;
    match side {
        Side::Mesh => {
            let (client, server) =
                tokio::try_join!(tls_stream::connect(dials, name, client), tls_stream::accept(accepts, server))?;
            both_ways(client.0, server.0, write, time).await
        }
        Side::Library => {
            let (dialling, accepting) = (TlsConnector::from(dials), TlsAcceptor::from(accepts));
            let (client, server) = tokio::try_join!(dialling.connect(name, client), accepting.accept(server))?;
            both_ways(client, server, write, time).await
        }
    }
}

/// The same suite, group and chain for both sides.
fn configs() -> io::Result<(Arc<ClientConfig>, Arc<ServerConfig>)> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    });
    let key = rcgen::KeyPair::generate().map_err(broken)?;
    let chain = rcgen::CertificateParams::new(vec![NAME.into()]).and_then(|params| params.self_signed(&key));
    let chain = chain.map_err(broken)?.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(chain.clone()).map_err(broken)?;
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    let mut client = client.map_err(broken)?.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let server = server.map_err(broken)?.with_no_client_auth();
    let mut server =
        server.with_single_cert(vec![chain], PrivatePkcs8KeyDer::from(key.serialize_der()).into()).map_err(broken)?;
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    Ok((Arc::new(client), Arc::new(server)))
}

async fn both_ways<A, B>(mut client: A, mut server: B, write: usize, time: Duration) -> io::Result<f64>
where
    A: AsyncRead + AsyncWrite + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let before = cpu_us();
    // Tasks of their own: within one, each would use up the other's turn.
    let there = spawn_local(async move {
        let sent = send(&mut client, write, time / 2).await?;
        Ok::<_, io::Error>((sent, receive(&mut client).await?))
    });
    let back = spawn_local(async move {
        let received = receive(&mut server).await?;
        Ok::<_, io::Error>((send(&mut server, write, time / 2).await?, received))
    });
    let (sent, back_received) = there.await.map_err(broken)??;
    let (back_sent, received) = back.await.map_err(broken)??;
    if (sent, back_sent) != (received, back_received) {
        return Err(broken("not all that was sent has arrived"));
    }
    Ok((cpu_us() - before) / ((sent + back_sent) as f64 / MIB))
}

/// Writes for so long, then ends this direction. The bytes.
async fn send(to: &mut (impl AsyncWrite + Unpin), write: usize, time: Duration) -> io::Result<u64> {
    let (bytes, end) = (vec![b'x'; write], Instant::now() + time);
    let mut sent = 0;
    while Instant::now() < end {
        to.write_all(&bytes).await?;
        sent += write as u64;
    }
    to.shutdown().await?;
    Ok(sent)
}

/// Reads to the end of this direction. The bytes.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let mut room = vec![0; READ];
    let mut received = 0;
    loop {
        match from.read(&mut room).await? {
            0 => return Ok(received),
            read => received += read as u64,
        }
    }
}
