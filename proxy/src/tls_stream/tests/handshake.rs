//! Handshakes: what they agree on, and how they fail.

use rustls::{Error as TlsError, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn both_sides_are_proved_and_the_key_exchange_is_post_quantum() {
    let (client, server) = (Party::new(), Party::new());
    let (a, b) = duplex(1000);
    let dialling = connect(Arc::new(client.client(&server)), localhost(), a);
    let (dialled, accepted) = tokio::join!(dialling, accept(Arc::new(server.server(&client)), b));
    for (session, peer) in [(dialled.unwrap().1, &server), (accepted.unwrap().1, &client)] {
        assert_eq!(session.peer_certificates().unwrap(), std::slice::from_ref(&peer.cert));
        assert_eq!(session.alpn_protocol(), Some(&b"mesh"[..]));
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn a_client_hello_of_many_records_is_read() {
    let (client, server) = (Party::new(), Party::new());
    let mut config = client.client(&server);
    config.alpn_protocols = (0..220u8).map(|i| [&[b'a', i][..], &[b'x'; 200]].concat()).collect();
    config.alpn_protocols.push(b"mesh".to_vec());
    let (a, b) = duplex(100);
    let dialling = connect(Arc::new(config), localhost(), a);
    let (dialled, accepted) = tokio::join!(dialling, accept(Arc::new(server.server(&client)), b));
    assert_eq!(dialled.unwrap().1.alpn_protocol(), Some(&b"mesh"[..]));
    accepted.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_trusted_hears_why() {
    let (client, server, other) = (Party::new(), Party::new(), Party::new());
    let (a, b) = duplex(10_000);
    let dialling = connect(Arc::new(client.client(&other)), localhost(), a);
    let (dialled, accepted) = tokio::join!(dialling, accept(Arc::new(server.server(&client)), b));
    let refused = dialled.unwrap_err();
    assert!(matches!(tls_error(&refused), TlsError::InvalidCertificate(_)), "{refused}");
    assert!(matches!(tls_error(&accepted.unwrap_err()), TlsError::AlertReceived(_)));
}

#[tokio::test]
async fn a_client_that_is_not_trusted_hears_why_in_its_first_read() {
    let (client, server, other) = (Party::new(), Party::new(), Party::new());
    let (a, b) = duplex(10_000);
    let dialling = connect(Arc::new(client.client(&server)), localhost(), a);
    let (dialled, accepted) = tokio::join!(dialling, accept(Arc::new(server.server(&other)), b));
    let refused = accepted.unwrap_err();
    assert!(matches!(tls_error(&refused), TlsError::InvalidCertificate(_)), "{refused}");
    let told = dialled.unwrap().0.read(&mut [0; 10]).await.unwrap_err();
    assert!(matches!(tls_error(&told), TlsError::AlertReceived(_)), "{told}");
}

#[tokio::test]
async fn what_is_not_tls_is_refused_at_once() {
    let (_, server) = configs();
    let (mut a, b) = duplex(1000);
    a.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let refused = accept(server, b).await.unwrap_err(); // `a` is open still: nothing is waited for
    assert!(matches!(tls_error(&refused), TlsError::InvalidMessage(_)), "{refused}");
    let mut told = Vec::new();
    a.read_to_end(&mut told).await.unwrap();
    assert_eq!(told[0], 21, "an alert");
}

#[tokio::test]
async fn an_end_within_is_an_error() {
    let (client, _) = configs();
    let (a, mut b) = duplex(10_000);
    let ending = async move {
        b.read_exact(&mut [0; 100]).await.unwrap();
        b.write_all(&[22, 3, 3]).await.unwrap();
    };
    let (dialled, ()) = tokio::join!(connect(client, localhost(), a), ending);
    assert_eq!(dialled.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_record_that_never_ends_is_not_kept() {
    let (_, server) = configs();
    let (mut a, b) = duplex(10_000);
    // One handshake message of 16 MiB, in records of 16 KiB.
    let flooding = async move {
        let mut record = vec![22, 3, 1, 64, 0, 1, 255, 255, 255];
        record.resize(5 + 16 * 1024, 0);
        while a.write_all(&record).await.is_ok() {
            record[5] = 0;
        }
    };
    let (refused, ()) = tokio::join!(accept(server, b), flooding);
    assert!(matches!(tls_error(&refused.unwrap_err()), TlsError::InvalidMessage(_)));
}

#[tokio::test]
async fn session_tickets_are_ignored() {
    let (client, server) = (Party::new(), Party::new());
    let mut config = server.server(&client);
    config.send_tls13_tickets = 4;
    let (a, b) = duplex(10_000);
    let dialling = connect(Arc::new(client.client(&server)), localhost(), a);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(b);
    let (dialled, accepted) = tokio::join!(dialling, accepting);
    let (mut ours, mut theirs) = (dialled.unwrap().0, accepted.unwrap());
    theirs.write_all(b"after the tickets").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut read = String::new();
    ours.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "after the tickets");
}

#[tokio::test]
async fn keys_that_may_not_be_taken_over_are_an_error_and_no_panic() {
    let (client, server) = (Party::new(), Party::new());
    let mut config = client.client(&server);
    config.enable_secret_extraction = false;
    let (a, b) = duplex(10_000);
    let dialling = connect(Arc::new(config), localhost(), a);
    let (dialled, _) = tokio::join!(dialling, accept(Arc::new(server.server(&client)), b));
    assert!(matches!(tls_error(&dialled.unwrap_err()), TlsError::General(_)));
}
