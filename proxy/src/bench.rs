//! What is our own in this proxy and not a library's, doing the same work as the library that the field has for it: HTTP/1
//! beside hyper, TLS records beside tokio-rustls. `cargo xtask bench` runs it, as `mesh-parts`; it is in no product.
//!
//! It does one thing of one side for some time, and says what that cost. Rounds, turns and ratios are `mesh-bench`'s.

mod http1;
mod tls;

use std::{error::Error, io, process::ExitCode, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Builder, task::LocalSet};

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// This proxy's own code.
    Mesh,
    /// hyper, or tokio-rustls.
    Library,
}

/// The end of an HTTP connection that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Requests over HTTP/1. Costs the processor time of one, in microseconds.
    Http1(Role),
    /// Bytes through a connection, in writes of so many. Costs the processor time of a MiB, in microseconds.
    Tls(usize),
}

/// `mesh-parts mesh|library SECONDS http1-server|http1-client|tls BYTES`: it is started by `mesh-bench` alone, and so explains
/// nothing.
pub fn main_from_args(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    match parse(&args).and_then(|(side, work, time)| Ok(run(side, work, time)?)) {
        Ok(cost) => {
            println!("{cost}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mesh-parts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<(Side, Work, Duration), Box<dyn Error>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [side, seconds, work @ ..] = args.as_slice() else {
        return Err("a side, seconds and a work are needed".into());
    };
    let side = match *side {
        "mesh" => Side::Mesh,
        "library" => Side::Library,
        _ => return Err(format!("unknown side {side}").into()),
    };
    let work = match work {
        ["http1-server"] => Work::Http1(Role::Server),
        ["http1-client"] => Work::Http1(Role::Client),
        ["tls", bytes] => Work::Tls(bytes.parse()?),
        _ => return Err(format!("unknown work {work:?}").into()),
    };
    Ok((side, work, Duration::try_from_secs_f64(seconds.parse()?)?))
}

/// What it costs, on one thread, as a worker of the proxy.
fn run(side: Side, work: Work, time: Duration) -> io::Result<f64> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match work {
            Work::Http1(role) => http1::cost(side, role, time).await,
            Work::Tls(bytes) => tls::cost(side, bytes, time).await,
        }
    })
}

/// Processor time of this process so far, in microseconds.
fn cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// An error of whatever is measured, as one of the connection.
fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_sides_do_all_work() {
        for side in [Side::Mesh, Side::Library] {
            for work in [Work::Http1(Role::Server), Work::Http1(Role::Client), Work::Tls(1024), Work::Tls(64 << 10)] {
                let cost = run(side, work, Duration::from_millis(50)).unwrap();
                assert!(cost > 0.0 && cost.is_finite(), "{work:?} of {side:?} costs {cost}");
            }
        }
    }

    #[test]
    fn arguments_say_side_time_and_work() {
        let parsed = |args: &str| parse(&args.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let half_a_second = Duration::from_millis(500);
        assert_eq!(parsed("mesh 0.5 tls 1024").unwrap(), (Side::Mesh, Work::Tls(1024), half_a_second));
        assert_eq!(parsed("library 0.5 http1-client").unwrap().1, Work::Http1(Role::Client));
        for wrong in ["library", "envoy 1 http1-client", "mesh now http1-server", "mesh 1 http1"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
