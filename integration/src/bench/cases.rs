//! The cases: which load, and which figures come of it.

use std::{
    net::SocketAddr,
    process::{Command as StdCommand, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use super::{
    parts,
    testbed::{Pair, PairUsage, Party, Testbed, local},
};
use crate::{harness::binary, load::Report};

/// Seconds of load before every measurement: connections, caches and policy are then there.
pub(super) const WARM_UP: f64 = 0.5;
/// Connections of the memory case.
const MANY: usize = 2_000;
/// One request in so many may fail.
const TOLERATED: u64 = 1_000;
/// Bytes of a MiB, in KiB.
const MIB: f64 = 1024.0;

/// The figures of one measurement, in the order of the table.
pub(super) type Figures = Vec<(&'static str, f64)>;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// HTTP/1.1, 1 KiB, 32 connections, as fast as it goes.
    Http1k,
    /// The same by a Service with a hundred rules in ten routes, the last of which matches; Envoy has one rule as ever.
    Rules,
    /// The same as the first with 64 KiB.
    Http64k,
    /// gRPC unary, 1 KiB there and back, 32 connections, as fast as it goes.
    Grpc,
    /// HTTP/1.1, 1 KiB, 1,000 requests per second whatever happens.
    Paced,
    /// One opaque stream from client to server.
    Tcp,
    /// One opaque connection for each request, each with a full mutual handshake.
    Connect,
    /// Memory of the outbound side.
    Memory,
    /// Our HTTP/1 without the rest of the proxy: 1 KiB, 32 connections, as fast as it goes.
    CodecHttp1,
    /// Our TLS records without the rest of the proxy: one connection, both directions.
    TlsRecord,
}

impl Case {
    /// Every case, in the order of the table.
    pub(super) fn all() -> Vec<Self> {
        let of_pairs =
            [Self::Http1k, Self::Rules, Self::Http64k, Self::Grpc, Self::Paced, Self::Tcp, Self::Connect, Self::Memory];
        of_pairs.into_iter().chain([Self::CodecHttp1, Self::TlsRecord]).collect()
    }

    /// The cases of these names; all if there are none.
    pub(super) fn select(names: &[String]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Self::all());
        }
        let find = |name: &String| Self::all().into_iter().find(|case| case.name() == name);
        let found = names.iter().map(|name| {
            let known = Self::all().into_iter().map(Self::name).collect::<Vec<_>>().join(", ");
            find(name).with_context(|| format!("no case {name}; there are {known}"))
        });
        found.collect()
    }

    /// The name on the command line and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1k => "http1_1k_c32",
            Self::Rules => "http1_1k_100rules",
            Self::Http64k => "http1_64k_c32",
            Self::Grpc => "grpc_unary_c32",
            Self::Paced => "http1_1k_1000rps",
            Self::Tcp => "tcp",
            Self::Connect => "connect",
            Self::Memory => "memory",
            Self::CodecHttp1 => "codec_http1",
            Self::TlsRecord => "tls_record",
        }
    }

    /// Whether it is the open loop, which takes its own time.
    pub(super) fn paced(self) -> bool {
        self == Self::Paced
    }

    /// Whether it is a part of the proxy, beside a library.
    pub(super) fn is_part(self) -> bool {
        matches!(self, Self::CodecHttp1 | Self::TlsRecord)
    }

    /// Who is measured, in which order.
    pub(super) fn order(self, round: usize) -> Vec<Party> {
        let mut pairs = match self.is_part() {
            true => vec![Party::Library, Party::Mesh],
            false => vec![Party::Envoy, Party::Before, Party::Mesh],
        };
        if !round.is_multiple_of(2) {
            pairs.reverse();
        }
        if self.is_part() {
            return pairs;
        }
        let has_direct = !matches!(self, Self::Connect | Self::Memory);
        has_direct.then_some(Party::Direct).into_iter().chain(pairs).collect()
    }

    /// Measures one party once.
    pub(super) async fn measure(self, testbed: &Testbed, party: Party, seconds: f64) -> Result<Figures> {
        match self {
            Self::CodecHttp1 => return parts::measure(parts::HTTP1, party, seconds).await,
            Self::TlsRecord => return parts::measure(parts::TLS, party, seconds).await,
            _ => {}
        }
        let Some(kind) = party.kind() else {
            let (report, _) = self.load(testbed.direct(), None, seconds).await?;
            return Ok(self.figures(&report, None));
        };
        let measure = async |pair: &mut Pair| {
            if self == Self::Memory {
                return memory(pair, seconds).await;
            }
            let (report, spent) = self.load(pair.ports, Some(pair), seconds).await?;
            Ok(self.figures(&report, spent))
        };
        testbed.with_pair(kind, measure).await
    }

    /// Warms up, then runs the load between two readings of both proxies.
    async fn load(
        self,
        ports: super::testbed::Ports,
        pair: Option<&Pair>,
        seconds: f64,
    ) -> Result<(Report, Option<PairUsage>)> {
        let (mode, target) = match self {
            Self::Rules => ("http1", local(ports.rules)),
            Self::Grpc => ("grpc", local(ports.grpc)),
            Self::Tcp => ("tcp", local(ports.sink)),
            Self::Connect => ("connect", local(ports.echo)),
            _ => ("http1", local(ports.http)),
        };
        let path = if self == Self::Http64k { "/64k" } else { "/1k" };
        let rate: &[&str] = if self.paced() { &["--rate", "1000"] } else { &[] };
        let flags = [&["--path", path, "--host", "web.bench"], rate].concat();
        run_load(mode, target, WARM_UP, &flags).await.context("warming up")?;
        let before = pair.map(Pair::usage).transpose()?;
        let report = run_load(mode, target, seconds, &flags).await?;
        let after = pair.map(Pair::usage).transpose()?;
        let spent = before.zip(after).map(|(mut before, after)| {
            before.outbound.cpu_ns = after.outbound.cpu_ns - before.outbound.cpu_ns;
            before.inbound.cpu_ns = after.inbound.cpu_ns - before.inbound.cpu_ns;
            before
        });
        Ok((report, spent))
    }

    fn figures(self, report: &Report, spent: Option<PairUsage>) -> Figures {
        let mut figures = Figures::new();
        if let Some(PairUsage { outbound, inbound }) = spent {
            let (outbound, inbound) = (outbound.cpu_ns as f64, inbound.cpu_ns as f64);
            if self == Self::Tcp {
                // Nanoseconds per byte are seconds per GB.
                figures.push(("cpu_s_per_gb", (outbound + inbound) / report.bytes as f64));
            } else {
                let per_request = |ns: f64| ns / 1e3 / report.requests as f64;
                figures.push(("cpu_us", per_request(outbound + inbound)));
                if self != Self::Connect {
                    figures.push(("cpu_us_outbound", per_request(outbound)));
                    figures.push(("cpu_us_inbound", per_request(inbound)));
                }
            }
        }
        match self {
            Self::Tcp => figures.push(("gb_per_s", report.bytes as f64 / 1e9 / report.seconds)),
            Self::Connect | Self::Memory | Self::CodecHttp1 | Self::TlsRecord => {}
            Self::Http1k | Self::Rules | Self::Http64k | Self::Grpc | Self::Paced => figures.push(("rps", report.rps)),
        }
        if self.paced() {
            let latencies = [("p50_us", report.p50_us), ("p99_us", report.p99_us), ("p999_us", report.p999_us)];
            figures.extend(latencies.map(|(name, us)| (name, us as f64)));
        }
        figures
    }
}

