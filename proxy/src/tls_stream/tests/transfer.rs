//! Bytes both ways: in any pieces, over any transport, with half-closes.

use std::io::IoSlice;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::*;

/// What one side writes: the sizes of its pieces, and how it writes them.
#[derive(Debug, Clone)]
struct Script {
    pieces: Vec<usize>,
    vectored: bool,
    flush_each: bool,
    read_buffer: usize,
}

impl Script {
    fn new(pieces: Vec<usize>, read_buffer: usize) -> Self {
        Self { pieces, vectored: false, flush_each: false, read_buffer }
    }

    /// Bytes that differ everywhere, so that none can be lost, doubled or moved.
    fn bytes(&self) -> Vec<u8> {
        (0..self.pieces.iter().sum::<usize>() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }
}

async fn write(mut to: WriteHalf<Box<dyn Tls>>, script: &Script) {
    let bytes = script.bytes();
    let mut rest = &bytes[..];
    for piece in &script.pieces {
        let (now, later) = rest.split_at(*piece);
        rest = later;
        if script.vectored {
            let third = now.len() / 3;
            let mut slices = [IoSlice::new(&now[..third]), IoSlice::new(&[]), IoSlice::new(&now[third..])];
            let mut slices = &mut slices[..];
            let mut left = now.len();
            while left > 0 {
                let n = to.write_vectored(slices).await.unwrap();
                left -= n;
                IoSlice::advance_slices(&mut slices, n);
            }
        } else {
            to.write_all(now).await.unwrap();
        }
        if script.flush_each {
            to.flush().await.unwrap();
        }
    }
    to.shutdown().await.unwrap();
}

async fn read(mut from: ReadHalf<Box<dyn Tls>>, buffer: usize) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), vec![0; buffer]);
    loop {
        match from.read(&mut buf).await.unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

async fn exchange(a: Box<dyn Tls>, b: Box<dyn Tls>, up: &Script, down: &Script) {
    let ((a_read, a_write), (b_read, b_write)) = (split(a), split(b));
    let (at_a, at_b, (), ()) = tokio::join!(
        read(a_read, up.read_buffer),
        read(b_read, down.read_buffer),
        write(a_write, up),
        write(b_write, down)
    );
    assert!(at_b == up.bytes(), "what went up is what came");
    assert!(at_a == down.bytes(), "what went down is what came");
}

const ROLES: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];

#[tokio::test]
async fn tiny_transports_carry_all_both_ways() {
    for (dials, accepts) in ROLES {
        for capacity in [1, 2, 7, 100] {
            let (a, b) = pair(dials, accepts, capacity).await;
            let up = Script::new(vec![1, 0, 17_000, 5, 3_000], 1);
            exchange(a, b, &up, &Script::new(vec![20_000, 9], 333)).await;
        }
    }
}

#[tokio::test]
async fn megabytes_pass_with_buffers_of_every_size() {
    for (dials, accepts) in ROLES {
        for read_buffer in [100, 16 * 1024, 64 * 1024, 256 * 1024] {
            let (a, b) = pair(dials, accepts, 300_000).await;
            let up = Script::new(vec![1_000_000, 3, 400_000], read_buffer);
            exchange(a, b, &up, &Script { vectored: true, ..up.clone() }).await;
        }
    }
}

#[tokio::test]
async fn half_closes_pass_in_both_directions() {
    for (dials, accepts) in ROLES {
        for swapped in [false, true] {
            let (a, b) = pair(dials, accepts, 50).await;
            let (mut first, mut second) = if swapped { (b, a) } else { (a, b) };
            let asking = async {
                first.write_all(b"question").await.unwrap();
                first.shutdown().await.unwrap();
                let mut answer = Vec::new();
                first.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, b"answer");
                assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0, "the end stays the end");
                assert!(first.write_all(b"more").await.is_err() || dials != accepts, "nothing follows close_notify");
            };
            let answering = async {
                let mut question = Vec::new();
                second.read_to_end(&mut question).await.unwrap();
                assert_eq!(question, b"question");
                second.write_all(b"answer").await.unwrap();
                second.shutdown().await.unwrap();
            };
            tokio::join!(asking, answering);
        }
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_told_each_time() {
    let (mut ours, mut transport, mut peer) = taken_apart(10_000).await;
    io::Write::write_all(&mut peer.writer(), b"cut").unwrap();
    transport.write_all(&sealed(&mut peer)).await.unwrap();
    drop(transport);
    let mut read = Vec::new();
    assert_eq!(ours.read_to_end(&mut read).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read, b"cut");
    assert_eq!(ours.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_buffer_that_already_holds_something_gets_more() {
    let (mut ours, mut transport, mut peer) = taken_apart(10_000).await;
    io::Write::write_all(&mut peer.writer(), b"a whole record").unwrap();
    transport.write_all(&sealed(&mut peer)).await.unwrap();
    let mut bytes = [0; 7];
    let mut buf = ReadBuf::new(&mut bytes);
    buf.put_slice(b"had ");
    let read = Pin::new(&mut ours).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
    assert!(read.is_ready());
    assert_eq!(buf.filled(), b"had a w");
}

#[tokio::test]
async fn nothing_is_taken_while_something_is_unsent() {
    let (mut ours, mut transport, mut peer) = taken_apart(5000).await;
    let bytes = vec![7; 1 << 20];
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(taken)) = Pin::new(&mut ours).poll_write(&mut cx, &bytes) else { panic!("takes a batch") };
    assert_eq!(taken, buffer::BATCH);
    assert!(Pin::new(&mut ours).poll_write(&mut cx, &bytes).is_pending());
    assert!(Pin::new(&mut ours).poll_flush(&mut cx).is_pending());
    let mut received = 0;
    let receiving = async {
        let mut buf = vec![0; 4096];
        while received < taken {
            let n = transport.read(&mut buf).await.unwrap();
            let mut rest = &buf[..n];
            while !rest.is_empty() {
                peer.read_tls(&mut rest).unwrap();
                peer.process_new_packets().unwrap();
                let mut plain = vec![0; 1 << 15];
                while let Ok(n @ 1..) = io::Read::read(&mut peer.reader(), &mut plain) {
                    received += n;
                }
            }
        }
    };
    let (flushed, ()) = tokio::join!(ours.flush(), receiving);
    flushed.unwrap();
    assert_eq!((received, ours.held()), (taken, 0));
}

fn script() -> impl Strategy<Value = Script> {
    let piece = prop_oneof![0..40usize, 16_300..16_500usize, 0..70_000usize];
    let pieces = prop::collection::vec(piece, 0..6);
    (pieces, any::<bool>(), any::<bool>(), prop_oneof![1..50usize, 1_000..300_000usize])
        .prop_map(|(pieces, vectored, flush_each, read_buffer)| Script { pieces, vectored, flush_each, read_buffer })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_script_passes(
        up in script(),
        down in script(),
        capacity in prop_oneof![30..200usize, 1_000..400_000usize],
        roles in 0..ROLES.len(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (a, b) = pair(ROLES[roles].0, ROLES[roles].1, capacity).await;
            exchange(a, b, &up, &down).await;
        });
    }
}
