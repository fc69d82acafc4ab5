//! The policy of an outbound target.

use std::net::SocketAddr;

use mesh_policy::{OutboundPolicy, Protocol, Route, Target, route::RouteTable};

use super::{ConvertError, MAX_ROUTES, endpoint::address, list};
use crate::v1;

impl TryFrom<v1::OutboundPolicy> for OutboundPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::OutboundPolicy) -> Result<Self, ConvertError> {
        let target = match (wire.service, wire.endpoint, wire.unowned) {
            (Some(service), None, None) => {
                Target::Service(service.try_into().map_err(|e: ConvertError| e.within("service"))?)
            }
            (None, Some(endpoint), None) => {
                Target::Endpoint(endpoint.try_into().map_err(|e: ConvertError| e.within("endpoint"))?)
            }
            (None, None, Some(unowned)) => {
                let address = address("unowned.address", &unowned.address)?;
                if unowned.outside { Target::Outside(address) } else { Target::Unknown(address) }
            }
            (None, None, None) if wire.delta.is_some() => {
                return Err(ConvertError::new("delta", "a change, which only says something after what it changes"));
            }
            _ => {
                return Err(ConvertError::new("service", "exactly one of service, endpoint and unowned must be there"));
            }
        };
        let routes = list("routes", wire.routes, MAX_ROUTES, Route::try_from)?;
        Ok(Self { target, protocol: protocol(wire.protocol)?, routes: RouteTable::new(routes) })
    }
}

impl From<&OutboundPolicy> for v1::OutboundPolicy {
    fn from(model: &OutboundPolicy) -> Self {
        let unowned = |address: &SocketAddr, outside| Some(v1::Unowned { address: address.to_string(), outside });
        let (service, endpoint, unowned) = match &model.target {
            Target::Service(service) => (Some(service.into()), None, None),
            Target::Endpoint(endpoint) => (None, Some(endpoint.into()), None),
            Target::Outside(address) => (None, None, unowned(address, true)),
            Target::Unknown(address) => (None, None, unowned(address, false)),
        };
        Self {
            service,
            endpoint,
            protocol: v1::Protocol::from(model.protocol).into(),
            routes: model.routes.routes().iter().map(|route| (&**route).into()).collect(),
            unowned,
            ..Self::default()
        }
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(model: Protocol) -> Self {
        match model {
            Protocol::Detect => Self::Detect,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Opaque => Self::Opaque,
        }
    }
}

/// A protocol that this version knows.
pub(super) fn protocol(number: i32) -> Result<Protocol, ConvertError> {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Detect) => Ok(Protocol::Detect),
        Ok(v1::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Opaque) => Ok(Protocol::Opaque),
        Err(_) => Err(ConvertError::new("protocol", format_args!("{number} is not known to this version"))),
    }
}
