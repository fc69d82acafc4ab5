//! What viewers are told, what they miss, and when they are forgotten.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::rc::Rc;

use http::{HeaderValue, Request, StatusCode, uri::Authority};
use serde_json::Value;
use tokio::time::{Duration, timeout};

use super::*;
use crate::{
    access_log::tests::queue,
    metrics::{Direction, DirectionMetrics},
    record::{Readers, Record},
    worker::tests::parts,
};

/// One worker's readers, and those who look.
struct Looked {
    taps: Arc<Taps>,
    readers: Rc<Readers>,
    direction: Rc<DirectionMetrics>,
}

impl Looked {
    fn new() -> Self {
        let (_, tls, _, metrics) = parts(&[]);
        let readers = Rc::new(Readers::new(queue(&metrics).0));
        let direction =
            Rc::new(DirectionMetrics::new(&metrics, &tls.held, Direction::Inbound, "shop/web-0", readers.clone()));
        Self { taps: Arc::default(), readers, direction }
    }

    fn look(&self, query: &str) -> Tap {
        let tap = self.taps.add(Wish::read(query).unwrap()).unwrap();
        self.follow();
        tap
    }

    /// As a worker does.
    fn follow(&self) {
        self.readers.show(self.taps.0.borrow().clone());
    }

    fn begin(&self, path: &str, headers: &[(&'static str, &'static str)]) -> Rc<Record> {
        let record = Record::request(&self.direction);
        let mut request = Request::get(path).body(()).unwrap();
        headers
            .iter()
            .for_each(|(name, value)| drop(request.headers_mut().insert(*name, HeaderValue::from_static(value))));
        record.asked(&request, Some(&Authority::from_static("web.shop:80")));
        record
    }

    fn end(&self, path: &str, status: u16) {
        let record = self.begin(path, &[("cookie", "session=secret"), ("x-user", "ada")]);
        record.answered(StatusCode::from_u16(status).unwrap(), None);
        record.ended();
    }
}

