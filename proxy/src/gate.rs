//! `mesh-proxy await`: the startup gate. Blocks until this pod's proxy is ready, so that no container of the pod starts
//! before its first request can be served.
//!
//! It asks the page that kubelet asks and decides nothing itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    time::{Instant, interval, timeout, timeout_at},
};

use crate::{
    app::EXIT_USAGE,
    config::{ConfigError, Env, ProcessEnv, duration, metrics_listen},
};

/// Between two questions: far less than a container's start, and no load.
const PAUSE: Duration = Duration::from_millis(3);
/// One answer; a proxy that is this slow is asked again.
const ANSWER: Duration = Duration::from_secs(1);
/// The answer is a line; what is longer is not it.
const MAX_ANSWER: u64 = 4 * 1024;

/// How long for whom.
#[derive(Debug)]
struct Gate {
    /// `MESH_AWAIT`, 60s: how long the proxy may take to become ready.
    limit: Duration,
    /// Where its page is, from `MESH_METRICS_LISTEN`.
    page: SocketAddr,
}

/// Runs `mesh-proxy await` as the environment says.
pub(crate) fn main_from_env() -> ExitCode {
    let gate = match Gate::from_env(&ProcessEnv) {
        Ok(gate) => gate,
        Err(error) => {
            eprintln!("mesh-proxy await: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let waited = Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(gate.wait()));
    match waited {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            eprintln!("mesh-proxy await: the proxy is not ready after {:?}: {why}", gate.limit);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("mesh-proxy await: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Gate {
    fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        let listen = metrics_listen(env)?;
        let ip = match listen.ip() {
            // A listener on [::] takes IPv4 too, and without IPv6 it is one on 0.0.0.0.
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Ok(Self { limit: duration(env, "MESH_AWAIT", "60s")?, page: SocketAddr::new(ip, listen.port()) })
    }

    /// Asks until the page says ready; else what it said last.
    async fn wait(&self) -> Result<(), String> {
        let late = Instant::now() + self.limit;
        let mut last = String::from("it was not asked");
        let asking = async {
            let mut pause = interval(PAUSE);
            loop {
                pause.tick().await;
                match timeout(ANSWER, ask(self.page)).await {
                    Ok(Ok((true, _))) => return,
                    Ok(Ok((false, said))) => last = said,
                    Ok(Err(error)) => last = format!("{}: {error}; it may have ended: see its log", self.page),
                    Err(_) => last = format!("{}: no answer within {ANSWER:?}", self.page),
                }
            }
        };
        timeout_at(late, asking).await.map_err(|_| last)
    }
}

/// Whether the page answers 200, and its text.
async fn ask(page: SocketAddr) -> io::Result<(bool, String)> {
    let mut stream = TcpStream::connect(page).await?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: mesh-proxy\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let ready = answer.split(' ').nth(1) == Some("200");
    let said = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, text)| text);
    Ok((ready, said.trim().to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::tests::MapEnv;

    async fn page(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers.iter().chain(std::iter::repeat(answers.last().unwrap())) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    const NOT_YET: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: no certificate yet\n";
    const READY: &str = "HTTP/1.1 200 OK\r\n\r\nready\n";

    #[tokio::test]
    async fn it_opens_when_the_page_says_ready() {
        let page = page(&[NOT_YET, NOT_YET, READY]).await;
        assert_eq!(Gate { limit: Duration::from_secs(30), page }.wait().await, Ok(()));
    }

    #[tokio::test]
    async fn it_says_why_it_stays_closed() {
        let page = page(&[NOT_YET]).await;
        let waited = Gate { limit: Duration::from_millis(300), page }.wait().await;
        assert_eq!(waited, Err("not ready: no certificate yet".into()));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let waited = Gate { limit: Duration::from_millis(50), page: nobody }.wait().await;
        assert!(waited.unwrap_err().contains("127.0.0.1:1"));
    }

    #[test]
    fn the_page_is_where_the_proxy_listens() {
        for (listen, page) in [("[::]:4692", "127.0.0.1:4692"), ("127.0.0.1:9", "127.0.0.1:9"), ("[::1]:9", "[::1]:9")]
        {
            let gate = Gate::from_env(&MapEnv(HashMap::from([("MESH_METRICS_LISTEN", listen)]))).unwrap();
            assert_eq!(gate.page.to_string(), page);
            assert_eq!(gate.limit, Duration::from_secs(60));
        }
        assert!(Gate::from_env(&MapEnv(HashMap::from([("MESH_AWAIT", "soon")]))).is_err());
    }
}
