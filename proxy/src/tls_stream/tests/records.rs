//! Single records: cuts, key updates, violations, and what a connection holds meanwhile.

use std::io::{IoSlice, Read, Write};

use rustls::{AlertDescription, ContentType, Error as TlsError, InvalidMessage, PeerMisbehaved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What our side sent, as the peer reads it.
async fn received(transport: &mut DuplexStream, peer: &mut ClientConnection, n: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    while plain.len() < n {
        let mut buf = vec![0; 100_000];
        let read = transport.read(&mut buf).await.unwrap();
        let mut rest = &buf[..read];
        while !rest.is_empty() {
            peer.read_tls(&mut rest).unwrap();
            peer.process_new_packets().unwrap();
            let mut chunk = vec![0; 1 << 15];
            while let Ok(n @ 1..) = peer.reader().read(&mut chunk) {
                plain.extend_from_slice(&chunk[..n]);
            }
        }
    }
    plain
}

#[tokio::test]
async fn records_may_be_cut_anywhere_and_idle_connections_hold_nothing() {
    let (mut ours, mut transport, mut peer) = taken_apart(100_000).await;
    let mut cut = 0;
    loop {
        peer.writer().write_all(b"one").unwrap();
        peer.refresh_traffic_keys().unwrap();
        peer.writer().write_all(&[2; 200]).unwrap();
        let bytes = sealed(&mut peer);
        let (first, second) = bytes.split_at(cut);
        let (mut plain, mut buf) = (Vec::new(), [0; 150]);
        for part in [first, second] {
            transport.write_all(part).await.unwrap();
            while let Poll::Ready(n) = poll_read_now(&mut ours, &mut buf) {
                plain.extend_from_slice(&buf[..n.unwrap()]);
            }
            assert!(ours.held() <= part.len(), "no more than the beginning of a record");
        }
        assert_eq!((plain, ours.held()), ([&b"one"[..], &[2; 200]].concat(), 0));
        cut += 1;
        if cut > bytes.len() {
            break;
        }
    }
}

#[tokio::test]
async fn slices_of_one_write_share_a_record() {
    let (mut ours, mut transport, mut peer) = taken_apart(100_000).await;
    let slices: Vec<_> = [&b""[..], b"head", b"", b"er", b"body"].map(IoSlice::new).into();
    assert_eq!(ours.write_vectored(&slices).await.unwrap(), 10);
    assert_eq!(ours.held(), 0, "written at once");
    let mut record = [0; 10 + record::OVERHEAD];
    transport.read_exact(&mut record).await.unwrap();
    peer.read_tls(&mut &record[..]).unwrap();
    peer.process_new_packets().unwrap();
    let mut plain = [0; 10];
    peer.reader().read_exact(&mut plain).unwrap();
    assert_eq!(&plain, b"headerbody");
}

#[tokio::test]
async fn keys_are_updated_when_the_peer_asks_and_before_they_are_worn() {
    let (mut ours, mut transport, mut peer) = taken_apart(100_000).await;
    let mut buf = [0; 10];
    for round in 0..5 {
        peer.refresh_traffic_keys().unwrap();
        peer.writer().write_all(b"ping").unwrap();
        transport.write_all(&sealed(&mut peer)).await.unwrap();
        ours.read_exact(&mut buf[..4]).await.unwrap();
        assert!(ours.key_update, "round {round}: it is asked for");
        ours.write_all(b"pong").await.unwrap();
        assert!(!ours.key_update);
        assert_eq!(received(&mut transport, &mut peer, 4).await, b"pong");
    }
    ours.writer.set_limit(3);
    for _ in 0..10 {
        ours.write_all(b"pong").await.unwrap();
        assert_eq!(received(&mut transport, &mut peer, 4).await, b"pong");
    }
    assert!(!peer.wants_write(), "we update our keys without asking for theirs");
}

#[tokio::test]
async fn what_follows_close_notify_is_ignored() {
    let (mut ours, mut transport, mut peer) = taken_apart(100_000).await;
    peer.writer().write_all(b"last").unwrap();
    peer.send_close_notify();
    transport.write_all(&[&sealed(&mut peer)[..], b"anything"].concat()).await.unwrap();
    let mut read = Vec::new();
    ours.read_to_end(&mut read).await.unwrap();
    assert_eq!((read, ours.held()), (b"last".to_vec(), 0));
}

/// Sends `bytes`; returns our error and what the peer is told.
async fn violate(bytes: impl FnOnce(&mut ClientConnection) -> Vec<u8>) -> (TlsError, Option<TlsError>) {
    let (mut ours, mut transport, mut peer) = taken_apart(200_000).await;
    transport.write_all(&bytes(&mut peer)).await.unwrap();
    let error = ours.read_to_end(&mut Vec::new()).await.unwrap_err();
    let again = ours.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(tls_error(&error), tls_error(&again), "it stays broken");
    assert_eq!(ours.held(), 0);
    drop(ours.shutdown().await);
    drop(ours);
    let mut told = Vec::new();
    transport.read_to_end(&mut told).await.unwrap();
    peer.read_tls(&mut &told[..]).unwrap();
    (tls_error(&error).clone(), peer.process_new_packets().err())
}

#[tokio::test]
async fn violations_end_the_session_and_the_peer_is_told() {
    let told = |alert| Some(TlsError::AlertReceived(alert));
    let forged = violate(|peer| {
        peer.writer().write_all(b"data").unwrap();
        let mut bytes = sealed(peer);
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    });
    assert_eq!(forged.await, (TlsError::DecryptError, told(AlertDescription::BadRecordMac)));

    let replayed = violate(|peer| {
        peer.writer().write_all(b"data").unwrap();
        sealed(peer).repeat(2)
    });
    assert_eq!(replayed.await, (TlsError::DecryptError, told(AlertDescription::BadRecordMac)));

    let oversized = violate(|_| vec![23, 3, 3, 255, 255]);
    assert_eq!(oversized.await, (TlsError::PeerSentOversizedRecord, told(AlertDescription::RecordOverflow)));

    let empty = violate(|_| vec![23, 3, 3, 0, 0]);
    assert_eq!(empty.await, (TlsError::DecryptError, told(AlertDescription::BadRecordMac)));

    for plain in [&[21, 3, 3, 0, 2, 1, 0][..], &[20, 3, 3, 0, 1, 1], b"GET / HTTP/1.1\r\n"] {
        let (error, alert) = violate(|_| plain.to_vec()).await;
        assert!(matches!(error, TlsError::InvalidMessage(_)), "{error}");
        assert_eq!(alert, told(AlertDescription::UnexpectedMessage));
    }

    let restless = violate(|peer| {
        let update = |_| {
            peer.refresh_traffic_keys().unwrap();
            sealed(peer)
        };
        (0..40).flat_map(update).collect()
    });
    let (error, alert) = restless.await;
    assert_eq!(error, TlsError::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests));
    assert_eq!(alert, told(AlertDescription::UnexpectedMessage));
}