/// What a viewer is told until nothing comes.
async fn told(tap: &mut Tap) -> Vec<Value> {
    let (pieces, _read) = mpsc::channel(1);
    let mut all = String::new();
    while let Ok(Some(lines)) = timeout(Duration::from_millis(1_500), tap.lines(&pieces)).await {
        all += &lines;
    }
    all.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn each<'t>(told: &'t [Value], name: &str) -> Vec<&'t Value> {
    told.iter().map(|event| &event[name]).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_is_wanted_is_shown() {
    let looked = Looked::new();
    let mut tap = looked.look("path=/cart&status=5xx&class=failure&method=GET&direction=inbound");
    for (path, status) in [("/cart/1?a=1", 503), ("/cart/2", 200), ("/car", 503), ("/cart/3", 500)] {
        looked.end(path, status);
    }
    let told = told(&mut tap).await;
    assert_eq!(each(&told, "url.path"), ["/cart/1", "/cart/3"]);
    assert_eq!(each(&told, "phase"), ["end", "end"]);
    assert_eq!(each(&told, "http.response.status_code"), [503, 500]);
    assert!(!told.iter().any(|event| event.to_string().contains("secret") || event.to_string().contains("a=1")));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_noted_that_nobody_wants() {
    let looked = Looked::new();
    assert!(!looked.begin("/", &[]).is_drafted());
    let tap = looked.look("path=/cart");
    assert!(looked.begin("/cart", &[]).is_drafted());
    assert!(!looked.begin("/", &[]).is_drafted(), "not behind its head");
    Record::bytes(&looked.direction).forget();
    drop(tap);
    looked.follow();
    assert!(!looked.begin("/cart", &[]).is_drafted());
    let other = looked.look("direction=outbound");
    assert!(!Record::request(&looked.direction).is_drafted());
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn what_was_named_is_shown_to_who_named_it() {
    let looked = Looked::new();
    let mut naming = looked.look("attributes=url.query,http.request.header.x-user");
    let mut other = looked.look("");
    looked.end("/?a=1", 200);
    let (named, plain) = (told(&mut naming).await, told(&mut other).await);
    assert_eq!((&named[0]["url.query"], &named[0]["http.request.header.x-user"]), (&"a=1".into(), &"ada".into()));
    assert_eq!((&plain[0]["url.query"], &plain[0]["http.request.header.x-user"]), (&Value::Null, &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_rate_events_are_skipped_and_counted() {
    let looked = Looked::new();
    let mut tap = looked.look("rate=3");
    (0..10).for_each(|_| looked.end("/", 200));
    let first = told(&mut tap).await;
    assert_eq!(each(&first, "phase"), ["end", "end", "end", "skipped"]);
    assert_eq!(first[3]["count"], 7);
    looked.end("/", 200);
    assert_eq!(each(&told(&mut tap).await, "phase"), ["end"], "in another second");
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_loses_events_and_they_are_counted() {
    let looked = Looked::new();
    let mut tap = looked.look("rate=1000");
    (0..WAITING + 5).for_each(|_| looked.end("/", 200));
    let all = told(&mut tap).await;
    assert_eq!((all.len(), &all[WAITING]["count"]), (WAITING + 1, &5.into()));
    assert_eq!(all[WAITING]["phase"], "skipped");

    // Large ones use up the bytes before the number.
    let names: Vec<String> = (0..8).map(|n| format!("x-{n}")).collect();
    let named: Vec<String> = names.iter().map(|name| format!("http.request.header.{name}")).collect();
    let mut tap = looked.look(&format!("rate=1000&attributes={}", named.join(",")));
    let record = || {
        let record = Record::request(&looked.direction);
        let request = names.iter().fold(Request::get("/"), |request, name| request.header(name, "x".repeat(1_000)));
        record.asked(&request.body(()).unwrap(), Some(&Authority::from_static("web.shop:80")));
        record.ended();
    };
    (0..250).for_each(|_| record());
    let all = told(&mut tap).await;
    let shown = each(&all, "phase").iter().filter(|phase| **phase == "end").count();
    assert!((100..250).contains(&shown), "{shown}");
    assert_eq!(each(&all, "count").into_iter().filter_map(Value::as_u64).sum::<u64>() as usize, 250 - shown);
}

#[tokio::test(start_paused = true)]
async fn what_may_last_is_shown_while_it_is_open() {
    let looked = Looked::new();
    let (mut tap, mut failures) = (looked.look(""), looked.look("class=failure"));
    let call = looked.begin("/shop.Cart/Watch", &[("content-type", "application/grpc")]);
    call.opened();
    call.opened();
    let bytes = Record::bytes(&looked.direction);
    bytes.opened();
    let open = told(&mut tap).await;
    assert_eq!(each(&open, "phase"), ["open", "open"]);
    assert_eq!((&open[0]["rpc.method"], &open[0]["mesh.class"]), (&"shop.Cart/Watch".into(), &Value::Null));
    assert_eq!(open[0]["mesh.direction"], "inbound");
    drop((call, bytes));
    assert_eq!(each(&told(&mut tap).await, "mesh.class"), ["cancelled", "failure"]);
    assert_eq!(each(&told(&mut failures).await, "phase"), ["end"], "how it ends is not known before");
}

#[tokio::test(start_paused = true)]
async fn so_many_may_look_and_who_reads_nothing_more_is_forgotten() {
    let looked = Looked::new();
    let mut all: Vec<Tap> = (0..MAX_VIEWERS).map(|_| looked.look("")).collect();
    assert_eq!(looked.taps.page(None).status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(looked.taps.page(Some("rate=0")).status(), StatusCode::BAD_REQUEST);
    // The last of them sees what it should.
    looked.end("/", 200);
    assert_eq!(told(&mut all[MAX_VIEWERS - 1]).await.len(), 1);
    // The connection is cut.
    let (pieces, read) = mpsc::channel(1);
    drop(read);
    all.remove(0).show(pieces).await;
    assert_eq!(looked.taps.0.borrow().len(), MAX_VIEWERS - 1);
    assert_eq!(looked.taps.page(None).status(), StatusCode::OK);
}
