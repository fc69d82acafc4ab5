//! Against a small DNS server of real datagrams on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, time::Instant};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

use super::*;

const CLUSTER: &str = "nameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local node.example\n\
                       options ndots:5\n";
const IDENTITY: &str = "mesh-identity.mesh-system.svc.cluster.local";

/// What the server does about a name and a family (`true`: IPv6).
#[derive(Clone, Copy)]
enum Answer {
    Addresses(&'static [&'static str]),
    Code(ResponseCode),
    Silence,
}

struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&str, bool) -> Answer + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (socket.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let log = asked.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                if let Some(response) = respond(&query, &answer, &log) {
                    socket.send_to(&response.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        Self { port, asked, task }
    }

    fn names(&self) -> Names {
        Names { instead: Some((CLUSTER.to_owned(), self.port)), ..Names::default() }
    }

    /// The questions so far, one a name and family, without those that were repeated.
    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

fn respond(query: &Message, answer: &impl Fn(&str, bool) -> Answer, log: &Mutex<Vec<String>>) -> Option<Message> {
    let question = query.queries.first().unwrap().clone();
    let name = question.name().to_string().to_ascii_lowercase();
    let is_v6 = question.query_type() == RecordType::AAAA;
    log.lock().unwrap().push(format!("{} {name}", question.query_type()));
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.add_query(question.clone());
    match answer(&name, is_v6) {
        Answer::Silence => return None,
        Answer::Code(code) => response.metadata.response_code = code,
        Answer::Addresses(addresses) => {
            for ip in addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()) {
                response.add_answer(Record::from_rdata(question.name().clone(), 30, RData::from(ip)));
            }
        }
    }
    Some(response)
}

/// Knows one name.
fn only(known: &'static str, v4: Answer, v6: Answer) -> impl Fn(&str, bool) -> Answer + Send {
    move |name, is_v6| match name.strip_suffix('.') == Some(known) {
        true if is_v6 => v6,
        true => v4,
        false => Answer::Code(ResponseCode::NXDomain),
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_full_name_costs_one_round_trip_in_spite_of_ndots() {
    let server = Server::start(only(IDENTITY, Answer::Addresses(&["10.96.0.7"]), Answer::Addresses(&[]))).await;
    assert_eq!(server.names().resolve(IDENTITY).await.unwrap(), ips(&["10.96.0.7"]));
    assert_eq!(server.asked(), [format!("A {IDENTITY}."), format!("AAAA {IDENTITY}.")]);
}

#[tokio::test]
async fn both_families_with_the_older_first() {
    let server = Server::start(only(IDENTITY, Answer::Addresses(&["10.0.0.1"]), Answer::Addresses(&["fd00::1"]))).await;
    assert_eq!(server.names().resolve(IDENTITY).await.unwrap(), ips(&["10.0.0.1", "fd00::1"]));
    let only_v6 = Server::start(only(IDENTITY, Answer::Addresses(&[]), Answer::Addresses(&["fd00::2"]))).await;
    assert_eq!(only_v6.names().resolve(IDENTITY).await.unwrap(), ips(&["fd00::2"]));
}

#[tokio::test]
async fn a_family_that_nobody_answers_about_costs_little() {
    let server = Server::start(only(IDENTITY, Answer::Addresses(&["10.0.0.1"]), Answer::Silence)).await;
    let start = Instant::now();
    assert_eq!(server.names().resolve(IDENTITY).await.unwrap(), ips(&["10.0.0.1"]));
    assert!(start.elapsed() < RESOLVE_LIMIT / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn short_names_are_found_in_the_search_domains_in_their_order() {
    let server = Server::start(|name, is_v6| match name {
        _ if is_v6 => Answer::Addresses(&[]),
        "web.shop.svc.cluster.local." => Answer::Addresses(&["10.0.0.1"]),
        "web.node.example." => Answer::Addresses(&["192.0.2.1"]),
        "mesh-identity.mesh-system.svc.cluster.local." => Answer::Addresses(&["10.0.0.2"]),
        _ => Answer::Code(ResponseCode::NXDomain),
    })
    .await;
    let names = server.names();
    assert_eq!(names.resolve("web").await.unwrap(), ips(&["10.0.0.1"]));
    assert_eq!(names.resolve("mesh-identity.mesh-system.svc").await.unwrap(), ips(&["10.0.0.2"]));
}

#[tokio::test]
async fn a_server_that_is_slow_about_the_name_as_written_does_not_hold_up_the_search() {
    let server = Server::start(|name, is_v6| match name {
        "mesh-identity.mesh-system.svc." => Answer::Silence,
        "mesh-identity.mesh-system.svc.cluster.local." if !is_v6 => Answer::Addresses(&["10.0.0.2"]),
        _ => Answer::Code(ResponseCode::NXDomain),
    })
    .await;
    let start = Instant::now();
    assert_eq!(server.names().resolve("mesh-identity.mesh-system.svc").await.unwrap(), ips(&["10.0.0.2"]));
    assert!(start.elapsed() >= HEAD_START && start.elapsed() < RESOLVE_LIMIT / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn answers_are_kept_and_failures_are_not() {
    let exists = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = exists.clone();
    let server = Server::start(move |_, is_v6| match now.load(std::sync::atomic::Ordering::SeqCst) {
        true if !is_v6 => Answer::Addresses(&["10.0.0.9"]),
        _ => Answer::Code(ResponseCode::NXDomain),
    })
    .await;
    let names = server.names();
    assert!(names.resolve(IDENTITY).await.unwrap_err().is_no_such_name());
    exists.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(names.resolve(IDENTITY).await.unwrap(), ips(&["10.0.0.9"]));
    let so_far = server.asked.lock().unwrap().len();
    names.resolve(IDENTITY).await.unwrap();
    assert_eq!(server.asked.lock().unwrap().iter().skip(so_far).filter(|q| q.starts_with("A ")).count(), 0);
}

#[tokio::test]
async fn the_last_addresses_outlive_the_name_server() {
    let server = Server::start(only(IDENTITY, Answer::Addresses(&["10.0.0.9"]), Answer::Addresses(&[]))).await;
    let mut names = server.names();
    names.resolve(IDENTITY).await.unwrap();
    drop(server);
    // As if the answer's time were over: nothing is kept, and nobody answers.
    *names.resolver.lock().unwrap() = None;
    let silent = Server::start(|_, _| Answer::Silence).await;
    names.instead = Some((CLUSTER.to_owned(), silent.port));
    assert_eq!(names.resolve(IDENTITY).await.unwrap(), ips(&["10.0.0.9"]));
    let error = names.resolve("never.asked.before").await.unwrap_err();
    assert_eq!(error.reason(), &Reason::NoAnswer(RESOLVE_LIMIT));
}

#[tokio::test]
async fn errors_name_the_host_the_servers_and_the_next_step() {
    let none = Server::start(|_, _| Answer::Code(ResponseCode::NXDomain)).await;
    let said = none.names().resolve("web.gone.svc").await.unwrap_err().to_string();
    for part in ["\"web.gone.svc\"", "127.0.0.1", "web.gone.svc.cluster.local.", "does the Service exist"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let failing = Server::start(|_, _| Answer::Code(ResponseCode::ServFail)).await;
    let said = failing.names().resolve(IDENTITY).await.unwrap_err().to_string();
    assert!(said.contains("Server Failure") && said.contains("127.0.0.1") && said.contains("logs"), "{said}");
    let silent = Server::start(|_, _| Answer::Silence).await;
    let said = silent.names().resolve(IDENTITY).await.unwrap_err().to_string();
    assert!(said.contains("no answer from 127.0.0.1 within 1.5s") && said.contains("UDP port 53"), "{said}");
    let nobody = Names { instead: Some(("search x\n".into(), 1)), ..Names::default() };
    let said = nobody.resolve(IDENTITY).await.unwrap_err().to_string();
    assert!(said.contains("/etc/resolv.conf") && said.contains("dnsPolicy"), "{said}");
}

#[tokio::test]
async fn addresses_and_localhost_need_no_server() {
    let nobody = Names { instead: Some((String::new(), 1)), ..Names::default() };
    assert_eq!(nobody.resolve("192.0.2.7").await.unwrap(), ips(&["192.0.2.7"]));
    assert_eq!(nobody.resolve("fd00::7").await.unwrap(), ips(&["fd00::7"]));
    assert_eq!(nobody.resolve("localhost").await.unwrap(), ips(&["127.0.0.1", "::1"]));
    assert_eq!(nobody.resolve("a.LocalHost.").await.unwrap(), ips(&["127.0.0.1", "::1"]));
}

#[tokio::test]
async fn connects_to_the_address_that_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Of the addresses of the name only the second listens.
    let server =
        Server::start(only(IDENTITY, Answer::Addresses(&["127.0.0.2", "127.0.0.1"]), Answer::Addresses(&[]))).await;
    let names = server.names();
    let address: Address = format!("{IDENTITY}:{port}").parse().unwrap();
    let stream = names.connect(&address).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], port)));
    drop((stream, listener));
    let said = names.connect(&address).await.unwrap_err().to_string();
    assert!(said.contains(IDENTITY) && said.contains("127.0.0.1: ") && said.contains("127.0.0.2: "), "{said}");
}

#[test]
fn few_names_have_their_last_addresses_kept() {
    let names = Names::default();
    (0..2 * LAST_GOOD_KEPT).for_each(|n| names.remember(&format!("name-{n}"), &ips(&["10.0.0.9"])));
    names.remember("name-0", &ips(&["10.0.0.10"]));
    let kept = names.last_good.lock().unwrap();
    assert_eq!((kept.len(), &kept["name-0"]), (LAST_GOOD_KEPT, &ips(&["10.0.0.10"])));
}
