//! The policy of a server's port.

use mesh_policy::{Access, Identity, InboundPolicy};

use super::{ConvertError, MAX_IDENTITIES, label, list, outbound};
use crate::v1::{self, access::Kind};

impl TryFrom<v1::InboundPolicy> for InboundPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::InboundPolicy) -> Result<Self, ConvertError> {
        // Absent access is refused, never read as "all": a message that lost a field must not open a port.
        let access = wire.access.ok_or_else(|| ConvertError::new("access", "absent"))?;
        let access_name = match wire.access_name.as_str() {
            "" => None,
            text => Some(label("access_name", text)?),
        };
        Ok(Self {
            protocol: outbound::protocol(wire.protocol)?,
            access: access.try_into().map_err(|e: ConvertError| e.within("access"))?,
            access_name,
            requires_http: wire.requires_http,
            has_request_routes: wire.has_request_routes,
        })
    }
}

impl From<&InboundPolicy> for v1::InboundPolicy {
    fn from(model: &InboundPolicy) -> Self {
        Self {
            protocol: v1::Protocol::from(model.protocol).into(),
            access: Some((&model.access).into()),
            access_name: model.access_name.as_deref().unwrap_or_default().to_owned(),
            requires_http: model.requires_http,
            has_request_routes: model.has_request_routes,
        }
    }
}

impl TryFrom<v1::Access> for Access {
    type Error = ConvertError;

    fn try_from(wire: v1::Access) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(Kind::All(true)) => Ok(Self::All),
            Some(Kind::Authenticated(true)) => Ok(Self::Authenticated),
            Some(Kind::None(true)) => Ok(Self::None),
            Some(Kind::Only(only)) => {
                let parse = |id: String| Identity::parse(&id).map_err(|e| ConvertError::new("", e));
                list("only.spiffe_ids", only.spiffe_ids, MAX_IDENTITIES, parse).map(Self::Only)
            }
            Some(Kind::All(false) | Kind::Authenticated(false) | Kind::None(false)) => {
                Err(ConvertError::new("kind", "a kind that says false says nothing"))
            }
            None => Err(ConvertError::new("kind", "an access that this version does not know")),
        }
    }
}

impl From<&Access> for v1::Access {
    fn from(model: &Access) -> Self {
        let kind = match model {
            Access::All => Kind::All(true),
            Access::Authenticated => Kind::Authenticated(true),
            Access::Only(ids) => {
                Kind::Only(v1::Identities { spiffe_ids: ids.iter().map(ToString::to_string).collect() })
            }
            Access::None => Kind::None(true),
        };
        Self { kind: Some(kind) }
    }
}
