//! A probe by `Check` of grpc.health.v1, in plain text as kubelet's.

use std::io;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{MAX_ANSWER, application::Application, http_get::authority, with_causes};
use crate::config;

/// The method, as it is called.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Characters of the application's own words that are passed on.
const MAX_WORDS: usize = 200;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// What the application said if it was not that it serves.
pub(super) async fn check(application: &Application, port: u16, check: &config::Grpc) -> io::Result<Option<String>> {
    let tcp = TokioIo::new(application.connect(port).await?);
    // It is asked for one connection, which is this one.
    let mut tcp = Some(tcp);
    let only = service_fn(move |_| {
        let tcp = tcp.take().ok_or_else(|| io::Error::other("the connection broke off"));
        async move { tcp }
    });
    let address = format!("http://{}", authority(application.ip(), port));
    let endpoint = Endpoint::from_shared(address).and_then(|endpoint| endpoint.user_agent(super::USER_AGENT));
    let channel = endpoint.map_err(with_causes)?.connect_with_connector(only).await.map_err(with_causes)?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(with_causes)?;
    let request = Request::new(HealthCheckRequest { service: check.service.clone().unwrap_or_default() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client.unary(request, PathAndQuery::from_static(CHECK), codec).await;
    Ok(match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => None,
        Ok(status) => Some(format!("{status:?}")),
        Err(status) => {
            let words: String = status.message().chars().take(MAX_WORDS).collect();
            Some(format!("{:?} ({words})", status.code()))
        }
    })
}
