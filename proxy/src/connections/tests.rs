//! The table of connections, with clocks and sources of the tests.

use std::{net::Ipv4Addr, pin::pin, time::Duration};

use mesh_credentials::Proof;
use tokio::time::timeout;

use super::*;
use crate::config::{Config, tests::minimal};

fn limits() -> Limits {
    Config::from_env(&minimal()).unwrap().limits
}

fn table(limit: usize) -> Connections {
    Connections::new(&Limits { connections: limit, ..limits() }, [Gauge::noop(), Gauge::noop()])
}

fn from(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 1_000)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// What `shop/web` proves.
fn proof() -> Arc<Proof> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let anchor = root.self_signed(&key).unwrap();
    let mut leaf = rcgen::CertificateParams::default();
    let uri = "spiffe://cluster.local/ns/shop/sa/web";
    leaf.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &rcgen::Issuer::new(root, key)).unwrap();
    let roots = mesh_credentials::roots::Roots::new("cluster.local", &[anchor.der().clone()]).unwrap();
    mesh_credentials::tls::Held::new(roots).proof(&[leaf.der().clone()]).unwrap()
}

/// Long enough for whatever is ready, and not for what waits.
const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn beyond_the_limit_connections_wait_whichever_listener_they_come_to() {
    let table = table(2);
    let ((one, at_one), (two, at_two)) = (listener().await, listener().await);
    let mut clients = Vec::new();
    for at in [at_one, at_two, at_one, at_two] {
        clients.push(TcpStream::connect(at).await.unwrap());
    }
    let (first, second) = tokio::join!(table.accept(Side::Outbound, &one), table.accept(Side::Outbound, &two));
    let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
    let both = async { tokio::join!(table.accept(Side::Outbound, &one), table.accept(Side::Outbound, &two)) };
    assert!(timeout(MOMENT, both).await.is_err(), "the limit is for both together");
    assert!(timeout(MOMENT, table.accept(Side::Inbound, &one)).await.is_ok(), "each side has its own");
    let waiting = pin!(table.accept(Side::Outbound, &two));
    let ends = async { drop(second) };
    let (accepted, ()) = tokio::join!(waiting, ends);
    assert!(accepted.unwrap().is_ok(), "one that ended makes room");
    drop(first);
}

#[tokio::test]
async fn a_connection_keeps_its_place_as_long_as_anyone_holds_it() {
    let table = table(10);
    let entry = table.add(Side::Inbound, from("10.0.0.1"));
    let upgraded = entry.clone();
    drop(entry);
    assert_eq!(table.count(Side::Inbound), 1, "it left HTTP and lives");
    let none = table.none(Side::Inbound);
    let ends = async { drop(upgraded) };
    tokio::join!(none, ends);
    assert!(table.all().is_empty());
}

#[tokio::test]
async fn a_closed_side_takes_no_more_and_those_that_wait_hear_of_it() {
    let table = table(10);
    let (listener, _) = listener().await;
    let entry = table.add(Side::Inbound, from("10.0.0.1"));
    let other = table.add(Side::Outbound, from("127.0.0.1"));
    let closing = async { table.close(Side::Inbound) };
    let (accepted, (), ()) = tokio::join!(table.accept(Side::Inbound, &listener), entry.ending(), closing);
    assert!(accepted.is_none());
    assert_eq!((entry.asked(), other.asked()), (End::InOrder, End::Open));
}

#[tokio::test]
async fn an_end_only_becomes_more_urgent() {
    let table = table(10);
    let entry = table.add(Side::Inbound, from("10.0.0.1"));
    entry.end(End::InOrder);
    entry.ending().await;
    assert!(timeout(MOMENT, entry.cut()).await.is_err(), "in order is not at once");
    assert_eq!(entry.serve(async { 1 }).await, Some(1));
    let telling = async { table.end_where(End::Now, |e| e.peer().is_none()) };
    let (served, ()) = tokio::join!(entry.serve(std::future::pending::<()>()), telling);
    assert_eq!(served, None);
    entry.end(End::InOrder);
    assert_eq!(entry.asked(), End::Now);
}