/// A peer of our own that seals what no honest one would.
async fn sealed_violation(records: &[(ContentType, &[u8])]) -> TlsError {
    let (client, server) = configs();
    let (a, b) = duplex(100_000);
    let (peer, ours) = tokio::join!(connect(client, localhost(), a), accept(server, b));
    let (mut peer, mut ours) = (peer.unwrap().0, ours.unwrap().0);
    for (kind, content) in records {
        peer.writer.message(*kind, content).unwrap();
    }
    peer.flush().await.unwrap();
    let error = ours.read_to_end(&mut Vec::new()).await.unwrap_err();
    tls_error(&error).clone()
}

#[tokio::test]
async fn what_is_sealed_well_may_still_be_wrong() {
    use ContentType::{Alert, ApplicationData, ChangeCipherSpec, Handshake};
    let misbehaved = TlsError::PeerMisbehaved;
    let interleaved = misbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage);
    let empty = TlsError::InvalidMessage(InvalidMessage::UnexpectedMessage("an empty record"));
    for (records, expected) in [
        (&[(Handshake, &[24, 0, 0][..]), (ApplicationData, b"x")][..], interleaved.clone()),
        (&[(Handshake, &[24, 0, 0][..]), (Alert, &[1, 0])], interleaved),
        (&[(Handshake, &[24, 0, 0, 1, 0, 24][..])], misbehaved(PeerMisbehaved::KeyEpochWithPendingFragment)),
        (&[(Handshake, &[][..])], empty.clone()),
        (&[(Alert, &[][..])], empty.clone()),
        (&[(Handshake, &[24, 0, 0][..]), (Handshake, &[])], empty),
        (&[(ApplicationData, &[][..]); 33], misbehaved(PeerMisbehaved::TooManyEmptyFragments)),
        (&[(Alert, &[1, 90][..]); 33], misbehaved(PeerMisbehaved::TooManyWarningAlertsReceived)),
        (&[(Alert, &[2, 40][..])], TlsError::AlertReceived(AlertDescription::HandshakeFailure)),
    ] {
        assert_eq!(sealed_violation(records).await, expected, "{records:?}");
    }
    for records in [
        &[(Handshake, &[24, 0, 0, 1, 2][..])][..], // a key update of an unknown kind
        &[(Handshake, &[24, 0, 0, 0][..])],
        &[(Handshake, &[1, 0, 0, 0][..])], // a second ClientHello
        &[(Handshake, &[4, 0, 0, 0][..])], // a ticket, from a client
        &[(Handshake, &[4, 1, 0, 1][..])], // a message of more than 64 KiB
        &[(Alert, &[1][..])],
        &[(ChangeCipherSpec, &[1][..])],
    ] {
        let error = sealed_violation(records).await;
        assert!(matches!(error, TlsError::InvalidMessage(_)), "{records:?}: {error}");
    }
    let forged_inner = [(ContentType::Unknown(0), &[0, 0][..])]; // nothing but padding
    assert_eq!(sealed_violation(&forged_inner).await, misbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext));
}

#[tokio::test]
async fn padding_is_taken_off() {
    let (client, server) = configs();
    let (a, b) = duplex(100_000);
    let (peer, ours) = tokio::join!(connect(client, localhost(), a), accept(server, b));
    let (mut peer, mut ours) = (peer.unwrap().0, ours.unwrap().0);
    // Content, type and padding: to our sealer, all of it is content before one more zero.
    peer.writer.message(ContentType::Unknown(0), &[b'p', b'a', b'd', 23, 0, 0, 0]).unwrap();
    peer.flush().await.unwrap();
    let mut read = [0; 3];
    ours.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"pad");
}
