//! HTTP: the servers that face applications and peers, the exchange of one request, and the clients behind it.
//!
//! Reading order: [`server`] (a connection becomes requests), [`outbound`] and [`inbound`] (one
//! request, every phase), `attempt` (one of its attempts), [`client`] (a request on an upstream connection). [`h1`] and [`h2`] are the two framings, [`headers`] the
//! rules of forwarding.

pub(crate) mod answer;
pub(crate) mod app_places;
mod attempt;
pub(crate) mod body;
pub(crate) mod client;
mod deadline;
pub(crate) mod frame_guard;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod headers;
mod hpack_text;
mod idle_h1;
pub(crate) mod in_flight;
pub(crate) mod inbound;
mod judge;
mod local_reply;
pub(crate) mod mirror;
mod mirror_body;
pub(crate) mod mirrored;
pub(crate) mod outbound;
mod path_watch;
pub(crate) mod pool;
pub(crate) mod replay;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod settings;
mod upgrade;

use std::{cell::RefCell, rc::Rc};

use ::h2::server::SendResponse;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};

pub(crate) use body::Body;
pub(crate) use judge::refusal;

use crate::record::Record;

/// One request on its way in.
pub(crate) struct Incoming {
    /// Head and body as received.
    pub request: Request<Body>,
    /// Where interim responses go.
    pub interim: Interim,
    /// What becomes of it.
    pub(crate) record: Rc<Record>,
}

/// What goes back.
pub(crate) struct Reply {
    /// Head and body.
    pub response: Response<Body>,
    /// What takes over the connection after a 101, or a 2xx to CONNECT.
    pub upgrade: Option<Upgrade>,
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self { response, upgrade: None }
    }
}

/// Takes over a connection that stopped speaking HTTP: with its entry its place among those that are open, and with its record what
/// is told of it in the end.
pub(crate) type Upgrade = Box<dyn FnOnce(Box<dyn crate::io::Io>, Rc<crate::connections::Entry>, Rc<Record>)>;

/// Sends 1xx responses towards the client (RFC 9110 section 15.2).
#[derive(Clone)]
pub(crate) enum Interim {
    /// The client cannot take any.
    None,
    /// An HTTP/1.1 client.
    H1(h1::Interim),
    /// An HTTP/2 client.
    H2(Rc<RefCell<SendResponse<Bytes>>>),
}

impl Interim {
    /// Sends one, as far as the client can take it: without `mesh-*` fields, for none of ours travel in it, without those
    /// of the connection that it came on, which would make it malformed in HTTP/2, and without a length, for it has no
    /// content (RFC 9110 section 8.6). 101 is no news but a switch, and never goes this way. A failure shows again when the
    /// final response is sent.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        if matches!(self, Self::None) || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let mut headers = headers.clone();
        headers::strip_mesh(&mut headers);
        headers::strip_hop_by_hop(&mut headers);
        for name in [header::CONTENT_LENGTH, header::TE, header::TRAILER] {
            headers.remove(name);
        }
        match self {
            Self::None => {}
            Self::H1(interim) => drop(interim.send(status, &headers)),
            Self::H2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                if let Err(error) = respond.borrow_mut().send_informational(response) {
                    tracing::debug!("interim response {status}: {error}");
                }
            }
        }
    }
}
