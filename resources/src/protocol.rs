//! What ports speak where annotations say so, which goes before `appProtocol`: `opaque-ports` of the mesh lists ports whose
//! bytes pass unread, `protocol` says it of each port.

use mesh_policy::{
    Protocol,
    well_known::{OPAQUE_PORTS_ANNOTATION, PROTOCOL_ANNOTATION},
};

use crate::{
    problem::Report,
    service::{MAX_RANGES, port_range, port_ranges},
    walker::Node,
};

/// What [`PROTOCOL_ANNOTATION`] may say; the names of `appProtocol`, and one to take that back.
const NAMES: [(&str, Protocol); 5] = [
    ("http", Protocol::Http1),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Http2),
    ("tcp", Protocol::Opaque),
    ("detect", Protocol::Detect),
];

/// What the annotations of one object say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Ranges of ports and what they speak; the first that holds a port counts.
    ranges: Vec<(u16, u16, Protocol)>,
}

impl Declared {
    /// Reads them. What is malformed is left out.
    pub(crate) fn of(root: &Node<'_>, report: &mut Report<'_>) -> Self {
        let mut ranges = Vec::new();
        let annotations = root.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let text = annotations.as_ref().and_then(|all| Some((all, all.text(PROTOCOL_ANNOTATION, report).ok()??)));
        for (all, part) in text.into_iter().flat_map(|(all, text)| text.split(',').map(move |part| (all, part.trim())))
        {
            match read(part) {
                _ if part.is_empty() => {}
                Some(range) => ranges.push(range),
                None => {
                    let what = format!("{part:?} does not say what a port speaks; it is left out");
                    let fix = "write PORT=http, http2, grpc, tcp or detect, as in 8080=http2,9000-9010=tcp";
                    all.unsupported(PROTOCOL_ANNOTATION, what, fix, report);
                }
            }
        }
        let opaque = port_ranges(root, OPAQUE_PORTS_ANNOTATION, report);
        ranges.extend(opaque.into_iter().map(|(low, high)| (low, high, Protocol::Opaque)));
        if let (true, Some(annotations)) = (ranges.len() > MAX_RANGES, annotations) {
            let what = format!("{} ranges are written; the first {MAX_RANGES} count", ranges.len());
            let _ = annotations.too_large(PROTOCOL_ANNOTATION, what, "write fewer and wider ranges", report);
            ranges.truncate(MAX_RANGES);
        }
        Self { ranges }
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.ranges)
    }

    /// Ranges of ports of which they say something, in no order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        self.ranges.iter().map(|(low, high, _)| (*low, *high))
    }

    /// What they say of a port.
    pub fn get(&self, port: u16) -> Option<Protocol> {
        self.ranges.iter().find(|(low, high, _)| (*low..=*high).contains(&port)).map(|(_, _, protocol)| *protocol)
    }
}

/// What a port speaks to which several Services lead, or several of their ports: what they say, if they agree. One that
/// says nothing does not take back what another declares of requests; one that speaks of bytes does.
pub(crate) fn agreed(protocols: impl Iterator<Item = Protocol>) -> Protocol {
    let mut agreed = None;
    for protocol in protocols {
        agreed = Some(match (agreed, protocol) {
            (None, one) => one,
            (Some(one), other) if one == other => one,
            // Either version of HTTP is served where requests are.
            (
                Some(http @ (Protocol::Http1 | Protocol::Http2)),
                Protocol::Detect | Protocol::Http1 | Protocol::Http2,
            )
            | (Some(Protocol::Detect), http @ (Protocol::Http1 | Protocol::Http2)) => http,
            _ => return Protocol::Detect,
        });
    }
    agreed.unwrap_or_default()
}

/// `8080=http2` or `9000-9010=tcp`.
fn read(part: &str) -> Option<(u16, u16, Protocol)> {
    let (ports, name) = part.split_once('=')?;
    let (low, high) = port_range(ports)?;
    let (_, protocol) = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()))?;
    Some((low, high, *protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_declared_if_one_says_so_and_none_says_bytes() {
        use Protocol::{Detect, Http1, Http2, Opaque};
        for (said, expected) in [
            (&[][..], Detect),
            (&[Http2], Http2),
            (&[Opaque, Opaque], Opaque),
            (&[Detect, Http1, Detect], Http1),
            (&[Http1, Http2, Detect], Http1),
            (&[Opaque, Detect], Detect),
            (&[Detect, Opaque], Detect),
            (&[Http1, Opaque], Detect),
            (&[Opaque, Http1, Http1], Detect),
        ] {
            assert_eq!(agreed(said.iter().copied()), expected, "{said:?}");
        }
    }

    #[test]
    fn a_part_is_ports_and_a_name() {
        for (part, expected) in [
            ("8080=http", Some((8080, 8080, Protocol::Http1))),
            (" 8080 = GRPC", Some((8080, 8080, Protocol::Http2))),
            ("9000-9010=tcp", Some((9000, 9010, Protocol::Opaque))),
            ("1=detect", Some((1, 1, Protocol::Detect))),
            ("8080", None),
            ("0=tcp", None),
            ("2-1=tcp", None),
            ("8080=smtp", None),
            ("70000=tcp", None),
        ] {
            assert_eq!(read(part), expected, "{part}");
        }
    }
}
