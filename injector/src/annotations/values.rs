//! Values of annotations: what each may be, and what it comes to.

use crate::{config::MAX_SHUTDOWN_GRACE_SECONDS, ports::PortList, quantity::Quantity};

pub(super) fn whole(text: &str, least: u32, most: u32) -> Result<u32, ()> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && (least..=most).contains(number)).ok_or(())
}

/// A duration of whole seconds.
pub(super) fn seconds(text: &str) -> Result<u32, ()> {
    let read = mesh_policy::duration::read(text).filter(|read| read.subsec_nanos() == 0).ok_or(())?;
    u32::try_from(read.as_secs()).ok().filter(|seconds| *seconds <= MAX_SHUTDOWN_GRACE_SECONDS).ok_or(())
}

/// Only looked at: `mesh-resources` has the same form, and says what it means.
pub(super) fn protocols(text: &str) -> Result<(), ()> {
    let is_known = |name: &str| ["http", "http2", "grpc", "tcp", "detect"].contains(&name);
    text.split(',').try_for_each(|part| match part.split_once('=') {
        Some((ports, name)) if is_known(name.trim()) => ports.parse::<PortList>().map(drop).map_err(drop),
        _ => Err(()),
    })
}

/// Amounts of a container by what they are of.
pub(super) type Amounts = std::collections::BTreeMap<String, Quantity>;

pub(super) fn copy(wanted: bool, resource: &str, to: &mut Amounts, from: &Amounts) {
    if let Some(amount) = from.get(resource).filter(|_| wanted) {
        to.insert(resource.to_owned(), amount.clone());
    }
}

pub(super) fn quantity(resources: &mut Amounts, name: &str, text: &str) -> Result<(), ()> {
    resources.insert(name.to_owned(), Quantity::parse(text).map_err(drop)?);
    Ok(())
}
