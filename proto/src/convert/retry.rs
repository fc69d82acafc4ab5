//! Retries and sessions of a rule.

use http::Method;
use mesh_policy::{Retry, RetryBudget, RetryMethods, SessionCarrier, SessionPersistence};

use super::{
    ConvertError, MAX_LIST, MAX_RETRIES,
    filter::header_name,
    list,
    route::{timeout, wire_duration},
};
use crate::v1;

/// Statuses and codes of a rule.
const MAX_CODES: usize = 1_000;

impl TryFrom<v1::Retry> for Retry {
    type Error = ConvertError;

    fn try_from(wire: v1::Retry) -> Result<Self, ConvertError> {
        if !(1..=MAX_RETRIES).contains(&wire.attempts) {
            return Err(ConvertError::new("attempts", format_args!("not a number from 1 to {MAX_RETRIES}")));
        }
        let status = |code: u32| {
            u16::try_from(code).ok().filter(|code| (100..=999).contains(code)).ok_or_else(|| not_a_code("", code))
        };
        let grpc = |code: u32| u8::try_from(code).map_err(|_| not_a_code("", code));
        let methods = list("methods", wire.methods, MAX_LIST, |name| {
            Method::try_from(name.as_str()).map_err(|e| ConvertError::new("", e))
        })?;
        let backoff = timeout("backoff", wire.backoff)?.unwrap_or_default();
        Ok(Self {
            attempts: wire.attempts,
            backoff,
            max_backoff: timeout("max_backoff", wire.max_backoff)?.unwrap_or_default().max(backoff),
            statuses: list("statuses", wire.statuses, MAX_CODES, status)?,
            grpc_codes: list("grpc_codes", wire.grpc_codes, MAX_CODES, grpc)?,
            on_no_response: wire.on_no_response,
            methods: if methods.is_empty() { RetryMethods::Idempotent } else { RetryMethods::Also(methods) },
            budget: RetryBudget { percent: wire.budget_percent, min_per_second: wire.budget_min_per_second },
        })
    }
}

fn not_a_code(field: &str, code: u32) -> ConvertError {
    ConvertError::new(field, format_args!("{code} is not a code"))
}

impl From<&Retry> for v1::Retry {
    fn from(model: &Retry) -> Self {
        Self {
            attempts: model.attempts,
            backoff: Some(wire_duration(model.backoff)),
            max_backoff: Some(wire_duration(model.max_backoff)),
            statuses: model.statuses.iter().map(|code| u32::from(*code)).collect(),
            grpc_codes: model.grpc_codes.iter().map(|code| u32::from(*code)).collect(),
            on_no_response: model.on_no_response,
            methods: match &model.methods {
                RetryMethods::Idempotent => Vec::new(),
                RetryMethods::Also(listed) => listed.iter().map(ToString::to_string).collect(),
            },
            budget_percent: model.budget.percent,
            budget_min_per_second: model.budget.min_per_second,
        }
    }
}

impl TryFrom<v1::SessionPersistence> for SessionPersistence {
    type Error = ConvertError;

    fn try_from(wire: v1::SessionPersistence) -> Result<Self, ConvertError> {
        let carrier = match v1::SessionCarrier::try_from(wire.carrier) {
            Ok(v1::SessionCarrier::SessionCookie) => SessionCarrier::SessionCookie,
            Ok(v1::SessionCarrier::PermanentCookie) => SessionCarrier::PermanentCookie,
            Ok(v1::SessionCarrier::Header) => SessionCarrier::Header,
            Err(_) => {
                return Err(ConvertError::new(
                    "carrier",
                    format_args!("{} is not known to this version", wire.carrier),
                ));
            }
        };
        // A cookie's name is a token, as a header's is (RFC 6265 section 4.1.1); unlike that it keeps its case.
        header_name("name", &wire.name)?;
        Ok(Self {
            name: wire.name.into(),
            carrier,
            absolute_timeout: timeout("absolute_timeout", wire.absolute_timeout)?,
            path: (!wire.path.is_empty()).then(|| wire.path.into()),
            keeps_backend: wire.keeps_backend,
        })
    }
}

impl From<&SessionPersistence> for v1::SessionPersistence {
    fn from(model: &SessionPersistence) -> Self {
        let carrier = match model.carrier {
            SessionCarrier::SessionCookie => v1::SessionCarrier::SessionCookie,
            SessionCarrier::PermanentCookie => v1::SessionCarrier::PermanentCookie,
            SessionCarrier::Header => v1::SessionCarrier::Header,
        };
        Self {
            name: model.name.to_string(),
            carrier: carrier.into(),
            absolute_timeout: model.absolute_timeout.map(wire_duration),
            path: model.path.as_deref().unwrap_or_default().to_owned(),
            keeps_backend: model.keeps_backend,
        }
    }
}
