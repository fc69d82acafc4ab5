//! What one caller, and all callers of a namespace, make the controller hold.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;

use futures_util::FutureExt;
use http_body_util::{BodyExt, Full, StreamBody};

use super::*;

fn message(bytes: usize) -> tonic::body::Body {
    tonic::body::Body::new(Full::new(Bytes::from(vec![7; bytes])))
}

#[tokio::test]
async fn a_message_arrives_whole_and_is_charged_until_it_was_taken() {
    let account = Arc::new(Account::default());
    let mut body = Pieces::new(message(3 * PIECE + 1), account.clone());
    let mut taken = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= PIECE);
        taken.extend_from_slice(&data);
        assert!(account.unread.get() == 3 * PIECE + 1);
    }
    assert_eq!((taken.len(), account.unread.get()), (3 * PIECE + 1, 0));
    let mut given_up = Pieces::new(message(3 * PIECE), account.clone());
    given_up.frame().await;
    drop(given_up);
    assert_eq!(account.unread.get(), 0);
}

/// The last of what is unread gets nothing until another goes.
async fn the_last_waits_for_another(unread: &mut Vec<Pieces>) {
    let mut last = unread.pop().unwrap();
    let waits = tokio::spawn(async move { last.frame().await.is_some() });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    unread.pop();
    assert!(waits.await.unwrap());
}

#[tokio::test]
async fn who_leaves_too_much_unread_gets_nothing_more_until_it_reads() {
    let account = Arc::new(Account::default());
    let mut unread: Vec<_> = (0..9).map(|_| Pieces::new(message(1024 * 1024), account.clone())).collect();
    let begun = unread.iter_mut().filter_map(|body| body.frame().now_or_never()).count();
    assert_eq!(begun, MAX_UNREAD / 1024 / 1024);
    the_last_waits_for_another(&mut unread).await;
    unread.clear();
    assert_eq!(account.unread.get(), 0);
}

#[tokio::test]
async fn what_ends_ends() {
    let trailers = Frame::<Bytes>::trailers(http::HeaderMap::new());
    let frames = futures_util::stream::iter([Ok::<_, Status>(trailers)]);
    let mut body = Pieces::new(tonic::body::Body::new(StreamBody::new(frames)), Arc::default());
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert!(body.frame().await.is_none());
}

#[test]
fn streams_of_a_caller_are_bounded_and_its_account_goes_with_it() {
    let accounts = Arc::new(Accounts::default());
    let caller = |last| Caller { identity: None, source: Source::from(IpAddr::from([10, 0, 0, last])) };
    let account = accounts.of(&caller(1));
    assert!(Arc::ptr_eq(&account, &accounts.of(&caller(1))), "of all its connections");
    let ends = CancellationToken::new();
    let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| account.open_stream(&ends).unwrap()).collect();
    assert_eq!(account.open_stream(&ends).unwrap_err().code(), tonic::Code::ResourceExhausted);
    accounts.of(&caller(2)).open_stream(&ends).unwrap();
    open.pop();
    account.open_stream(&ends).unwrap();
    drop((open, account));
    assert!(accounts.table.lock().unwrap().callers.is_empty());
}

fn meshed(namespace: &str, last: u8) -> Caller {
    let identity = Identity::new("cluster.local", namespace, "web").ok();
    Caller { identity, source: Source::from(IpAddr::from([10, 0, 0, last])) }
}

#[test]
fn of_too_many_streams_the_namespace_that_holds_most_loses_its_oldest() {
    let accounts = Arc::new(Accounts::default());
    let open = |namespace: &str, last, count: usize| -> Vec<_> {
        let account = accounts.of(&meshed(namespace, last));
        let one = || {
            let ends = CancellationToken::new();
            (account.open_stream(&ends).unwrap(), ends)
        };
        (0..count).map(|_| one()).collect()
    };
    let ended = |held: &[Vec<(OpenStream, CancellationToken)>]| {
        held.iter().flatten().filter(|(_, ends)| ends.is_cancelled()).count()
    };
    // More pods than all streams are for, with all that each may open.
    let pods = STREAMS.total / MAX_STREAMS + 1;
    let tenant: Vec<_> = (0..pods).map(|last| open("tenant", last as u8, MAX_STREAMS)).collect();
    assert_eq!(ended(&tenant), pods * MAX_STREAMS - STREAMS.each - STREAMS.shared);
    let shop = [open("shop", 200, 2_000)];
    assert_eq!(ended(&shop), 0);
    assert!(tenant[0].iter().all(|(_, ends)| ends.is_cancelled()), "the oldest");
    drop((tenant, shop));
    let table = accounts.table.lock().unwrap();
    assert!(table.callers.is_empty() && table.namespaces.is_empty() && accounts.streams.taken() == 0);
}

#[tokio::test]
async fn what_the_callers_of_a_namespace_leave_unread_holds_up_no_other_namespace() {
    let accounts = Arc::new(Accounts::default());
    let pods: Vec<_> = (0..9).map(|last| accounts.of(&meshed("tenant", last))).collect();
    let mut unread: Vec<_> = pods.iter().map(|pod| Pieces::new(message(MAX_UNREAD), pod.clone())).collect();
    let begun = unread.iter_mut().filter_map(|body| body.frame().now_or_never()).count();
    assert_eq!(begun, MAX_UNREAD_OF_NAMESPACE / MAX_UNREAD);
    let mut other = Pieces::new(message(1), accounts.of(&meshed("shop", 100)));
    assert!(other.frame().now_or_never().is_some());
    the_last_waits_for_another(&mut unread).await;
}