/// Runs `mesh-load` to its end. Its process dies with the future.
async fn run_load(mode: &str, target: SocketAddr, seconds: f64, flags: &[&str]) -> Result<Report> {
    let mut command = load_command(mode, target)?;
    command.args(["--seconds", &seconds.to_string()]).args(flags);
    let output = command.stdin(Stdio::null()).output().await.context("cannot start mesh-load")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mesh-load {mode} failed: {said}");
    let report: Report = serde_json::from_slice(&output.stdout).context("mesh-load printed no report")?;
    let Report { requests, errors, last_error, .. } = &report;
    if *requests == 0 || *errors > requests / TOLERATED {
        bail!("{errors} requests failed and {requests} did not; the last error: {last_error:?}");
    }
    Ok(report)
}

fn load_command(mode: &str, target: SocketAddr) -> Result<Command> {
    let mut command = Command::from(StdCommand::new(binary("mesh-load")?));
    command.args([mode, "--target", &target.to_string()]).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Memory of the outbound proxy: fresh, after load with 32 connections that are closed again, and with 2,000
/// connections that stay open after one request each.
async fn memory(pair: &mut Pair, seconds: f64) -> Result<Figures> {
    let idle = pair.usage()?.outbound;
    let target = local(pair.ports.http);
    run_load("http1", target, seconds, &["--host", "web.bench"]).await?;
    let after = pair.usage()?.outbound;
    let mut command = load_command("idle", target)?;
    command.args(["--connections", &MANY.to_string(), "--host", "web.bench"]);
    let mut load = command.stdin(Stdio::piped()).spawn().context("cannot start mesh-load")?;
    let mut line = String::new();
    let mut output = BufReader::new(load.stdout.take().context("no output of mesh-load")?);
    output.read_line(&mut line).await?;
    let many = pair.usage()?.outbound;
    drop(load.stdin.take());
    if line.trim() != "ready" {
        let mut said = String::new();
        load.stderr.take().context("no errors of mesh-load")?.read_to_string(&mut said).await?;
        bail!("mesh-load did not open {MANY} connections: {said}");
    }
    ensure!(load.wait().await?.success(), "mesh-load failed while it held {MANY} connections");
    Ok(vec![
        ("rss_idle_mib", idle.rss_kib as f64 / MIB),
        ("rss_after_mib", after.rss_kib as f64 / MIB),
        ("rss_2000_mib", many.rss_kib as f64 / MIB),
        ("anon_idle_mib", idle.anonymous_kib as f64 / MIB),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::harness::Usage;

    #[test]
    fn cases_are_found_by_name() {
        assert_eq!(Case::select(&[]).unwrap(), Case::all());
        assert_eq!(Case::select(&["tcp".to_owned()]).unwrap(), [Case::Tcp]);
        assert!(Case::select(&["nope".to_owned()]).unwrap_err().to_string().contains("http1_1k_c32"));
    }

    #[test]
    fn cost_is_divided_by_requests_or_bytes() {
        let spent = |ns| Usage { cpu_ns: ns, ..Usage::default() };
        let pair = PairUsage { outbound: spent(2_000_000), inbound: spent(1_000_000) };
        let report = Report { requests: 100, bytes: 3_000_000, seconds: 2.0, rps: 50.0, ..Report::default() };
        let figures = Case::Http1k.figures(&report, Some(pair));
        assert_eq!(figures, [("cpu_us", 30.0), ("cpu_us_outbound", 20.0), ("cpu_us_inbound", 10.0), ("rps", 50.0)]);
        assert_eq!(Case::Tcp.figures(&report, Some(pair))[0], ("cpu_s_per_gb", 1.0));
    }
}
