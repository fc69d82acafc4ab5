//! The client of the demo: requests to the service through the client's sidecar, which it uses as an HTTP proxy, or with
//! `--transparent` knows nothing of.
//!
//! It speaks plain HTTP/1.1 on keep-alive connections and asks a proxy for an absolute URI, as any client with `HTTP_PROXY`
//! does. It never has more requests in flight than connections, and never repeats one that may have been delivered.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    app::VERSION_HEADER,
    namespaces::Namespace,
    stats::{RequestOutcome, Rolling},
};

/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How far behind its rate the load may fall before it gives up catching up: a stall must not end in a burst.
const MAX_LAG: Duration = Duration::from_secs(1);

/// Bytes of an answer that are read; the demo's are below a hundred.
const MAX_BODY: usize = 64 * 1024;

/// Characters of a failed answer's body that are shown.
const MAX_REASON: usize = 160;

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    /// Where connections go: the client's sidecar as an HTTP proxy, or the Service, if [`LoadPlan::namespace`] is there.
    pub to: SocketAddr,
    /// The client's pod, whose connections are redirected to its sidecar.
    pub namespace: Option<Arc<Namespace>>,
    /// What is asked for, such as `http://web.demo/`.
    pub uri: Uri,
    /// Connections, and so requests at once.
    pub connections: usize,
    /// Requests a second; `None`: as fast as answers come.
    pub rate: Option<f64>,
    /// How many; `None`: without end.
    pub requests: Option<u64>,
}

/// Where outcomes are counted.
pub(super) type Results = Arc<Mutex<Rolling>>;

/// Sends what the plan says and counts each outcome. Ends when all have ended; dropping it cancels what is in flight.
pub(super) async fn run(plan: LoadPlan, results: Results) {
    let pacer = Arc::new(Mutex::new(Pacer::new(plan.rate, plan.requests, Instant::now())));
    let mut workers = JoinSet::new();
    let plan = Arc::new(plan);
    for _ in 0..plan.connections {
        workers.spawn(work(plan.clone(), pacer.clone(), results.clone()));
    }
    while workers.join_next().await.is_some() {}
}

/// One request on a connection of its own: whether the service answers 200 through the mesh.
pub(super) async fn probe(plan: &LoadPlan) -> anyhow::Result<()> {
    let outcome = Connection::default().request(plan).await;
    outcome.failure.map_or(Ok(()), |failure| Err(anyhow!(failure)))
}

/// Says when each request is due. Not at fixed times of a clock but one interval after the other, so that a stall of
/// more than [`MAX_LAG`] is skipped.
struct Pacer {
    interval: Option<Duration>,
    due: Instant,
    left: Option<u64>,
}

impl Pacer {
    fn new(rate: Option<f64>, requests: Option<u64>, now: Instant) -> Self {
        let interval = rate.and_then(|r| Duration::try_from_secs_f64(r.recip()).ok());
        Self { interval, due: now, left: requests }
    }

    /// When the next request is due; `None` when there are no more.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        let Some(interval) = self.interval else { return Some(now) };
        if now.saturating_duration_since(self.due) > MAX_LAG {
            self.due = now;
        }
        let due = self.due;
        self.due += interval;
        Some(due)
    }
}

async fn work(plan: Arc<LoadPlan>, pacer: Arc<Mutex<Pacer>>, results: Results) {
    let mut connection = Connection::default();
    loop {
        let now = Instant::now();
        let Some(due) = pacer.lock().unwrap_or_else(PoisonError::into_inner).next(now) else { return };
        // A request that is late counts from when it was due, or a slow service would hide behind its own queue; one
        // that is early counts from when it is sent, so that the timer's grain is not counted.
        let mut late = now.saturating_duration_since(due);
        if due > now {
            sleep_until(due).await;
            late = Duration::ZERO;
        }
        let mut outcome = connection.request(&plan).await;
        outcome.latency_us += late.as_micros() as u64;
        results.lock().unwrap_or_else(PoisonError::into_inner).record(&outcome);
    }
}

