//! Mirrors. A backend that cannot be served gets no copies, and changes nothing for the requests themselves.

use mesh_policy::ServiceRef;

use crate::{
    backend::decode_service_ref,
    problem::{Place, Report},
    walker::{Invalid, Node},
};

/// What follows from a mirror's backend that cannot be served.
pub(crate) const NO_COPY: &str = "no copy is sent, the requests themselves go on";
/// Largest part of a fraction (Gateway API, `Fraction`: int32).
const MAX_FRACTION: u32 = i32::MAX as u32;
/// What a fraction is a part of unless said.
const PERCENT: u32 = 100;

/// A decoded `requestMirror`.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorObject {
    /// Where the copies go; or why that cannot be served.
    pub service: Result<ServiceRef, String>,
    /// Of `denominator` requests this many are copied.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
    /// Where the reference is.
    pub place: Place,
}

/// Decodes `requestMirror`.
pub(super) fn decode(body: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> Result<MirrorObject, Invalid> {
    body.only(&["backendRef", "percent", "fraction"], report)?;
    let (numerator, denominator) = decode_part(body, report)?;
    let Some(reference) = body.object("backendRef", report)? else {
        return Err(body.invalid("backendRef", "`backendRef` is required".to_owned(), "write it", report));
    };
    reference.only(&["group", "kind", "namespace", "name", "port"], report)?;
    let mark = report.mark();
    let service = decode_service_ref(&reference, namespace, report)
        .unwrap_or_else(|Invalid| Err(format!("{} cannot be understood", reference.path)));
    report.effect(mark, NO_COPY);
    Ok(MirrorObject { service, numerator, denominator, place: report.place(&reference.path) })
}

fn decode_part(body: &Node<'_>, report: &mut Report<'_>) -> Result<(u32, u32), Invalid> {
    let percent = body.integer("percent", 0..=PERCENT, report)?;
    let Some(fraction) = body.object("fraction", report)? else { return Ok((percent.unwrap_or(PERCENT), PERCENT)) };
    if percent.is_some() {
        let what = "`percent` and `fraction` are both given".to_owned();
        return Err(body.invalid("fraction", what, "write one of them", report));
    }
    fraction.only(&["numerator", "denominator"], report)?;
    let denominator = fraction.integer("denominator", 1..=MAX_FRACTION, report)?.unwrap_or(PERCENT);
    let Some(numerator) = fraction.integer("numerator", 0..=MAX_FRACTION, report)? else {
        return Err(fraction.invalid("numerator", "`numerator` is required".to_owned(), "write it", report));
    };
    if numerator > denominator {
        let what = format!("numerator is {numerator}, more than the denominator, which is {denominator}");
        return Err(fraction.invalid("numerator", what, "write at most the denominator", report));
    }
    Ok((numerator, denominator))
}
