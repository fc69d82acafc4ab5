//! The controller as a proxy sees it: real TLS, real gRPC, a real folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod callers;
mod policies;

use mesh_policy::{BackendTarget, OutboundPolicy};
use mesh_proto::v1::{self, policy_client::PolicyClient};
use tonic::{Code, Request, transport::Channel};

fn ask(target: &str, workload: &str) -> Request<v1::OutboundRequest> {
    Request::new(v1::OutboundRequest {
        target: target.into(),
        workload: workload.into(),
        deltas: false,
        unowned: false,
    })
}

fn web() -> v1::EndpointsRequest {
    let service = v1::ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80, ..Default::default() };
    v1::EndpointsRequest { service: Some(service), workload: "shop/client".into() }
}

fn weights(wire: v1::OutboundPolicy) -> Vec<(String, u32)> {
    let policy = OutboundPolicy::try_from(wire).unwrap();
    let rule = &policy.routes.routes()[0].rules[0];
    rule.backends
        .iter()
        .map(|backend| match &backend.target {
            BackendTarget::Service(service) => (service.to_string(), backend.weight),
            BackendTarget::Invalid { reason } => panic!("{reason}"),
        })
        .collect()
}

async fn code_of(channel: Channel, target: &str, workload: &str) -> Code {
    PolicyClient::new(channel).outbound(ask(target, workload)).await.map(|_| ()).unwrap_err().code()
}