/// A keep-alive connection to the sidecar that opens when needed.
#[derive(Default)]
struct Connection {
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Connection {
    async fn request(&mut self, plan: &LoadPlan) -> RequestOutcome {
        let begin = Instant::now();
        let answered = timeout(REQUEST_TIMEOUT, self.exchange(plan)).await;
        let (version, failure) = match answered {
            Ok(Ok((version, failure))) => (version, failure),
            Ok(Err(error)) => (None, Some(format!("{error:#}"))),
            Err(_) => (None, Some(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
        };
        if failure.is_some() {
            self.sender = None;
        }
        RequestOutcome { version, failure, latency_us: begin.elapsed().as_micros() as u64 }
    }

    /// The version that answered, and why the answer counts as failed.
    async fn exchange(&mut self, plan: &LoadPlan) -> anyhow::Result<(Option<String>, Option<String>)> {
        let response = self.send(plan).await?;
        let version = response.headers().get(VERSION_HEADER).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|e| anyhow!("the answer broke off: {e}"))?.to_bytes();
        let failure = (status != StatusCode::OK).then(|| {
            let reason: String =
                String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
            format!("{status}: {reason}")
        });
        Ok((version, failure))
    }

    /// Sends the request; once more, on a new connection, if the old one was closed before it took the request.
    async fn send(&mut self, plan: &LoadPlan) -> anyhow::Result<Response<Incoming>> {
        for reused in [true, false] {
            let mut sender = match self.sender.take().filter(|s| reused && !s.is_closed()) {
                Some(sender) => sender,
                None => connect(plan).await?,
            };
            if sender.ready().await.is_err() {
                continue;
            }
            let host = plan.uri.authority().map_or("", |a| a.as_str());
            let target = match &plan.namespace {
                None => plan.uri.clone(),
                Some(_) => Uri::try_from(plan.uri.path())?,
            };
            let request = Request::get(target).header(header::HOST, host).body(Empty::new())?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => {
                    if error.take_message().is_none() {
                        return Err(error.into_error()).context("the client's sidecar gave no answer");
                    }
                }
            }
        }
        bail!("the client's sidecar closes its connections at once");
    }
}

async fn connect(plan: &LoadPlan) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let to = plan.to;
    let stream = match &plan.namespace {
        None => TcpStream::connect(to).await.with_context(|| format!("the client's sidecar is not at {to}"))?,
        // A socket stays in the namespace in which it was made.
        Some(namespace) => {
            let socket = namespace.within(TcpSocket::new_v4)??;
            socket.connect(to).await.with_context(|| format!("the client cannot reach {to}"))?
        }
    };
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; its error is also the request's.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::{server::conn::http1 as server, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_pacer_keeps_its_rate_and_ends() {
        let now = Instant::now();
        let mut pacer = Pacer::new(Some(100.0), Some(3), now);
        let due: Vec<_> = std::iter::from_fn(|| pacer.next(now)).map(|d| d - now).collect();
        assert_eq!(due, [0, 10, 20].map(Duration::from_millis));
    }

    #[test]
    fn the_pacer_does_not_make_up_for_a_long_stall() {
        let now = Instant::now();
        let mut pacer = Pacer::new(Some(100.0), None, now);
        pacer.next(now);
        let later = now + Duration::from_secs(60);
        assert_eq!(pacer.next(later), Some(later));
        assert_eq!(pacer.next(later), Some(later + Duration::from_millis(10)));
    }

    /// A sidecar that answers every third request with 503 and closes each connection after two.
    async fn stand_in(asked: Arc<AtomicUsize>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (asked, on_connection) = (asked.clone(), AtomicUsize::new(0));
                let service = service_fn(move |request: Request<Incoming>| {
                    assert_eq!(request.uri().to_string(), "http://web.demo/", "absolute form");
                    assert_eq!(request.headers()[header::HOST], "web.demo");
                    let n = asked.fetch_add(1, Ordering::SeqCst) + 1;
                    let last = on_connection.fetch_add(1, Ordering::SeqCst) == 1;
                    let mut response = Response::new(Full::new(Bytes::from_static(b"why")));
                    if n.is_multiple_of(3) {
                        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    } else {
                        response.headers_mut().insert(VERSION_HEADER, "v1".parse().unwrap());
                    }
                    if last {
                        response.headers_mut().insert(header::CONNECTION, "close".parse().unwrap());
                    }
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    #[tokio::test]
    async fn exactly_as_many_requests_as_asked_for_are_sent_and_each_is_counted() {
        let asked = Arc::new(AtomicUsize::new(0));
        let proxy = stand_in(asked.clone()).await;
        let uri = Uri::from_static("http://web.demo/");
        let results = Results::default();
        run(
            LoadPlan { to: proxy, namespace: None, uri, connections: 4, rate: None, requests: Some(90) },
            results.clone(),
        )
        .await;
        let total = &results.lock().unwrap().total;
        assert_eq!((asked.load(Ordering::SeqCst), total.all.requests), (90, 90));
        assert_eq!((total.all.failed, total.requests("v1")), (30, 60));
        assert_eq!(total.last_failure.as_deref(), Some("503 Service Unavailable: why"));
    }

    #[tokio::test]
    async fn a_sidecar_that_is_not_there_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let uri = Uri::from_static("http://web.demo/");
        let plan = LoadPlan { to: free, namespace: None, uri, connections: 1, rate: None, requests: Some(1) };
        assert!(probe(&plan).await.unwrap_err().to_string().contains("the client's sidecar is not at"));
    }
}