#[tokio::test]
async fn who_proves_nothing_goes_first() {
    let limits = Limits { connections: 100, strangers: 50, unproved: 8, unfinished_bytes: 1_000, ..limits() };
    let table = Connections::new(&limits, [Gauge::noop(), Gauge::noop()]);
    let peer = table.add(Side::Inbound, from("10.0.0.9"));
    peer.proved(proof(), None);
    let hostile: Vec<_> = (0..20).map(|_| table.add(Side::Inbound, from("10.0.0.1"))).collect();
    let other = table.add(Side::Inbound, from("10.0.0.2"));
    let open = |entries: &[Rc<Entry>]| entries.iter().filter(|entry| entry.asked() == End::Open).count();
    assert_eq!((open(&hostile), other.asked(), peer.asked()), (7, End::Open, End::Open));
    assert_eq!((hostile[12].asked(), hostile[13].asked()), (End::Now, End::Open), "the oldest went");
    // Bytes that are not whole: a quarter for one source, and nothing of those that are served.
    hostile[19].hold(240);
    hostile[18].hold(9);
    assert_eq!(open(&hostile), 7);
    hostile[18].hold(20);
    assert_eq!((hostile[19].asked(), hostile[18].asked(), table.unfinished()), (End::Now, End::Open, 20));
    hostile[19].hold(250);
    assert_eq!((hostile[18].asked(), table.unfinished()), (End::Open, 20), "what is told to go counts no more");
    hostile[18].reached(Stage::Http);
    assert_eq!(table.unfinished(), 0);
    drop(hostile);
    assert_eq!((table.unfinished(), table.0.unproved.taken()), (0, 1));
}

#[tokio::test]
async fn strangers_leave_room_for_peers() {
    let limits = Limits { connections: 4, strangers: 2, ..limits() };
    let table = Connections::new(&limits, [Gauge::noop(), Gauge::noop()]);
    let stranger = || table.add(Side::Inbound, from("10.0.0.1"));
    let peer = || {
        let entry = table.add(Side::Inbound, from("10.0.0.1"));
        entry.proved(proof(), None);
        entry
    };
    let mut served = Vec::new();
    for entry in [stranger(), stranger(), peer()] {
        assert!(entry.admitted(MOMENT).await);
        served.push(entry);
    }
    let waits = stranger();
    assert!(!waits.admitted(MOMENT).await, "all places of strangers are taken");
    // One that turns out to be a peer gives back its place among strangers, and keeps that among all.
    served[0].proved(proof(), None);
    assert!(served[0].admitted(MOMENT).await && waits.admitted(MOMENT).await);
    assert!(!peer().admitted(MOMENT).await, "four are served");
    served.pop();
    assert!(peer().admitted(MOMENT).await);
}

#[tokio::test]
async fn those_that_are_to_end_are_known_by_time() {
    let table = table(10);
    let entries: Vec<_> = (0..4).map(|_| table.add(Side::Upstream, from("10.0.0.1"))).collect();
    let begun = std::time::Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    entries[0].ends_at(at(20), End::InOrder);
    assert!(timeout(MOMENT, table.earlier_end()).await.is_ok());
    entries[1].ends_at(at(30), End::InOrder);
    assert!(timeout(MOMENT, table.earlier_end()).await.is_err(), "one that ends later wakes nobody");
    entries[2].ends_at(at(10), End::Now);
    entries[3].ends_at(at(5), End::Now);
    entries[3].ends_at(at(40), End::Now);
    assert!(timeout(MOMENT, table.earlier_end()).await.is_ok());
    assert_eq!(table.next_end(), Some(at(10)));
    let ended: Vec<_> = table.take_ended(at(20)).iter().map(|(entry, end)| (entry.id, *end)).collect();
    assert_eq!(ended, [(2, End::Now), (0, End::InOrder)]);
    drop(entries);
    assert!(table.next_end().is_none() && table.take_ended(at(100)).is_empty(), "what is gone has no end to come");
}
