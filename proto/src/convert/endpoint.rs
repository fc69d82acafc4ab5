//! Services and endpoints, and the deltas of a backend's endpoints.

use std::net::SocketAddr;

use mesh_policy::{Endpoint, Identity, ServiceRef};

use super::{ConvertError, MAX_ENDPOINTS, label, list, name, port};
use crate::v1;

impl TryFrom<v1::ServiceRef> for ServiceRef {
    type Error = ConvertError;

    fn try_from(wire: v1::ServiceRef) -> Result<Self, ConvertError> {
        let cluster = match wire.cluster.as_str() {
            "" => None,
            cluster => Some(name("cluster", cluster)?),
        };
        Ok(Self {
            cluster,
            namespace: name("namespace", &wire.namespace)?,
            name: name("name", &wire.name)?,
            port: port("port", wire.port)?,
        })
    }
}

impl From<&ServiceRef> for v1::ServiceRef {
    fn from(model: &ServiceRef) -> Self {
        Self {
            cluster: model.cluster.as_deref().unwrap_or_default().to_owned(),
            namespace: model.namespace.to_string(),
            name: model.name.to_string(),
            port: model.port.into(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = ConvertError;

    fn try_from(wire: v1::Endpoint) -> Result<Self, ConvertError> {
        let identity = match wire.identity.as_str() {
            "" => None,
            text => Some(Identity::parse(text).map_err(|e| ConvertError::new("identity", e))?),
        };
        let zone = match wire.zone.as_str() {
            "" => None,
            text => Some(label("zone", text)?),
        };
        Ok(Self {
            address: address("address", &wire.address)?,
            identity,
            zone,
            workload: label("workload", &wire.workload)?,
            controlled_by: label("controlled_by", &wire.controlled_by)?,
        })
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(model: &Endpoint) -> Self {
        Self {
            address: model.address.to_string(),
            identity: model.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            zone: model.zone.as_deref().unwrap_or_default().to_owned(),
            workload: model.workload.to_string(),
            controlled_by: model.controlled_by.to_string(),
        }
    }
}

/// One step in the life of a backend's endpoints, as the model sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointsDelta {
    /// Forget what came before.
    pub reset: bool,
    /// Endpoints that are new or changed.
    pub add: Vec<Endpoint>,
    /// Addresses that left.
    pub remove: Vec<SocketAddr>,
    /// The version of the controller's index that this reflects.
    pub version: u64,
}

impl TryFrom<v1::EndpointsUpdate> for EndpointsDelta {
    type Error = ConvertError;

    fn try_from(wire: v1::EndpointsUpdate) -> Result<Self, ConvertError> {
        Ok(Self {
            reset: wire.reset,
            add: list("add", wire.add, MAX_ENDPOINTS, Endpoint::try_from)?,
            remove: list("remove", wire.remove, MAX_ENDPOINTS, |text| address("", &text))?,
            version: wire.version,
        })
    }
}

impl From<&EndpointsDelta> for v1::EndpointsUpdate {
    fn from(model: &EndpointsDelta) -> Self {
        Self {
            reset: model.reset,
            add: model.add.iter().map(Into::into).collect(),
            remove: model.remove.iter().map(ToString::to_string).collect(),
            version: model.version,
            changed: None,
            seen: None,
        }
    }
}

/// `ip:port` with a port that can be dialled.
pub(super) fn address(field: &str, text: &str) -> Result<SocketAddr, ConvertError> {
    text.parse::<SocketAddr>()
        .ok()
        .filter(|address| address.port() != 0)
        .ok_or_else(|| ConvertError::new(field, "not ip:port"))
}
