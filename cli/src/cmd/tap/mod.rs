//! `meshctl tap`: the requests and connections of pods while they pass, as their sidecars tell them.
//!
//! It asks `/tap` of sidecars through port-forwards, with the rights of whoever runs it, and needs nothing else of the API server
//! where a pod is named. What comes from there is text to it: nothing of that is obeyed by a terminal (`words`).

mod follow;
mod row;
mod sidecars;
#[cfg(test)]
mod tests;
mod words;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser, ValueParser},
    value_parser,
};
use mesh_policy::{Class, access_log::Attributes};

use self::row::Printer;
use crate::{
    authorization::{Named, named},
    globals::Globals,
    kube::encode,
    output::{Format, JSON, Style, formats},
};

/// Arguments of `meshctl tap`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl tap deploy/web -n shop
  meshctl tap pod/web-0 -n shop --path /cart --status 5xx
  meshctl tap svc/web -n shop --from deploy/front --max 10 -o json
  meshctl tap deploy/front -n shop --to shop/web --class failure -o wide
  meshctl tap deploy/web -n shop --attributes url.query,http.request.header.x-user
  meshctl tap pod/client --demo DIR

It follows until Ctrl-C. In a namespace it needs the permission for pods/portforward; and to read pods and the workload, unless a
pod is named. Queries and headers may have secrets in them, so they are shown only where --attributes names them.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    /// Whose requests: deploy/NAME, svc/NAME and the like, pod/NAME, NAME of a pod or NAMESPACE/NAME of one
    #[arg(value_name = "TARGET", required_unless_present_any = ["demo", "at"], conflicts_with = "at")]
    target: Option<String>,
    /// Only its calls to: KIND/NAME, NAMESPACE/NAME, NAMESPACE or spiffe://...
    #[arg(long, value_name = "PEER", conflicts_with = "from")]
    to: Option<String>,
    /// Only calls to it from: KIND/NAME, NAMESPACE/NAME, NAMESPACE or spiffe://...
    #[arg(long, value_name = "PEER")]
    from: Option<String>,
    /// Only requests whose path begins so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests with this status, as in 404 or 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only what ended so
    #[arg(long, value_name = "CLASS", value_parser = classes())]
    class: Option<String>,
    /// Events a second of one sidecar, at most; others are skipped and counted
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Shows these too: url.query, http.request.header.NAME
    #[arg(long, value_name = "NAMES", value_parser = ValueParser::new(Attributes::read), default_value = "", hide_default_value = true)]
    attributes: Attributes,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// The folder of a demo that runs (its --dir), instead of a cluster
    #[arg(long, value_name = "DIR", conflicts_with = "at")]
    demo: Option<PathBuf>,
    /// The local port of a sidecar, instead of a cluster; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    at: Vec<SocketAddr>,
    /// How to print events
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 3] =
    [(Format::Table, "A line for each event"), (Format::Wide, "As table, with pods, routes, errors and bytes"), JSON];

fn classes() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(Class::ALL.map(Class::as_str))
}

/// Follows until Ctrl-C, or so many events.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let found = sidecars::find(args, globals).await?;
        let query = query(args, found.namespace());
        let printer = Printer::new(args.output, args.attributes.names(), Style::stdout());
        follow::follow(found, &query, args.max, &printer).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The page with what is asked for. `namespace`: of names without one.
fn query(args: &Args, namespace: &str) -> String {
    let mut pairs = vec![("rate", args.rate.to_string())];
    let other = args.to.as_ref().map(|to| ("outbound", to)).or(args.from.as_ref().map(|from| ("inbound", from)));
    if let Some((direction, peer)) = other {
        pairs.extend([("direction", direction.to_owned()), ("peer", peer_of(peer, namespace))]);
    }
    let words = [("path", &args.path), ("method", &args.method), ("status", &args.status), ("class", &args.class)];
    pairs.extend(words.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let attributes = args.attributes.names();
    if !attributes.is_empty() {
        pairs.push(("attributes", attributes.join(",")));
    }
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    format!("/tap?{}", pairs.join("&"))
}

/// Who is on the other side, as a sidecar takes it.
fn peer_of(text: &str, namespace: &str) -> String {
    match (text.split_once('/'), named(text)) {
        (Some(("svc" | "service" | "services", name)), _) => format!("{namespace}/{name}"),
        (Some(("ns" | "namespace" | "namespaces", name)), _) => name.to_owned(),
        (_, Named::Workload { name, .. }) => format!("{namespace}/{name}"),
        // web.shop, as clients call a Service.
        (None, _) => match text.split_once('.') {
            Some((name, namespace)) => format!("{}/{name}", namespace.trim_end_matches(".svc")),
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}
